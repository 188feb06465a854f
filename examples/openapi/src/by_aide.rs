//! Documented by aide: the description comes from the handlers' types.

use aide::axum::ApiRouter;
use aide::axum::routing::get;
use aide::openapi::OpenApi;
use axum::extract::Path;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tidegate::{Cache, PolicyError};

/// The parameters of the path, which aide documents by name.
#[derive(Deserialize, JsonSchema)]
struct ProductPath {
    id: u32,
}

/// What `/shop/products/{id}` responds with.
#[derive(Serialize, JsonSchema)]
struct Product {
    id: u32,
}

async fn product(Path(ProductPath { id }): Path<ProductPath>) -> Json<Product> {
    Json(Product { id })
}

/// The service and its description. The layer is put around the router that nests the others, so its patterns are whole
/// paths.
pub fn app(cache: Cache) -> Result<(Router, OpenApi), PolicyError> {
    let shop = ApiRouter::new().api_route("/products/{id}", get(product));
    let mut description = OpenApi::default();
    let app = ApiRouter::new()
        .nest("/shop", shop)
        .layer(crate::layer(cache)?)
        .finish_api(&mut description);
    Ok((app, description))
}
