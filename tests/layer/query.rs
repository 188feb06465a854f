//! QUERY (RFC 10008): responses are stored by the request's content.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use futures_util::{FutureExt, StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tower::{Layer, ServiceExt, service_fn};

use crate::common;
use crate::common::origin::{FRESH, by};
use crate::common::{eventually, exchange, read, send};

const LIMIT: usize = 16;

fn ttl() -> Policy {
    common::ttl().query_content(LIMIT)
}

/// Policies under which responses to QUERY are stored.
fn both() -> [Policy; 2] {
    [ttl(), Policy::standard().query_content(LIMIT)]
}

/// What a handler was given, in order.
#[derive(Clone, Default)]
pub(crate) struct Given(Arc<Mutex<Vec<String>>>);

impl Given {
    pub(crate) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// A router that responds with all that it was given.
    pub(crate) fn behind(&self, layer: CacheLayer) -> Router {
        let given = self.clone();
        let handler = async move |method: Method, uri: Uri, headers: HeaderMap, body: Body| {
            let content = match body.collect().await {
                Ok(content) => {
                    let trailers = content.trailers().is_some();
                    let text = String::from_utf8(content.to_bytes().to_vec()).unwrap();
                    format!("{text}{}", if trailers { " with trailers" } else { "" })
                }
                Err(error) => format!("error: {error}"),
            };
            let of = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap());
            let said =
                format!("{method} {uri} [{}{}] {content}", of("content-type"), of("x-other"));
            given.0.lock().unwrap().push(said.clone());
            ([FRESH, ("etag", "\"v1\"")], said)
        };
        Router::new().fallback(handler).layer(layer)
    }

    pub(crate) fn router(&self, policy: Policy) -> Router {
        self.behind(CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy))
    }
}

fn query(content: impl Into<Body>, headers: &[(&str, &str)]) -> Request<Body> {
    let method = Method::from_bytes(b"QUERY").unwrap();
    by(method, "/search", headers).map(|_| content.into())
}

const SQL: (&str, &str) = ("content-type", "application/sql");
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test]
async fn a_query_response_is_keyed_by_its_content_and_content_headers() {
    for policy in both() {
        let given = Given::default();
        let app = given.router(policy);
        let different: [(&str, &[(&str, &str)]); 7] = [
            ("select 1", &[SQL]),
            ("select 2", &[SQL]),
            ("select 1", &[JSON]),
            ("select 1", &[]),
            ("select 1", &[SQL, ("content-encoding", "gzip")]),
            ("select 1", &[SQL, ("content-language", "de")]),
            ("", &[SQL]),
        ];
        for (at, (content, headers)) in different.into_iter().enumerate() {
            let (first, status) = exchange(&app, query(content, headers)).await;
            assert!(status.contains("stored") && given.all().len() == at + 1, "{at}: {status}");
            assert!(first.ends_with(content), "{first}");
            for spelled in [content, content] {
                let (again, status) = exchange(&app, query(spelled, headers)).await;
                assert!(again == first && status.contains("; hit;"), "{at}: {status}");
            }
        }
    }
}

#[tokio::test]
async fn a_get_and_a_query_of_one_path_have_separate_entries() {
    let given = Given::default();
    let app = given.router(ttl());
    assert!(exchange(&app, query("", &[])).await.1.contains("stored"));
    assert!(exchange(&app, by(Method::GET, "/search", &[])).await.1.contains("stored"));
    assert!(exchange(&app, query("", &[])).await.0.starts_with("QUERY"));
}

#[tokio::test]
async fn a_stored_query_response_serves_conditions_and_ranges() {
    for policy in both() {
        let app = Given::default().router(policy);
        exchange(&app, query("a", &[SQL])).await;
        let known = send(&app, query("a", &[SQL, ("if-none-match", "\"v1\"")])).await;
        assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
        let part = send(&app, query("a", &[SQL, ("range", "bytes=0-4")])).await;
        assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
        assert_eq!(read(part).await.0, "QUERY");
    }
}

#[tokio::test]
async fn a_query_bypasses_the_cache_unless_the_policy_enables_it() {
    let given = Given::default();
    let app = given.router(Policy::ttl(Duration::from_mins(1)));
    for _ in 0..2 {
        assert!(exchange(&app, query("a", &[SQL])).await.1.contains("fwd=method"));
    }
    assert_eq!(given.all().len(), 2);
}

