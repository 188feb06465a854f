//! Compressed responses, with `tower_http`'s layer on either side.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::send;
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use http_body_util::BodyExt;
use tidegate::{Cache, CacheLayer, Event, Memory, Policy};
use tower_http::compression::CompressionLayer;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// A handler with a text that is worth compressing; how often it ran, and the cache.
struct World {
    handler: Router,
    runs: Arc<AtomicUsize>,
    cache: Cache,
    layer: CacheLayer,
}

fn world() -> World {
    let runs = Arc::new(AtomicUsize::new(0));
    let handler = {
        let runs = runs.clone();
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
            std::future::ready(([("content-type", "text/plain")], "tide ".repeat(1000)))
        }
    };
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), Policy::ttl(Duration::from_mins(1)));
    World { handler: Router::new().fallback(handler), runs, cache, layer }
}

/// The body for a client that takes these codings, and whether it was gzip.
async fn fetch_encoded(app: &Router, accepts: &str) -> (Vec<u8>, bool) {
    let request = Request::get("/").header("accept-encoding", accepts).body(Body::empty()).unwrap();
    let response = send(app, request).await;
    let is_gzip = response.headers().get("content-encoding").is_some_and(|coding| coding == "gzip");
    assert!(response.headers()["vary"].to_str().unwrap().contains("accept-encoding"));
    let body = response.into_body().collect().await.unwrap().to_bytes().to_vec();
    assert_eq!(body.starts_with(&GZIP), is_gzip);
    assert_eq!(body.len() == 5000, !is_gzip);
    (body, is_gzip)
}

async fn each_gets_what_it_takes(app: &Router) {
    for _ in 0..2 {
        assert!(fetch_encoded(app, "gzip").await.1);
        assert!(!fetch_encoded(app, "identity").await.1);
        assert!(fetch_encoded(app, "deflate, gzip;q=0.5").await.1);
        assert!(!fetch_encoded(app, "gzip;q=0").await.1);
    }
}

#[tokio::test]
async fn compression_outside_the_cache_stores_one_uncompressed_response() {
    let World { handler, runs, cache, layer } = world();
    let app = handler.layer(layer).layer(CompressionLayer::new());
    each_gets_what_it_takes(&app).await;
    assert_eq!((runs.load(Ordering::SeqCst), cache.counters().event(Event::Stored)), (1, 1));
}

#[tokio::test]
async fn compression_inside_the_cache_stores_one_variant_per_coding() {
    let World { handler, runs, cache, layer } = world();
    let app = handler.layer(CompressionLayer::new()).layer(layer);
    each_gets_what_it_takes(&app).await;
    assert_eq!((runs.load(Ordering::SeqCst), cache.counters().event(Event::Stored)), (4, 4));
    assert!(fetch_encoded(&app, "GZIP;q=0.5,deflate").await.1);
    assert_eq!(runs.load(Ordering::SeqCst), 4, "another way to write what is stored");
}
