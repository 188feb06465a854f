//! An in-memory cache in front of a handler. No server is needed.
//!
//! `cargo run --example quickstart`

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, State};
use axum::http::Request;
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tower::ServiceExt;

/// A handler that takes its time, and counts how often it runs.
async fn price(Path(item): Path<String>, State(runs): State<Arc<AtomicU32>>) -> String {
    tokio::time::sleep(Duration::from_millis(50)).await;
    let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
    format!("the price of {item}, looked up by run {run}")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cache = Cache::new(Memory::new(64 << 20));
    let policy = Policy::ttl(Duration::from_secs(60)).tag("prices:item={item}");
    let app = Router::new()
        .route("/prices/{item}", get(price))
        .layer(CacheLayer::new(cache.clone()).route("/prices/{item}", policy).validate()?)
        .with_state(Arc::default());

    ask(&app, "/prices/tea").await?;
    ask(&app, "/prices/tea").await?;
    println!("-- the price of tea changes");
    cache.invalidate(["prices:item=tea"]).await?;
    ask(&app, "/prices/tea").await?;
    println!("-- a hundred concurrent requests for coffee");
    let asks = (0..100).map(|_| app.clone().oneshot(get_request("/prices/coffee")));
    futures_util::future::try_join_all(asks).await?;
    ask(&app, "/prices/coffee").await?;
    println!("-- hit ratio: {:.0} % of lookups", 100.0 * cache.counters().hit_ratio());
    Ok(())
}

async fn ask(app: &Router, uri: &str) -> Result<(), Box<dyn std::error::Error>> {
    let response = app.clone().oneshot(get_request(uri)).await?;
    let status = response.headers()["cache-status"].to_str()?.to_owned();
    let body = to_bytes(response.into_body(), 1024).await?;
    println!("GET {uri}\n    {}\n    {status}", String::from_utf8_lossy(&body));
    Ok(())
}

fn get_request(uri: &str) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri.parse().unwrap_or_default();
    request
}
