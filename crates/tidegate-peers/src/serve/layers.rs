//! Other layers over memory.

use std::convert::Infallible;

use axum::Router;
use axum::error_handling::HandleError;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Request, Response, StatusCode};
use axum_response_cache::CacheLayer as ResponseCacheLayer;
use bytes::Bytes;
use http_body_util::Full;
use tower::{Layer, service_fn};
use tower_http_cache::CacheLayer;
use tower_http_cache::backend::memory::InMemoryBackend;

use super::origin::{self, Runs};
use super::{ENTRIES, ITEM, TTL};

/// It takes no body that can't be shared, as axum's can't, and has errors, as axum's handlers have not: what is behind
/// it is a service of tower, and its errors are made answers.
pub(super) fn tower_http_cache(runs: &Runs) -> Router {
    let layer = CacheLayer::builder(InMemoryBackend::new(ENTRIES)).ttl(TTL).build();
    let (runs, body) = (runs.clone(), Bytes::from(origin::body()));
    let origin = service_fn(move |_: Request<axum::body::Body>| {
        runs.note();
        let mut response = Response::new(Full::new(body.clone()));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        async { Ok::<_, Infallible>(response) }
    });
    let service = HandleError::new(layer.layer(origin), async |_| StatusCode::BAD_GATEWAY);
    Router::new().route_service(ITEM, service)
}

/// Its cache has no bound but time, as in its documentation.
pub(super) fn axum_response_cache(runs: &Runs) -> Router {
    let layer = ResponseCacheLayer::with_lifespan(TTL);
    Router::new().route(ITEM, origin::handler(runs).layer(layer))
}
