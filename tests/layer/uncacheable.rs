//! Responses that can't be stored, and who waits for them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::{HeaderMap, Request, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::future::{join, join_all};
use futures_util::stream::{self, StreamExt};
use tidegate::{Cache, CacheLayer, Key, Memory, Policy, Record, Uncacheable, ValuePolicy};
use tokio::time::{Instant, sleep};

use crate::common::{fetch, send};

/// So long that a test which waits for it shows it.
const WAIT: Duration = Duration::from_hours(1);

const SECOND: Duration = Duration::from_secs(1);

fn layer() -> CacheLayer {
    let policy = Policy::standard().wait(WAIT);
    CacheLayer::new(Cache::new(Memory::new(16 << 20))).route("/{id}", policy)
}

/// A route whose handler takes a second. Ids from a thousand on may be stored.
fn slow() -> (Router, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = async move |Path(id): Path<u32>| {
        counted.fetch_add(1, Ordering::SeqCst);
        sleep(SECOND).await;
        let said = if id < 1000 { "no-store" } else { "max-age=60" };
        ([("cache-control", said)], "body")
    };
    (Router::new().route("/{id}", get(handler)).layer(layer()), runs)
}

/// How often the handler runs for ten requests at a time, and how long that takes.
async fn burst((app, runs): &(Router, Arc<AtomicUsize>), id: u32) -> (usize, Duration) {
    let (before, began) = (runs.load(Ordering::SeqCst), Instant::now());
    let uri = format!("/{id}");
    join_all((0..10).map(|_| fetch(app, &uri))).await;
    (runs.load(Ordering::SeqCst) - before, began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn requests_for_new_paths_of_an_uncacheable_route_do_not_wait() {
    let route = slow();
    assert_eq!(burst(&route, 0).await, (10, 2 * SECOND), "nothing is known yet");
    assert_eq!(burst(&route, 0).await, (10, SECOND), "this path is known");
    for id in 1..32 {
        burst(&route, id).await;
    }
    assert_eq!(burst(&route, 32).await, (10, SECOND), "the route is known");
}

#[tokio::test(start_paused = true)]
async fn one_uncacheable_path_does_not_make_its_route_uncacheable() {
    let route = slow();
    for _ in 0..64 {
        burst(&route, 0).await;
    }
    assert_eq!(burst(&route, 1000).await, (1, SECOND));
}

#[tokio::test(start_paused = true)]
async fn one_stored_response_makes_requests_share_again() {
    let route = slow();
    for id in 0..64 {
        burst(&route, id).await;
    }
    assert_eq!(burst(&route, 1000).await, (10, SECOND));
    assert_eq!(burst(&route, 1001).await, (1, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_path_stored_before_is_shared_even_if_its_route_is_uncacheable() {
    let route = slow();
    burst(&route, 1000).await;
    for id in 0..64 {
        burst(&route, id).await;
    }
    sleep(100 * SECOND).await;
    assert_eq!(burst(&route, 1000).await, (1, SECOND), "it has expired, and is still there");
}

/// A handler whose response has these fields, and a body that never ends; it may write.
fn endless(fields: &'static [(&'static str, &'static str)], writes: bool) -> Router {
    let handler = async move || {
        if writes {
            Record::current().unwrap().wrote();
        }
        let first = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"part"))]);
        let body = Body::from_stream(first.chain(stream::pending()));
        let response = Response::builder().header("cache-control", "max-age=60");
        fields
            .iter()
            .fold(response, |response, field| response.header(field.0, field.1))
            .body(body)
            .unwrap()
    };
    Router::new().route("/{id}", get(handler)).layer(layer())
}

#[tokio::test(start_paused = true)]
async fn requests_do_not_wait_for_a_body_whose_head_prevents_storing() {
    for (fields, writes, token) in [
        (&[("content-length", "2000000")][..], false, "too-large"),
        (&[("content-length", "2000")], true, "wrote"),
        (&[("content-length", "2000"), ("vary", "*")], false, "vary"),
    ] {
        let (app, began) = (endless(fields, writes), Instant::now());
        let get = || Request::get("/1").body(Body::empty()).unwrap();
        // All are open at once, and none reads its body.
        let open = join_all((0..10).map(|_| send(&app, get()))).await;
        assert_eq!(began.elapsed(), Duration::ZERO, "{token}");
        for response in open {
            let status = response.headers()["cache-status"].to_str().unwrap();
            assert!(status.contains(token), "{token}: {status}");
        }
    }
}

/// A page for all, whose handler takes a second. For a visitor with cookies it says no more than `said`.
fn page(said: &'static str) -> (Router, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = async move |headers: HeaderMap| {
        counted.fetch_add(1, Ordering::SeqCst);
        sleep(SECOND).await;
        let said = if headers.contains_key("cookie") { said } else { "max-age=60" };
        ([("cache-control", said)], "body")
    };
    (Router::new().route("/{id}", get(handler)).layer(layer()), runs)
}

/// `max-age` alone, for a request with cookies, is a response for this client.
const PERSONAL: [&str; 3] = ["max-age=60", "private", "no-store"];

