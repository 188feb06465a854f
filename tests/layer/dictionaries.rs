//! Compression dictionaries (RFC 9842): responses differ by the dictionary that the client has, as they say in `Vary`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use tidegate::{Cache, CacheLayer, Memory, Policy};

use crate::common::send;

/// Versions of a script that clients may still have as dictionaries.
const VERSIONS: usize = 20;

/// The digest of a version, as `Available-Dictionary` has it: a Byte Sequence of 32 bytes.
fn digest(version: usize) -> String {
    format!(":{version:0>43}=:")
}

/// A script, compressed by the dictionary that the client has, if the server knows it.
fn origin(runs: Arc<AtomicUsize>) -> Router {
    let handler = async move |headers: HeaderMap| {
        runs.fetch_add(1, Ordering::SeqCst);
        let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        let known = (0..VERSIONS).find(|version| digest(*version) == text("available-dictionary"));
        let by = known.filter(|_| text("accept-encoding").contains("dcb"));
        let coding = if by.is_some() { "dcb" } else { "identity" };
        let fields = [
            ("cache-control", "max-age=60"),
            ("vary", "accept-encoding, available-dictionary"),
            ("use-as-dictionary", "match=\"/app/*\", id=\"v\""),
            ("content-encoding", coding),
        ];
        (fields, format!("{by:?}"))
    };
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), Policy::standard());
    Router::new().fallback(handler).layer(layer)
}

#[tokio::test]
async fn each_compression_dictionary_has_its_own_variant() {
    let runs = Arc::new(AtomicUsize::new(0));
    let app = origin(runs.clone());
    let ask = async |version: Option<usize>, codings: &str| {
        let request = Request::get("/app/main.js").header("accept-encoding", codings);
        let request = match version {
            Some(version) => request.header("available-dictionary", digest(version)),
            None => request,
        };
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        assert_eq!(response.headers()["use-as-dictionary"], "match=\"/app/*\", id=\"v\"");
        crate::common::read(response).await
    };
    for round in 0..3 {
        let mut hits = 0;
        for version in 0..VERSIONS {
            let (body, status) = ask(Some(version), "gzip, br, dcb").await;
            assert_eq!(body, format!("Some({version})"), "a client can read no other one");
            hits += usize::from(status.contains("; hit"));
        }
        // Two variants may share a place.
        assert!(round == 0 || hits >= VERSIONS / 2, "{hits} of {VERSIONS}");
        assert_eq!(ask(Some(3), "gzip").await.0, "None", "it can't read the coding");
        assert_eq!(ask(None, "gzip, br, dcb").await.0, "None");
    }
}
