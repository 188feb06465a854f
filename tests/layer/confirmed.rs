//! A handler confirms a stored response by a date (RFC 9111, section 4.3) while a change makes the response invalid.

use std::time::Duration;

use crate::common::eventually;
use crate::common::origin::{Origin, body, by, get};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tidegate::{Cache, CacheLayer, Memory, Policy};

/// The second of both versions.
const DATED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
const STALE: (&str, &str) = ("cache-control", "max-age=60, stale-while-revalidate=60");

fn cache() -> (Cache, CacheLayer) {
    let cache = Cache::new(Memory::new(1 << 20));
    (cache.clone(), CacheLayer::with_policy(cache, Policy::standard().tag("t")))
}

/// The second version is there, and invalidates the first, before the handler reads it.
async fn changes(State((cache, origin)): State<(Cache, Origin)>, request: Request) -> Response {
    let is_conditional = request.headers().contains_key("if-modified-since");
    let run = origin.asks(request);
    if run == 2 {
        cache.invalidate(["t"]).await.unwrap();
    }
    let version = if run == 1 { "one" } else { "two" };
    match is_conditional {
        true => (StatusCode::NOT_MODIFIED, [STALE, DATED]).into_response(),
        false => ([STALE, DATED], version).into_response(),
    }
}

#[tokio::test]
async fn a_change_while_the_handler_runs_outlives_its_304() {
    for method in [Method::GET, Method::HEAD] {
        let ((cache, layer), origin) = (cache(), Origin::default());
        let app = Router::new().fallback(changes).layer(layer);
        let app = app.with_state((cache, origin.clone()));
        assert_eq!(body(&app, get(&[])).await, "one");
        body(&app, by(method.clone(), "/", &[("cache-control", "no-cache")])).await;
        assert_eq!(origin.runs(), 2);
        assert_eq!(body(&app, get(&[])).await, "two", "{method}");
    }
}

/// The renewal begins after the change, so its own position does not show that the stored response lacks the change.
#[tokio::test(start_paused = true)]
async fn a_change_before_a_renewal_begins_outlives_its_304() {
    let origin = Origin::default()
        .then(200, &[STALE, DATED], "one")
        .then(304, &[STALE, DATED], "")
        .then(200, &[STALE, DATED], "two");
    let (cache, layer) = cache();
    let app = origin.behind(layer);
    assert_eq!(body(&app, get(&[])).await, "one");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(body(&app, get(&[])).await, "one", "stale, and to be renewed in the background");
    cache.invalidate(["t"]).await.unwrap();
    assert_eq!(origin.runs(), 1, "the renewal has not begun");
    eventually("it is renewed", async || origin.runs() == 2).await;
    assert!(origin.last().contains_key("if-modified-since"));
    assert_eq!(body(&app, get(&[])).await, "two");
}
