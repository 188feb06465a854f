//! The usual layers of a service and the cache in one `ServiceBuilder`, in the order that the guide gives.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::request_id::{
    MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer,
};
use tower_http::timeout::TimeoutLayer;
use tower_http::trace::TraceLayer;

use crate::common::send;

const MINUTE: Duration = Duration::from_mins(1);

fn app() -> Router {
    let cache = Cache::new(Memory::new(16 << 20));
    let cached = CacheLayer::new(cache)
        .route("/page", Policy::ttl(MINUTE).untracked())
        .route("/panic", Policy::ttl(MINUTE).untracked())
        .extension::<RequestId>()
        .validate()
        .unwrap();
    let layers = ServiceBuilder::new()
        .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
        .layer(PropagateRequestIdLayer::x_request_id())
        .layer(TraceLayer::new_for_http())
        .layer(CatchPanicLayer::new())
        .layer(CorsLayer::permissive())
        .layer(CompressionLayer::new())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, MINUTE))
        .layer(GlobalConcurrencyLimitLayer::new(100))
        .layer(RequestBodyLimitLayer::new(1 << 20))
        .layer(cached);
    Router::new()
        .route("/page", get(async || "page ".repeat(100)))
        .route("/panic", get(async || -> String { panic!("on purpose") }))
        .layer(layers)
}

async fn fetch(app: &Router, path: &str) -> Response<Body> {
    let request = Request::get(path)
        .header("origin", "https://example.com")
        .header("accept-encoding", "gzip")
        .body(Body::empty());
    send(app, request.unwrap()).await
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn the_cache_works_in_one_builder_with_the_usual_tower_layers() {
    let app = app();
    let (first, second) = (fetch(&app, "/page").await, fetch(&app, "/page").await);
    assert!(header(&first, "cache-status").contains("stored"), "{first:?}");
    assert!(header(&second, "cache-status").contains("hit"), "{second:?}");
    for response in [&first, &second] {
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(header(response, "access-control-allow-origin"), "*");
        assert_eq!(header(response, "content-encoding"), "gzip");
    }
    let ids = [&first, &second].map(|response| header(response, "x-request-id"));
    assert!(!ids[0].is_empty() && ids[0] != ids[1], "{ids:?}");
    for _ in 0..2 {
        assert_eq!(fetch(&app, "/panic").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
}
