//! The cached route is in the description, and its second response is a hit.

#![allow(clippy::unwrap_used)]

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use serde::Serialize;
use tidegate::{Cache, Memory};
use tidegate_example_openapi::{by_aide, by_utoipa};
use tower::ServiceExt;

fn cache() -> Cache {
    Cache::new(Memory::new(1 << 20))
}

/// Checks a service and its description.
async fn check(app: Router, description: impl Serialize) {
    let description = serde_json::to_value(description).unwrap();
    assert!(description["paths"]["/shop/products/{id}"]["get"].is_object(), "{description}");
    for expected in ["stored", "hit"] {
        let request = Request::get("/shop/products/7").body(Body::empty()).unwrap();
        let response = app.clone().oneshot(request).await.unwrap();
        let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
        assert!(status.contains(expected), "{status}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, r#"{"id":7}"#);
    }
}

#[tokio::test]
async fn routes_documented_by_utoipa_are_cached() {
    let (app, description) = by_utoipa::app(cache()).unwrap();
    check(app, description).await;
}

#[tokio::test]
async fn routes_documented_by_aide_are_cached() {
    let (app, description) = by_aide::app(cache()).unwrap();
    check(app, description).await;
}
