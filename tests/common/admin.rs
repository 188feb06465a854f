//! The operators' page of a service without servers.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::get;
use serde_json::Value;
use tidegate::{Cache, CacheLayer, Memory, Policy};

use super::{read, send};

pub(crate) fn policy() -> Policy {
    Policy::ttl(Duration::from_mins(1)).early_refresh(0.0).jitter(0.0)
}

/// A service that needs no server, and its layer.
pub(crate) fn greeting(policy: Policy) -> (Router, CacheLayer) {
    let layer = CacheLayer::new(Cache::new(Memory::new(1 << 20))).route("/hello", policy);
    let app = Router::new().route("/hello", get(async || "hello")).layer(layer.clone());
    (app, layer)
}

pub(crate) async fn json(app: &Router, uri: &str) -> Value {
    let response = send(app, Request::get(uri).body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK, "{uri}");
    serde_json::from_str(&read(response).await.0).unwrap()
}

/// Sends a change with these headers.
pub(crate) async fn change(
    app: &Router,
    uri: &str,
    headers: &[(&str, &str)],
    body: &Value,
) -> Response<Body> {
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header(CONTENT_TYPE, "application/json");
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    send(app, request.body(Body::from(body.to_string())).unwrap()).await
}
