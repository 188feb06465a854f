//! Compression dictionaries (RFC 9842): responses differ by the dictionary that the client has, as they say in `Vary`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request};
use axum::response::AppendHeaders;
use tidegate::{Cache, CacheLayer, Memory, Policy};

use crate::common::send;

/// Versions of a script that clients may still have as dictionaries.
const VERSIONS: usize = 20;

/// The digest of a version, as `Available-Dictionary` has it: a Byte Sequence of 32 bytes.
fn digest(version: usize) -> String {
    format!(":{version:0>43}=:")
}

/// A script, compressed by the dictionary that the client has, if the server knows it.
fn origin(vary: Option<&'static str>, runs: Arc<AtomicUsize>) -> Router {
    let handler = async move |headers: HeaderMap| {
        runs.fetch_add(1, Ordering::SeqCst);
        let text = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
        let known = (0..VERSIONS).find(|version| digest(*version) == text("available-dictionary"));
        let codings = ["dcb", "dcz"].into_iter();
        let mut codings = codings.filter(|coding| text("accept-encoding").contains(coding));
        let by = known.and_then(|version| Some((codings.next()?, version)));
        let fields = [
            ("cache-control", "max-age=60"),
            ("use-as-dictionary", "match=\"/app/*\", id=\"v\""),
            ("content-encoding", by.map_or("identity", |(coding, _)| coding)),
        ];
        let vary = AppendHeaders(vary.map(|vary| ("vary", vary)));
        (vary, fields, format!("{by:?}"))
    };
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), Policy::standard());
    Router::new().fallback(handler).layer(layer)
}

/// By the response's own `Vary`, or since its coding is one of a dictionary.
#[tokio::test]
async fn each_compression_dictionary_has_its_own_variant() {
    for vary in [Some("accept-encoding, available-dictionary"), None] {
        let runs = Arc::new(AtomicUsize::new(0));
        let app = origin(vary, runs.clone());
        let fetch = async |version: Option<usize>, codings: &str| {
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
            for coding in ["dcb", "dcz"] {
                let codings = format!("gzip, br, {coding}");
                for version in 0..VERSIONS {
                    let (body, status) = fetch(Some(version), &codings).await;
                    let wanted = format!("Some((\"{coding}\", {version}))");
                    assert_eq!(body, wanted, "a client can read no other one");
                    assert_eq!(status.contains("; hit"), round > 0, "{coding} {version}: {status}");
                }
            }
            if vary.is_some() {
                assert_eq!(fetch(Some(3), "gzip").await.0, "None", "it can't read the coding");
                assert_eq!(fetch(None, "gzip, br, dcb").await.0, "None");
                assert_eq!(fetch(None, "gzip, br, dcz").await.0, "None");
            }
        }
        let others = if vary.is_some() { 3 } else { 0 };
        assert_eq!(runs.load(Ordering::SeqCst), 2 * VERSIONS + others, "each was computed once");
    }
}
