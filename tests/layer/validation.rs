//! The effect of a 304, a response to HEAD, or a failure on a stored response.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use crate::common::origin::{FRESH, Origin, TAGGED, body, by, get};
use crate::common::{eventually, read, send, settled};
use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Empty, Full};
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tower::{Layer, Service, service_fn};

const STALE: (&str, &str) = ("cache-control", "max-age=60, stale-while-revalidate=60");

#[expect(clippy::disallowed_methods, reason = "what an origin would say")]
fn ago(seconds: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_304_without_a_date_makes_the_response_fresh_from_now_on() {
    let old = ago(100);
    let origin = Origin::default().then(200, &[FRESH, TAGGED, ("date", &old)], "one").then(
        304,
        &[FRESH],
        "",
    );
    let app = origin.router(Policy::standard());
    for _ in 0..4 {
        assert_eq!(body(&app, get(&[])).await, "one");
    }
    assert_eq!(origin.runs(), 2, "fresh again, once it is confirmed");
}

#[tokio::test]
async fn a_head_response_without_a_date_makes_the_stored_one_fresh_from_now_on() {
    let old = ago(100);
    let origin = Origin::default().then(200, &[FRESH, TAGGED, ("date", &old)], "one").then(
        200,
        &[FRESH, TAGGED],
        "",
    );
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    send(&app, by(Method::HEAD, "/", &[])).await;
    assert_eq!(body(&app, get(&[])).await, "one");
    assert_eq!(origin.runs(), 2);
}

/// RFC 9111, section 4.3.4: such a 304 validates nothing, so what is stored must not be served (section 5.2.2.4).
#[tokio::test]
async fn after_a_304_about_another_response_the_request_is_repeated_without_conditions() {
    let no_cache = ("cache-control", "no-cache");
    let origin = Origin::default()
        .then(200, &[no_cache, TAGGED], "one")
        .then(304, &[("etag", "\"v2\""), ("a", "2")], "")
        .then(200, &[no_cache, ("etag", "\"v2\"")], "two")
        .then(304, &[("etag", "\"v2\"")], "");
    let app = origin.router(Policy::standard());
    assert_eq!(body(&app, get(&[])).await, "one");
    let repeated = send(&app, get(&[])).await;
    assert!(!repeated.headers().contains_key("a"), "nothing of it is taken over");
    assert_eq!(read(repeated).await.0, "two");
    assert!(!origin.all()[2].contains_key("if-none-match"), "the request is unconditional");
    assert_eq!(body(&app, get(&[])).await, "two");
    assert_eq!((origin.last()["if-none-match"].as_bytes(), origin.runs()), (&b"\"v2\""[..], 4));
}

#[tokio::test(start_paused = true)]
async fn a_renewal_repeats_the_request_after_a_304_about_another_response() {
    let origin = Origin::default()
        .then(200, &[STALE, TAGGED], "one")
        .then(304, &[STALE, ("etag", "\"v2\"")], "")
        .then(200, &[STALE, ("etag", "\"v2\"")], "two");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(body(&app, get(&[])).await, "one", "stale, and renewed in the background");
    eventually("the repetition", async || origin.runs() == 3).await;
    settled().await;
    assert_eq!(body(&app, get(&[])).await, "two");
    assert_eq!(origin.runs(), 3);
}

/// The layer can't make a second request body of this service's type.
#[tokio::test(start_paused = true)]
async fn a_304_about_another_response_is_an_error_if_the_request_cannot_be_repeated() {
    for (control, expected) in [
        ("no-cache", (502, "")),
        ("max-age=1, must-revalidate, stale-if-error=60", (502, "")),
        ("max-age=1, stale-if-error=60", (200, "run 1")),
    ] {
        let runs = Arc::new(AtomicUsize::new(0));
        let service = service_fn(move |request: Request<Empty<Bytes>>| {
            let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
            let is_conditional = request.headers().contains_key("if-none-match");
            let response = Response::builder().status(if is_conditional { 304 } else { 200 });
            let response = response.header("cache-control", control);
            let body = if is_conditional { String::new() } else { format!("run {run}") };
            let response = response.header("etag", format!("\"v{run}\""));
            ready(Ok::<_, Infallible>(response.body(Full::<Bytes>::from(body)).unwrap()))
        });
        let cache = Cache::new(Memory::new(1 << 20));
        let mut service = CacheLayer::with_policy(cache, Policy::standard()).layer(service);
        let mut fetch = async || {
            let response = service.call(Request::new(Empty::<Bytes>::new())).await.unwrap();
            let status = response.status().as_u16();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (status, String::from_utf8(body.to_vec()).unwrap())
        };
        assert_eq!(fetch().await, (200, "run 1".to_owned()));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(fetch().await, (expected.0, expected.1.to_owned()), "{control}");
        assert_eq!(fetch().await, (200, "run 3".to_owned()), "{control}: it is no longer stored");
    }
}

#[tokio::test]
async fn a_304_with_no_store_removes_the_stored_response() {
    let origin = Origin::default()
        .then(200, &[FRESH, TAGGED], "one")
        .then(304, &[("cache-control", "no-store")], "")
        .then(200, &[FRESH], "two");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    assert_eq!(body(&app, get(&[("cache-control", "no-cache")])).await, "one");
    assert_eq!(body(&app, get(&[])).await, "two");
}

#[tokio::test(start_paused = true)]
async fn a_304_or_head_response_with_a_grpc_error_keeps_the_stored_response() {
    let other = ("etag", "\"v2\"");
    for (method, status, validator) in [
        (Method::GET, 304, TAGGED),
        (Method::GET, 304, ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")),
        (Method::HEAD, 200, TAGGED),
        (Method::HEAD, 200, other),
    ] {
        let headers = [FRESH, validator, ("grpc-status", "14")];
        for client in [&[][..], &[("authorization", "a")]] {
            let said = ("cache-control", "public, max-age=60");
            let origin = Origin::default()
                .then(200, &[said, TAGGED], "one")
                .then(status, &headers, "")
                .then(304, &[said, TAGGED], "");
            let app = origin.router(Policy::standard());
            assert_eq!(body(&app, get(client)).await, "one");
            tokio::time::advance(Duration::from_secs(61)).await;
            send(&app, by(method.clone(), "/", client)).await;
            assert_eq!(origin.runs(), 2, "{method} {headers:?} {client:?}");
            assert_eq!(body(&app, get(client)).await, "one", "{method} {headers:?} {client:?}");
            assert_eq!(origin.runs(), 3);
            assert_eq!(origin.last()["if-none-match"], TAGGED.1);
        }
    }
}

#[tokio::test]
async fn hop_by_hop_fields_of_a_304_do_not_reach_the_client() {
    let origin = Origin::default().then(200, &[("cache-control", "no-cache"), TAGGED], "one").then(
        304,
        &[("connection", "x-hop"), ("x-hop", "1"), ("keep-alive", "timeout=5")],
        "",
    );
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    let confirmed = send(&app, get(&[])).await;
    for name in ["connection", "keep-alive", "x-hop"] {
        assert!(!confirmed.headers().contains_key(name), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_request_that_finds_a_stale_response_causes_a_full_renewal() {
    for policy in [Policy::standard(), stale_policy()] {
        let origin = Origin::default();
        let app = headless(&origin, policy);
        assert_eq!(body(&app, get(&[])).await, "run 1");
        tokio::time::advance(Duration::from_secs(61)).await;
        send(&app, by(Method::HEAD, "/", &[])).await;
        eventually("it is recomputed", async || origin.runs() == 2).await;
        assert_eq!(body(&app, get(&[])).await, "run 2", "and not empty");
    }
}

fn stale_policy() -> Policy {
    Policy::ttl(Duration::from_mins(1)).stale_while_revalidate(Duration::from_mins(1))
}

#[tokio::test]
async fn a_matching_if_none_match_gets_a_304_even_for_an_unstorable_response() {
    let private = ("cache-control", "private, no-cache");
    let origin = Origin::default().then(200, &[private, TAGGED], "one");
    let app = origin.router(Policy::standard());
    let response = send(&app, get(&[("if-none-match", "\"v1\"")])).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(response.headers()["cache-control"], "private, no-cache");
    let (body, status) = read(response).await;
    assert!(body.is_empty() && status.contains("cache-control"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_stale_variant_is_served_in_place_of_an_error() {
    let said = ("cache-control", "max-age=1, stale-if-error=60");
    let vary = ("vary", "accept-language");
    let origin = Origin::default()
        .then(200, &[said, vary], "english")
        .then(200, &[said, vary], "deutsch")
        .then(503, &[], "broken")
        .then(503, &[], "broken");
    let app = origin.router(Policy::standard());
    let (en, de) = (("accept-language", "en"), ("accept-language", "de"));
    body(&app, get(&[en])).await;
    body(&app, get(&[de])).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(body(&app, get(&[de])).await, "deutsch");
    assert_eq!(body(&app, get(&[en])).await, "english");
    assert_eq!(origin.runs(), 4);
}

#[tokio::test]
async fn a_variant_from_before_a_failover_is_served_in_place_of_an_error() {
    let said = ("cache-control", "max-age=60, stale-if-error=60");
    let vary = ("vary", "accept-language");
    let origin = Origin::default()
        .then(200, &[said, vary], "english")
        .then(200, &[said, vary], "deutsch")
        .then(503, &[], "broken");
    let cache = Cache::new(Memory::new(1 << 20));
    let app = origin.behind(CacheLayer::with_policy(cache.clone(), Policy::standard()));
    let (en, de) = (("accept-language", "en"), ("accept-language", "de"));
    body(&app, get(&[en])).await;
    body(&app, get(&[de])).await;
    tidegate::internals::end_epoch(&cache);
    assert_eq!(body(&app, get(&[de])).await, "deutsch");
    assert_eq!(origin.runs(), 3);
}

#[tokio::test]
async fn a_416_or_206_carries_no_fields_that_describe_the_whole_body() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED, ("content-digest", "x")], "0123");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    let none = send(&app, get(&[("range", "bytes=9-")])).await;
    assert_eq!(none.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(none.headers()["cache-control"], "no-store");
    assert!(!none.headers().contains_key("etag") && !none.headers().contains_key("age"));
    let part = send(&app, get(&[("range", "bytes=1-2")])).await;
    assert!(!part.headers().contains_key("content-digest"), "it is of the whole");
}

#[tokio::test(start_paused = true)]
async fn an_upstream_age_continues_and_does_not_shorten_the_ttl_of_a_ttl_policy() {
    let origin = Origin::default().then(200, &[("age", "590")], "one");
    let app = origin.router(Policy::ttl(Duration::from_mins(1)));
    body(&app, get(&[])).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(send(&app, get(&[])).await.headers()["age"], "600");
}

#[tokio::test]
async fn only_if_cached_gets_a_504_without_running_the_handler_if_the_request_bypasses_the_cache() {
    let by_author = Policy::ttl(Duration::from_mins(1)).untracked();
    let no_tag = by_author.clone().tag("users:id={id}");
    for policy in [Policy::standard(), by_author, no_tag] {
        for who in [
            ("authorization", "x"),
            ("cookie", "a=1"),
            ("x-user", "alice"),
            ("if-match", "\"v1\""),
            ("upgrade", "websocket"),
            ("cache-control", "no-store"),
            ("accept", "*/*"),
        ] {
            let origin = Origin::default();
            let app = origin.router(policy.clone());
            let headers = [who, ("cache-control", "only-if-cached")];
            let response = send(&app, get(&headers)).await;
            assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT, "{who:?} {policy:?}");
            assert_eq!(origin.runs(), 0);
        }
    }
}

#[tokio::test]
async fn only_if_cached_applies_to_get_head_and_cached_query_requests_only() {
    let query = Method::from_bytes(b"QUERY").unwrap();
    let stored = Policy::standard().query_content(4);
    for (policy, method, status) in [
        (Policy::standard(), Method::HEAD, 504),
        (Policy::standard(), Method::POST, 200),
        (Policy::standard(), query.clone(), 200),
        (stored.clone(), Method::POST, 200),
        (stored, query, 504),
    ] {
        let app = Origin::default().router(policy);
        let request = Request::builder().method(&method).uri("/");
        let request = request.header("cache-control", "only-if-cached");
        let request = request.body(Body::from("longer than the limit"));
        let empty = by(method.clone(), "/", &[("cache-control", "only-if-cached")]);
        let request = if method == Method::HEAD { empty } else { request.unwrap() };
        assert_eq!(send(&app, request).await.status().as_u16(), status, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_if_cached_gets_its_504_at_once_even_if_no_fill_may_start() {
    let policy = Policy::standard().fills(1);
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy);
    let app = Router::new().fallback(async || std::future::pending::<()>().await).layer(layer);
    let hanging = tokio::spawn({
        let app = app.clone();
        async move { send(&app, by(Method::GET, "/hangs", &[])).await }
    });
    settled().await;
    let began = tokio::time::Instant::now();
    let response = send(&app, get(&[("cache-control", "only-if-cached")])).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(began.elapsed(), Duration::ZERO);
    hanging.abort();
}

/// The stored 200 can't be compared with a 304.
#[tokio::test]
async fn a_shadow_route_does_not_compare_responses_to_conditional_requests() {
    let dated = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
    let origin = Origin::default().then(200, &[dated], "one").then(304, &[dated], "");
    let origin = origin.then(200, &[dated], "two");
    let cache = Cache::new(Memory::new(1 << 20));
    let policy = Policy::ttl(Duration::from_mins(1)).untracked().shadow();
    let app = origin.behind(CacheLayer::with_policy(cache.clone(), policy));
    assert_eq!(body(&app, get(&[])).await, "one");
    let response = send(&app, get(&[("if-modified-since", dated.1)])).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    read(response).await;
    // Differences are judged in the order in which they are found.
    assert_eq!(body(&app, get(&[])).await, "two");
    eventually("the later response is compared", async || !cache.audits().is_empty()).await;
    let compared: Vec<_> = cache.audits().into_values().map(|audited| audited.compared).collect();
    assert_eq!(compared, [1]);
}

/// The layer around a handler that makes no body for HEAD, and whose bodies have no length.
fn headless(origin: &Origin, policy: Policy) -> Router {
    let origin = origin.clone();
    let service = service_fn(move |request: Request<Body>| {
        let is_head = request.method() == Method::HEAD;
        let run = origin.receives(request);
        let text = if is_head { String::new() } else { format!("run {run}") };
        let parts = [Bytes::new(), text.into()].map(Ok::<_, Infallible>);
        let response = Response::builder().header(STALE.0, STALE.1);
        let response = response.body(Body::from_stream(stream::iter(parts))).unwrap();
        std::future::ready(Ok::<_, Infallible>(response))
    });
    let cache = Cache::new(Memory::new(1 << 20));
    Router::new().fallback_service(CacheLayer::with_policy(cache, policy).layer(service))
}

/// RFC 9110, section 13.1.3: without a modification date, the field must be ignored. `Date` stands for one only in a stored
/// response (RFC 9111, section 4.3.2).
#[tokio::test]
async fn if_modified_since_is_ignored_for_a_new_response_without_a_modification_date() {
    let now = ago(0);
    // The client's clock is ahead.
    let ahead = "Fri, 31 Dec 9999 23:59:59 GMT";
    for control in ["no-store", "max-age=60"] {
        let origin =
            Origin::default().then(200, &[("cache-control", control), ("date", &now)], "new");
        let app = origin.router(Policy::standard());
        let response = send(&app, get(&[("if-modified-since", ahead)])).await;
        assert_eq!(response.status(), 200, "{control}");
    }
}

#[tokio::test]
async fn two_if_modified_since_lines_are_ignored() {
    let origin = Origin::default();
    let dated = ("last-modified", &*ago(100));
    let app = origin.then(200, &[FRESH, dated], "one").router(Policy::standard());
    for _ in 0..2 {
        let twice = [("if-modified-since", &*ago(50)), ("if-modified-since", &*ago(200))];
        assert_eq!(send(&app, get(&twice)).await.status(), 200);
    }
}
