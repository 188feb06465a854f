//! Documented by utoipa: the description comes from attributes of the handlers.

use axum::extract::Path;
use axum::{Json, Router};
use serde::Serialize;
use tidegate::{Cache, PolicyError};
use utoipa::ToSchema;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What `/shop/products/{id}` responds with.
#[derive(Serialize, ToSchema)]
struct Product {
    id: u32,
}

#[utoipa::path(get, path = "/products/{id}", params(("id" = u32, Path)), responses((status = OK, body = Product)))]
async fn product(Path(id): Path<u32>) -> Json<Product> {
    Json(Product { id })
}

/// The service and its description. The layer is put around the router that nests the others, so its patterns are whole
/// paths.
pub fn app(cache: Cache) -> Result<(Router, OpenApi), PolicyError> {
    let shop = OpenApiRouter::new().routes(routes!(product));
    let documented = OpenApiRouter::new().nest("/shop", shop).layer(crate::layer(cache)?);
    Ok(documented.split_for_parts())
}
