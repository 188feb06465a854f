//! Paths that a layer between two routers has changed: the client's URI does not show what the handler receives of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::origin::FRESH;
use crate::common::{cache, fetch, ttl};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidegate::{CacheLayer, Policy};
use tower::Layer;

type Runs = Arc<AtomicUsize>;

/// Takes the first segment off, as a layer does that finds the locale in it; `/users/me` is user 7.
async fn rewrite(mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let path = path.strip_prefix("/de").unwrap_or(path).replace("/me", "/7");
    *request.uri_mut() = path.parse().unwrap();
    next.run(request).await
}

/// A router around the layer that rewrites, which is around the router of the handler.
fn rewritten(inner: Router) -> Router {
    Router::new().fallback_service(from_fn(rewrite).layer(inner))
}

async fn user(State(runs): State<Runs>, Path(id): Path<u32>) -> impl IntoResponse {
    ([FRESH], format!("user {id}, run {}", runs.fetch_add(1, Ordering::SeqCst) + 1))
}

fn users(layer: CacheLayer) -> Router {
    let inner = Router::new().route("/users/{id}", get(user)).with_state(Runs::default());
    rewritten(inner.layer(layer))
}

#[tokio::test]
async fn a_tag_is_filled_with_the_parameter_that_the_handler_gets() {
    for path in ["/de/users/7", "/users/me", "/de/users/me", "/users/7"] {
        for policy in [ttl(), ttl().strict(), Policy::standard(), Policy::standard().strict()] {
            let cache = cache();
            let layer = CacheLayer::new(cache.clone());
            let app = users(layer.route("/users/{id}", policy.tag("users:id={id}")));
            for _ in 0..2 {
                let (body, status) = fetch(&app, path).await;
                assert_eq!(body, "user 7, run 1", "{path}: {status}");
            }
            cache.invalidate(["users:id=7"]).await.unwrap();
            let (body, status) = fetch(&app, path).await;
            assert_eq!(body, "user 7, run 2", "{path}: {status}");
        }
    }
}

#[tokio::test]
async fn a_parameter_name_used_by_two_routers_fills_no_tag() {
    let runs = Runs::default();
    let page = |State(runs): State<Runs>, Path((shop, user)): Path<(u32, u32)>| async move {
        format!("{shop} {user}, run {}", runs.fetch_add(1, Ordering::SeqCst) + 1)
    };
    let layer = CacheLayer::with_policy(cache(), ttl().tag("users:id={id}"));
    let inner = Router::new().route("/users/{id}", get(page)).with_state(runs);
    let app = Router::new().nest_service("/shops/{id}", inner.layer(layer));
    for run in 1..3 {
        let (body, status) = fetch(&app, "/shops/1/users/2").await;
        assert!(
            body == format!("1 2, run {run}") && status.contains("no-parameter"),
            "{body} {status}"
        );
    }
}

#[tokio::test]
async fn a_tag_can_use_a_parameter_of_any_enclosing_router() {
    let cache = cache();
    let layer = CacheLayer::with_policy(cache.clone(), ttl().tag("shops:id={shop}"));
    let page = |State(runs): State<Runs>| async move {
        format!("run {}", runs.fetch_add(1, Ordering::SeqCst) + 1)
    };
    let inner = Router::new().fallback(page).with_state(Runs::default()).layer(layer);
    let app = Router::new().nest("/shops/{shop}", inner);
    for _ in 0..2 {
        let (body, status) = fetch(&app, "/shops/1/offers").await;
        assert_eq!(body, "run 1", "{status}");
    }
    cache.invalidate(["shops:id=1"]).await.unwrap();
    assert_eq!(fetch(&app, "/shops/1/offers").await.0, "run 2");
}
