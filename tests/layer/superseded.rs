//! What a response makes of an older one that is stored: its age, its end, and what is served when the handler fails.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::hooked::{HookedStore, StoreCall};
use crate::common::origin::{FRESH, Origin, TAGGED, body, by, get};
use crate::common::{eventually, read, send, settled, ttl};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::{join, join_all, ready};
use futures_util::{FutureExt, StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use tidegate::{Cache, CacheLayer, Memory, Policy, StoreError, Tiered};
use tokio::time::sleep;

/// Windows in which a stale response may be served.
const STALE: (&str, &str) =
    ("cache-control", "max-age=60, stale-while-revalidate=600, stale-if-error=600");

/// A policy that sets the lifetime and the windows for stale responses, and one under which each response sets its own.
fn both() -> [Policy; 2] {
    let window = Duration::from_mins(10);
    [ttl().stale_while_revalidate(window).stale_if_error(window), Policy::standard()]
}

async fn advance(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

/// The status, the body and the `Cache-Status` of a response to a GET.
async fn fetch(app: &Router, headers: &[(&str, &str)]) -> (u16, String, String) {
    let response = send(app, get(headers)).await;
    let status = response.status().as_u16();
    let (body, said) = read(response).await;
    (status, body, said)
}

async fn is_age(app: &Router, age: &str, ttl: &str) {
    let hit = send(app, get(&[])).await;
    assert_eq!(hit.headers()["age"], age);
    let said = hit.headers()["cache-status"].to_str().unwrap();
    assert!(said.contains(&format!("hit; ttl={ttl};")), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_304_sets_the_age_that_it_carries() {
    let origin =
        Origin::default().then(200, &[FRESH, TAGGED], "one").then(304, &[FRESH, ("age", "50")], "");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    advance(61).await;
    assert_eq!(send(&app, get(&[])).await.headers()["age"], "50");
    is_age(&app, "50", "10").await;
}

#[tokio::test(start_paused = true)]
async fn a_head_response_that_updates_sets_the_age_that_it_carries() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED], "one").then(
        200,
        &[FRESH, TAGGED, ("age", "50")],
        "",
    );
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    advance(61).await;
    let head = send(&app, by(Method::HEAD, "/", &[])).await;
    assert_eq!(head.headers()["age"], "50");
    is_age(&app, "50", "10").await;
}

/// Full responses that end what is stored, without being stored.
const ENDS: [(u16, (&str, &str)); 10] = [
    (401, ("cache-control", "no-store")),
    (405, ("cache-control", "no-store")),
    (451, ("cache-control", "no-store")),
    (410, ("cache-control", "no-store")),
    (404, ("cache-control", "no-store")),
    (403, ("cache-control", "no-store")),
    // Not the status of a gRPC call, which is 200.
    (404, ("grpc-status", "5")),
    (302, ("location", "/elsewhere")),
    (200, ("cache-control", "private")),
    (200, ("cache-control", "no-store")),
];

#[tokio::test(start_paused = true)]
async fn a_renewal_that_may_not_be_stored_removes_the_stored_response() {
    for policy in both() {
        for (status, header) in ENDS {
            let origin =
                Origin::default().then(200, &[STALE], "one").then(status, &[header], "gone");
            let app = origin.router(policy.clone());
            assert_eq!(body(&app, get(&[])).await, "one");
            advance(61).await;
            assert_eq!(body(&app, get(&[])).await, "one", "stale, and renewed in the background");
            eventually("the renewal", async || origin.runs() == 2).await;
            settled().await;
            assert_eq!(body(&app, get(&[])).await, "run 3", "{status} {header:?} {policy:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_keeps_the_stored_response() {
    for policy in both() {
        for (status, headers) in [(503, &[][..]), (500, &[FRESH]), (429, &[]), (501, &[])] {
            let origin = Origin::default().then(200, &[STALE], "one").then(status, headers, "no");
            let app = origin.router(policy.clone());
            body(&app, get(&[])).await;
            advance(61).await;
            assert_eq!(body(&app, get(&[])).await, "one");
            eventually("the renewal", async || origin.runs() == 2).await;
            settled().await;
            let (_, body, said) = fetch(&app, &[]).await;
            assert_eq!(body, "one", "{status} {headers:?}: {said}");
        }
    }
}

/// Otherwise, each request would call a handler that fails.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_failed_is_tried_again_after_a_second() {
    for policy in both() {
        for status in [503, 429, 400] {
            let mut origin = Origin::default().then(200, &[STALE], "one");
            for _ in 0..3 {
                origin = origin.then(status, &[], "no");
            }
            let app = origin.router(policy.clone());
            body(&app, get(&[])).await;
            for runs in 2..5 {
                advance(61).await;
                for _ in 0..10 {
                    assert_eq!(body(&app, get(&[])).await, "one");
                    eventually("the renewal", async || origin.runs() == runs).await;
                    settled().await;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_does_not_revive_a_response_that_a_later_one_removed() {
    let said = ("cache-control", "max-age=60, stale-if-error=600");
    let by_author = Policy::ttl(Duration::from_mins(1)).jitter(0.0);
    for policy in [by_author.stale_if_error(Duration::from_mins(10)), Policy::standard()] {
        for (status, header) in ENDS {
            let origin = Origin::default()
                .then(200, &[said], "one")
                .then(status, &[header], "gone")
                .then(503, &[], "broken");
            let app = origin.router(policy.clone());
            body(&app, get(&[])).await;
            advance(61).await;
            assert_eq!(body(&app, get(&[])).await, "gone");
            assert_eq!(body(&app, get(&[])).await, "broken", "{status} {header:?} {policy:?}");
        }
    }
}

/// One client can provoke these: by a long header, a condition, or whatever else the origin refuses.
const OWN_FAULTS: [u16; 13] = [400, 406, 408, 412, 413, 414, 415, 417, 421, 425, 426, 429, 431];

#[tokio::test]
async fn a_client_error_does_not_remove_the_stored_page() {
    for status in OWN_FAULTS {
        for lifetime in [&[][..], &[FRESH]] {
            let origin = Origin::default().then(200, &[STALE], "one").then(status, lifetime, "no");
            let app = origin.router(Policy::standard());
            assert_eq!(body(&app, get(&[])).await, "one");
            assert_eq!(body(&app, get(&[("cache-control", "no-cache")])).await, "no");
            assert_eq!(body(&app, get(&[])).await, "one", "{status} {lifetime:?}");
            assert_eq!(origin.runs(), 2, "{status}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_error_does_not_remove_the_page_that_is_served_in_place_of_errors() {
    let said = ("cache-control", "max-age=60, stale-if-error=600");
    let by_author = Policy::ttl(Duration::from_mins(1)).jitter(0.0);
    for policy in [by_author.stale_if_error(Duration::from_mins(10)), Policy::standard()] {
        for status in OWN_FAULTS {
            let origin = Origin::default().then(200, &[said], "one").then(status, &[], "no").then(
                503,
                &[],
                "broken",
            );
            let app = origin.router(policy.clone());
            body(&app, get(&[])).await;
            advance(61).await;
            assert_eq!(body(&app, get(&[])).await, "no");
            assert_eq!(body(&app, get(&[])).await, "one", "{status} {policy:?}");
        }
    }
}

/// Requests with `no-cache`, of which the first gets an error of its own, and then anonymous ones after the expiry.
#[tokio::test(start_paused = true)]
async fn after_a_client_error_requests_for_the_stored_page_still_share_one_response() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = async move |request: Request<Body>| {
        counted.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_secs(1)).await;
        let is_bad = request.headers().contains_key("x-bad");
        (if is_bad { StatusCode::BAD_REQUEST } else { StatusCode::OK }, [FRESH], "page")
    };
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), Policy::standard());
    let app = Router::new().fallback(handler).layer(layer);
    body(&app, get(&[])).await;
    send(&app, get(&[("cache-control", "no-cache"), ("x-bad", "1")])).await;
    assert_eq!(runs.swap(0, Ordering::SeqCst), 2);
    advance(61).await;
    join_all((0..100).map(|_| body(&app, get(&[])))).await;
    assert_eq!(runs.swap(0, Ordering::SeqCst), 1);
    advance(61).await;
    let bad = send(&app, get(&[("x-bad", "1")]));
    let others = join_all((0..100).map(|_| body(&app, get(&[]))));
    let (_, bodies) = join(bad, others).await;
    assert!(bodies.iter().all(|body| body == "page"));
    assert!(runs.load(Ordering::SeqCst) <= 3, "{runs:?}");
}

#[tokio::test]
async fn an_error_does_not_revive_a_response_that_a_write_invalidated() {
    let said = ("cache-control", "max-age=60, stale-if-error=600");
    let origin = Origin::default().then(200, &[said], "one").then(200, &[], "written").then(
        503,
        &[],
        "broken",
    );
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    body(&app, by(Method::POST, "/", &[])).await;
    assert_eq!(body(&app, get(&[])).await, "broken");
}

#[tokio::test(start_paused = true)]
async fn a_visitor_with_cookies_renews_the_shared_response() {
    let origin = Origin::default().then(200, &[STALE], "one").then(200, &[STALE], "two");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    advance(61).await;
    let visitor = [("cookie", "_ga=1"), ("accept", "text/html")];
    assert_eq!(fetch(&app, &visitor).await.1, "one");
    eventually("the renewal", async || origin.runs() == 2).await;
    assert!(!origin.last().contains_key("cookie"), "{:?}", origin.last());
    settled().await;
    for _ in 0..20 {
        assert_eq!(fetch(&app, &visitor).await.1, "two");
    }
    assert_eq!(origin.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_revalidation_for_a_visitor_with_cookies_refreshes_the_shared_response() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED], "one").then(304, &[FRESH], "");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    advance(61).await;
    for _ in 0..3 {
        assert_eq!(fetch(&app, &[("cookie", "_ga=1")]).await.1, "one");
    }
    assert_eq!(origin.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn head_and_range_requests_get_a_stale_response_in_place_of_an_error() {
    let said = ("cache-control", "max-age=60, stale-if-error=600");
    for policy in [Policy::standard(), both()[0].clone().stale_while_revalidate(Duration::ZERO)] {
        let broken = |origin: Origin| origin.then(503, &[], "broken");
        let origin = broken(broken(broken(Origin::default().then(200, &[said], "one"))));
        let app = origin.router(policy);
        body(&app, get(&[])).await;
        advance(61).await;
        let (status, body, said) = fetch(&app, &[]).await;
        let reported = "tidegate; fwd=stale; ttl=-1; detail=\"stale-if-error\"";
        assert_eq!((status, body.as_str(), said.as_str()), (200, "one", reported));
        assert_eq!(send(&app, by(Method::HEAD, "/", &[])).await.status(), 200);
        let (status, body, _) = fetch(&app, &[("range", "bytes=0-1")]).await;
        assert_eq!((status, body.as_str()), (206, "on"));
    }
}

#[tokio::test(start_paused = true)]
async fn only_500_502_503_and_504_are_replaced_by_a_stale_response() {
    let said = ("cache-control", "max-age=60, stale-if-error=600");
    for (status, expected) in [
        (500, "one"),
        (502, "one"),
        (503, "one"),
        (504, "one"),
        (501, "no"),
        (505, "no"),
        (400, "no"),
    ] {
        let origin = Origin::default().then(200, &[said], "one").then(status, &[], "no");
        let app = origin.router(Policy::standard());
        body(&app, get(&[])).await;
        advance(61).await;
        assert_eq!(body(&app, get(&[])).await, expected, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_s_maxage_response_is_served_stale_only_if_the_policy_says_so() {
    let said = ("cache-control", "s-maxage=1, stale-while-revalidate=30");
    let lenient = Policy::standard().s_maxage_allows_stale();
    for (policy, expected) in [(Policy::standard(), "two"), (lenient, "one")] {
        let origin = Origin::default().then(200, &[said], "one").then(200, &[said], "two");
        let app = origin.router(policy);
        body(&app, get(&[])).await;
        advance(5).await;
        assert_eq!(body(&app, get(&[])).await, expected);
    }
}

#[tokio::test]
async fn conditions_reach_the_handler_if_its_responses_cannot_be_stored() {
    let no_store = ("cache-control", "no-store");
    for policy in both() {
        let origin = Origin::default()
            .then(200, &[no_store, TAGGED], "one")
            .then(304, &[no_store, TAGGED], "")
            .then(200, &[FRESH, TAGGED], "two");
        let app = origin.router(policy);
        let conditional = [("if-none-match", "\"v1\"")];
        assert_eq!(fetch(&app, &conditional).await.0, 304, "judged by the cache");
        assert!(!origin.last().contains_key("if-none-match"));
        assert_eq!(fetch(&app, &conditional).await.0, 304, "judged by the handler");
        assert_eq!(origin.last()["if-none-match"], "\"v1\"");
        // Once it may be stored, it is.
        assert_eq!(body(&app, get(&[])).await, "two");
        let (_, body, said) = fetch(&app, &[]).await;
        assert!(body == "two" && said.contains("hit"), "{said}");
    }
}

#[tokio::test]
async fn a_missing_variant_is_reported_as_vary_miss() {
    let varies = [FRESH, ("vary", "a")];
    let origin = Origin::default().then(200, &varies, "one").then(200, &varies, "two");
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), Policy::standard());
    let app = origin.behind(layer);
    assert!(fetch(&app, &[("a", "1")]).await.2.contains("fwd=uri-miss"));
    let said = fetch(&app, &[("a", "2")]).await.2;
    assert!(said.contains("fwd=vary-miss"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_does_not_stop_the_removal_of_a_stored_response() {
    let origin =
        Origin::default().then(200, &[], "one").then(410, &[], "gone").then(500, &[], "failed");
    let policy = Policy::ttl(Duration::from_mins(1)).stale_if_error(Duration::from_mins(10));
    // Removing an entry takes a moment, as across a network.
    let store = HookedStore::new(|call| match call {
        StoreCall::Remove => tokio::task::yield_now().map(Ok).boxed(),
        _ => ready(Ok(())).boxed(),
    });
    let cache = Cache::new(store);
    let app = origin.behind(CacheLayer::with_policy(cache, policy));
    body(&app, get(&[])).await;
    advance(61).await;
    assert!(send(&app, get(&[])).now_or_never().is_none(), "it waits for the store");
    assert_eq!(origin.runs(), 2);
    advance(1).await;
    assert_eq!(fetch(&app, &[]).await.1, "failed", "and nothing older in place of the error");
}

/// A shared store that takes one entry and then is full. It still removes entries.
fn full_after_one() -> HookedStore {
    let is_full = AtomicBool::new(false);
    let hook = move |call| -> Result<(), StoreError> {
        let is_refused = match call {
            StoreCall::Put => is_full.swap(true, Ordering::SeqCst),
            StoreCall::Lease => is_full.load(Ordering::SeqCst),
            StoreCall::Get | StoreCall::Remove => false,
        };
        if is_refused { Err(StoreError::Backend("out of memory".into())) } else { Ok(()) }
    };
    HookedStore::new(move |call| Box::pin(ready(hook(call)))).shared()
}

/// RFC 9111, section 4: the most recent of several stored responses is used.
#[tokio::test(start_paused = true)]
async fn a_newer_response_in_memory_is_not_replaced_by_an_older_shared_one() {
    let long = ("cache-control", "max-age=3600");
    let origin = Origin::default().then(200, &[long], "old").then(200, &[long], "new").then(
        200,
        &[long],
        "",
    );
    let shared = full_after_one();
    let cache = Cache::new(Tiered::unguarded(Memory::new(1 << 20), shared));
    let app = origin.behind(CacheLayer::with_policy(cache, Policy::standard()));
    let reload = [("cache-control", "no-cache")];
    assert_eq!(body(&app, get(&[])).await, "old");
    advance(1).await;
    assert_eq!(body(&app, get(&reload)).await, "new");
    send(&app, by(Method::HEAD, "/", &reload)).await;
    assert_eq!(body(&app, get(&[])).await, "new");
}

/// A Redis that is full refuses SET, and so opens the circuit breaker of writes, but not DEL.
#[tokio::test(start_paused = true)]
async fn a_full_shared_store_does_not_bring_back_a_removed_response() {
    for policy in [Policy::standard(), Policy::standard().stale_if_error(Duration::from_hours(2))] {
        let long = ("cache-control", "max-age=3600");
        let mut origin = Origin::default().then(200, &[long], "one");
        for _ in 0..10 {
            origin = origin.then(200, &[long], "another");
        }
        let origin = origin.then(404, &[("cache-control", "no-store")], "gone");
        let shared = full_after_one();
        let cache = Cache::new(Tiered::new(Memory::new(1 << 20), shared));
        let app = origin.behind(CacheLayer::with_policy(cache.clone(), policy));
        assert_eq!(body(&app, get(&[])).await, "one");
        for other in 0..10 {
            let uri = format!("/{other}");
            assert_eq!(body(&app, by(Method::GET, &uri, &[])).await, "another");
            tokio::task::yield_now().await;
        }
        eventually("the breaker is open", async || cache.store_status().breaker_open == Some(true))
            .await;
        assert_eq!(body(&app, get(&[("cache-control", "no-cache")])).await, "gone");
        assert_eq!(body(&app, get(&[])).await, "run 13");
    }
}

/// A body whose parts come one by one, without a declared length.
fn in_parts(parts: &'static [&'static str]) -> Body {
    let parts = stream::iter(parts).then(async |part| {
        tokio::task::yield_now().await;
        Ok::<_, Infallible>(*part)
    });
    Body::from_stream(parts)
}

/// A body that ends with a trailer.
fn with_trailer(name: &'static str, value: &'static str) -> Body {
    let trailers = HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
    let frames = [Frame::data(Bytes::from_static(b"two")), Frame::trailers(trailers)];
    Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))))
}

fn stale(body: Body) -> Response<Body> {
    Response::builder().header(STALE.0, STALE.1).body(body).unwrap()
}

/// Responses that their heads allow to store, under a policy with a limit of 8 bytes.
fn unstorable() -> [Response<Body>; 6] {
    let of_tag = |tag: &[u8]| {
        let mut response = stale(Body::from("two"));
        response.headers_mut().insert("xkey", HeaderValue::from_bytes(tag).unwrap());
        response
    };
    let at_hand = stream::iter(["a longer ", "page"].map(Ok::<_, Infallible>));
    [
        stale(Body::from("a longer page")),
        stale(Body::from_stream(at_hand)),
        stale(in_parts(&["a longer ", "page"])),
        stale(with_trailer("set-cookie", "a=b")),
        of_tag(b"\xff"),
        of_tag("tag ".repeat(257).as_bytes()),
    ]
}

fn limited(policy: &Policy) -> Policy {
    policy.clone().body_limit(8).tag_fields(["xkey"])
}

/// RFC 9111, section 4.3.3.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_cannot_be_stored_removes_the_stored_response() {
    for policy in both() {
        for (at, response) in unstorable().into_iter().enumerate() {
            let origin = Origin::default().then(200, &[STALE], "one").then_sends(response);
            let app = origin.router(limited(&policy));
            assert_eq!(body(&app, get(&[])).await, "one");
            advance(61).await;
            assert_eq!(body(&app, get(&[])).await, "one", "stale, and renewed in the background");
            eventually("the renewal", async || origin.runs() == 2).await;
            sleep(Duration::from_millis(1)).await;
            assert_eq!(body(&app, get(&[])).await, "run 3", "{at} {policy:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_does_not_revive_a_response_older_than_one_that_was_not_stored() {
    for policy in both() {
        let policy = policy.stale_while_revalidate(Duration::ZERO);
        for (at, response) in unstorable().into_iter().enumerate() {
            let said = ("cache-control", "max-age=60, stale-if-error=600");
            let origin = Origin::default().then(200, &[said], "one").then_sends(response).then(
                503,
                &[],
                "broken",
            );
            let app = origin.router(limited(&policy));
            body(&app, get(&[])).await;
            advance(61).await;
            assert_ne!(body(&app, get(&[])).await, "one");
            assert_eq!(body(&app, get(&[])).await, "broken", "{at} {policy:?}");
        }
    }
}

/// Such a failure says nothing about the page.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_breaks_off_keeps_the_stored_response() {
    for policy in both() {
        let mut short = stale(Body::from("tw"));
        short.headers_mut().insert("content-length", HeaderValue::from_static("3"));
        let broken = stream::iter([Ok("tw"), Err(std::io::Error::other("broken"))]);
        for response in [short, stale(Body::from_stream(broken))] {
            let origin = Origin::default().then(200, &[STALE], "one").then_sends(response);
            let app = origin.router(limited(&policy));
            body(&app, get(&[])).await;
            advance(61).await;
            assert_eq!(body(&app, get(&[])).await, "one");
            eventually("the renewal", async || origin.runs() == 2).await;
            sleep(Duration::from_millis(1)).await;
            assert_eq!(body(&app, get(&[])).await, "one", "{policy:?}");
        }
    }
}

/// As behind a gateway that names the client in each request.
#[tokio::test(start_paused = true)]
async fn a_renewal_for_an_identified_client_is_computed_for_all() {
    let public = ("cache-control", "public, max-age=60, stale-while-revalidate=600");
    let client = [("x-api-key", "1"), ("x-forwarded-user", "ada"), ("accept", "text/html")];
    for (status, header) in ENDS {
        let origin = Origin::default().then(200, &[public], "one").then(status, &[header], "gone");
        let app = origin.router(Policy::standard());
        assert_eq!(body(&app, get(&client)).await, "one");
        advance(61).await;
        assert_eq!(body(&app, get(&client)).await, "one", "stale, and renewed in the background");
        eventually("the renewal", async || origin.runs() == 2).await;
        settled().await;
        let sent = origin.last();
        assert!(!sent.contains_key("x-api-key") && !sent.contains_key("x-forwarded-user"));
        assert_eq!(sent["accept"], "text/html");
        // A request for an identity says nothing about the response to a client with one.
        let wants_identity = matches!(status, 401 | 403 | 407 | 300..=399);
        let expected = if wants_identity { "one" } else { "run 3" };
        assert_eq!(body(&app, get(&client)).await, expected, "{status} {header:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_without_an_identity_stores_nothing() {
    let public = ("cache-control", "public, max-age=60, stale-while-revalidate=600");
    for (status, header) in [(401, public), (403, public), (302, ("location", "/login"))] {
        let origin = Origin::default()
            .then(200, &[public], "one")
            .then(status, &[public, header], "log in")
            .then(200, &[public], "two");
        let app = origin.router(Policy::standard());
        let client = [("x-api-key", "1")];
        body(&app, get(&client)).await;
        advance(61).await;
        assert_eq!(body(&app, get(&client)).await, "one");
        eventually("the renewal", async || origin.runs() == 2).await;
        settled().await;
        assert_eq!(body(&app, get(&client)).await, "one", "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_keeps_the_identity_by_which_the_response_varies() {
    let public = ("cache-control", "public, max-age=60, stale-while-revalidate=600");
    let named = Policy::standard().vary(["x-api-key"]);
    for (policy, headers) in
        [(named, &[public][..]), (Policy::standard(), &[public, ("vary", "x-api-key")])]
    {
        let origin = Origin::default().then(200, headers, "one").then(200, headers, "two");
        let app = origin.router(policy);
        let client = [("x-api-key", "1"), ("x-forwarded-user", "ada")];
        body(&app, get(&client)).await;
        advance(61).await;
        assert_eq!(body(&app, get(&client)).await, "one");
        eventually("the renewal", async || origin.runs() == 2).await;
        settled().await;
        let sent = origin.last();
        assert_eq!(sent["x-api-key"], "1");
        assert!(!sent.contains_key("x-forwarded-user"));
        assert_eq!(body(&app, get(&client)).await, "two");
    }
}

/// RFC 9211, section 2.2.
#[tokio::test(start_paused = true)]
async fn a_fresh_response_in_place_of_an_error_is_reported_as_fwd_request() {
    let said = ("cache-control", "max-age=60, stale-if-error=600");
    let origin = Origin::default().then(200, &[said], "one").then(503, &[], "").then(503, &[], "");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    for (seconds, expected) in [(1, "fwd=request; ttl=59"), (60, "fwd=stale; ttl=-1")] {
        advance(seconds).await;
        let (_, body, reported) = fetch(&app, &[("cache-control", "no-cache")]).await;
        let expected = format!("tidegate; {expected}; detail=\"stale-if-error\"");
        assert_eq!((body.as_str(), reported), ("one", expected));
    }
}