/// A body that comes in these parts, of which none says how long it is.
pub(crate) fn streamed(
    parts: &[&'static str],
    then: Option<Result<Frame<Bytes>, &'static str>>,
) -> Body {
    let frames = parts.iter().map(|part| Ok(Frame::data(Bytes::from_static(part.as_bytes()))));
    Body::new(StreamBody::new(stream::iter(frames.chain(then).collect::<Vec<_>>())))
}

#[tokio::test]
async fn content_sent_in_several_frames_has_the_same_key() {
    let given = Given::default();
    let app = given.router(ttl());
    exchange(&app, query("select 1", &[SQL])).await;
    let (_, status) = exchange(&app, query(streamed(&["sel", "", "ect 1"], None), &[SQL])).await;
    assert!(status.contains("; hit;"), "{status}");
}

pub(crate) type MakeBody = fn(HeaderMap) -> Body;

#[tokio::test]
async fn content_that_cannot_be_keyed_reaches_the_handler_unchanged() {
    let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), "1".parse().unwrap())]);
    let bodies: [(&str, MakeBody); 5] = [
        ("0123456789abcdefg", |_| Body::from("0123456789abcdefg")),
        ("0123456789abcdefg", |_| streamed(&["0123456789abcdef", "g"], None)),
        ("0123456789abcdef0123456789abcdef", |_| streamed(&["0123456789abcdef"; 2], None)),
        ("error: broken off", |_| streamed(&["01"], Some(Err("broken off")))),
        ("01 with trailers", |trailers| streamed(&["01"], Some(Ok(Frame::trailers(trailers))))),
    ];
    for (at, (expected, body)) in bodies.into_iter().enumerate() {
        let given = Given::default();
        let app = given.router(ttl());
        for _ in 0..2 {
            let (got, status) = exchange(&app, query(body(trailers.clone()), &[SQL])).await;
            assert_eq!(got, format!("QUERY /search [application/sql] {expected}"), "{at}");
            assert!(status.contains("fwd=bypass; detail=\"request-body\""), "{at}: {status}");
        }
        assert_eq!(given.all().len(), 2, "{at}");
    }
}

#[tokio::test]
async fn content_past_the_byte_budget_is_not_stored() {
    let given = Given::default();
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), ttl());
    let app = given.behind(layer.buffer_limit(4));
    let (got, status) = exchange(&app, query("01234", &[])).await;
    assert!(got.ends_with(" 01234") && status.contains("request-body"), "{got} {status}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_or_stalls_while_sending_holds_no_buffer() {
    let given = Given::default();
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), ttl()).buffer_limit(200);
    let app = given.behind(layer);
    let unfinished = || {
        let first = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"01")));
        Body::new(StreamBody::new(stream::iter([first]).chain(stream::pending())))
    };
    for _ in 0..200 {
        assert!(send(&app, query(unfinished(), &[])).now_or_never().is_none());
    }
    assert!(given.all().is_empty(), "nothing was computed");
    let (_, status) = exchange(&app, query("01", &[])).await;
    assert!(status.contains("stored"), "all room was given back: {status}");
    // The handler gets what there is, and waits for the rest by itself.
    let slow = tokio::spawn(async move { send(&app, query(unfinished(), &[])).await });
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert!(!slow.is_finished() && given.all().len() == 1);
    slow.abort();
}

#[tokio::test]
async fn a_write_invalidates_a_query_and_a_query_invalidates_nothing() {
    let given = Given::default();
    let app = given.router(Policy::standard().query_content(LIMIT));
    let get = || by(Method::GET, "/search", &[]);
    exchange(&app, get()).await;
    exchange(&app, query("a", &[])).await;
    assert!(exchange(&app, query("b", &[])).await.1.contains("stored"));
    assert!(exchange(&app, get()).await.1.contains("; hit;"));
    exchange(&app, by(Method::POST, "/search", &[])).await;
    for request in [query("a", &[]), query("b", &[]), get()] {
        assert!(exchange(&app, request).await.1.contains("changed"));
    }
}

#[tokio::test(start_paused = true)]
async fn background_runs_of_a_query_get_its_content() {
    let window = Duration::from_mins(10);
    for policy in [ttl().stale_while_revalidate(window), ttl().audit(1.0)] {
        let given = Given::default();
        let app = given.router(policy);
        exchange(&app, query("select 1", &[SQL])).await;
        tokio::time::advance(Duration::from_secs(61)).await;
        for _ in 0..2 {
            assert!(exchange(&app, query("select 1", &[SQL])).await.0.ends_with("select 1"));
        }
        eventually("it ran again", async || given.all().len() > 1).await;
        for given in given.all() {
            assert_eq!(given, "QUERY /search [application/sql] select 1");
        }
    }
}

#[tokio::test]
async fn a_strict_policy_passes_on_the_content_and_its_content_headers() {
    let given = Given::default();
    let app = given.router(ttl().strict());
    exchange(&app, query("a", &[SQL, ("x-other", "x")])).await;
    assert_eq!(given.all(), ["QUERY /search [application/sql] a"]);
}

#[tokio::test]
async fn a_body_of_another_type_bypasses_the_cache_unchanged() {
    let service = service_fn(async |request: Request<Full<Bytes>>| {
        let content = request.into_body().collect().await?.to_bytes();
        Ok::<_, Infallible>(Response::new(Full::new(content)))
    });
    let cache = Cache::new(Memory::new(1 << 20));
    let service = CacheLayer::with_policy(cache, ttl()).layer(service);
    for _ in 0..2 {
        let request = query("", &[]).map(|_| Full::new(Bytes::from_static(b"a")));
        let response = service.clone().oneshot(request).await.unwrap();
        assert!(response.headers()["cache-status"].to_str().unwrap().contains("request-body"));
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "a");
    }
}