async fn visit(app: &Router, id: u32, reload: bool) {
    let request = Request::get(format!("/{id}")).header("cookie", "_ga=1");
    let request = if reload { request.header("cache-control", "max-age=0") } else { request };
    send(app, request.body(Body::empty()).unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn after_a_personal_response_the_anonymous_requests_that_waited_share_one() {
    for said in PERSONAL {
        let route = page(said);
        let ((), anonymous) = join(visit(&route.0, 1, false), burst(&route, 1)).await;
        assert_eq!(anonymous, (1, 2 * SECOND), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn visitors_with_cookies_do_not_wait_for_an_anonymous_response_after_a_personal_one() {
    for said in PERSONAL {
        let (app, runs) = page(said);
        let began = Instant::now();
        join_all((0..10).map(|_| visit(&app, 1, false))).await;
        assert_eq!((runs.load(Ordering::SeqCst), began.elapsed()), (10, 2 * SECOND), "{said}");
        join_all((0..10).map(|_| visit(&app, 1, false))).await;
        assert_eq!((runs.load(Ordering::SeqCst), began.elapsed()), (20, 3 * SECOND), "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reload_with_cookies_does_not_end_the_sharing_of_a_page() {
    for said in PERSONAL {
        let route = page(said);
        assert_eq!(burst(&route, 1).await.0, 1);
        visit(&route.0, 1, true).await;
        sleep(61 * SECOND).await;
        assert_eq!(burst(&route, 1).await.0, 1, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn personal_responses_do_not_make_a_route_uncacheable() {
    for said in PERSONAL {
        let route = page(said);
        for id in 0..64 {
            visit(&route.0, id, false).await;
        }
        assert_eq!(burst(&route, 64).await.0, 1, "{said}");
        let began = Instant::now();
        join_all((0..10).map(|_| visit(&route.0, 65, false))).await;
        assert_eq!(began.elapsed(), 2 * SECOND, "{said}: the anonymous response was stored");
    }
}

#[tokio::test(start_paused = true)]
async fn visitors_with_cookies_do_not_wait_on_new_paths_after_many_personal_responses() {
    for said in PERSONAL {
        let (app, _) = page(said);
        for id in 0..32 {
            visit(&app, id, false).await;
        }
        let began = Instant::now();
        join_all((0..10).map(|_| visit(&app, 32, false))).await;
        assert_eq!(began.elapsed(), SECOND, "{said}");
    }
}

/// Also without a listener, where policies decide alone, and if the mark is set while a part is computed.
#[tokio::test]
async fn a_response_marked_as_uncacheable_is_stored_under_no_policy() {
    fn mark() -> &'static str {
        let weather = Uncacheable::new("weather", "the weather service was called");
        Record::current().unwrap().mark_uncacheable(weather);
        "fine"
    }
    for policy in [Policy::ttl(WAIT), Policy::ttl(WAIT).untracked(), Policy::standard()] {
        let cache = Cache::new(Memory::new(16 << 20));
        let (parts, key) = (cache.clone(), Key::new("part").finish());
        let values = ValuePolicy::ttl(WAIT).untracked().build().unwrap();
        let part = async move || {
            let load = async || Ok::<_, Infallible>(mark().to_owned());
            parts.get_or_load(&key, &values, load).await
        };
        let fresh = [("cache-control", "max-age=60")];
        let app = Router::new()
            .route("/whole", get(async move || (fresh, mark())))
            .route("/part", get(async move || (fresh, part().await.unwrap())))
            .route("/other", get(async move || (fresh, "fine")))
            .layer(CacheLayer::new(cache).default_policy(policy));
        for path in ["/whole", "/part"] {
            for _ in 0..2 {
                let (body, said) = fetch(&app, path).await;
                assert!(body == "fine" && said.contains("weather"), "{path}: {said}");
            }
        }
        fetch(&app, "/other").await;
        assert!(fetch(&app, "/other").await.1.contains("hit"));
    }
}

/// Nothing that contains them could be invalidated by a tag that is unknown or left out.
#[tokio::test]
async fn a_response_with_parts_whose_tags_are_incomplete_is_not_stored() {
    let values = || ValuePolicy::ttl(WAIT).untracked();
    let without_id = values().tag("carts:user={id}").build().unwrap();
    let plain = values().build().unwrap();
    let too_many =
        [plain.with_tags((0..10_001).map(|name| name.to_string())), plain.with_tags(["one more"])];
    for (token, parts) in
        [("missing-id", vec![without_id]), ("too-many-tags", too_many.to_vec()), ("", vec![plain])]
    {
        for policy in [Policy::ttl(WAIT), Policy::ttl(WAIT).untracked()] {
            let cache = Cache::new(Memory::new(64 << 20));
            let (inner, parts) = (cache.clone(), parts.clone());
            let page = async move || {
                for (at, policy) in parts.iter().enumerate() {
                    let key = Key::new("part").part(at.to_string()).finish();
                    let load = async || Ok::<_, Infallible>("part".to_owned());
                    inner.get_or_load(&key, policy, load).await.unwrap();
                }
                "page"
            };
            let layer = CacheLayer::new(cache).default_policy(policy);
            let app = Router::new().route("/", get(page)).layer(layer);
            fetch(&app, "/").await;
            let (_, said) = fetch(&app, "/").await;
            assert_eq!(said.contains("hit"), token.is_empty(), "{said}");
            assert!(said.contains(token), "{said}");
        }
    }
}
