//! The layer in front of an axum router, without servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{cache, fetch, read, send, settled};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::http::{Method, Request, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::BodyExt;
use tidegate::{Cache, CacheLayer, Policy};
use tokio::sync::{Notify, Semaphore};

const TTL: Duration = Duration::from_mins(1);

/// How often the handler ran.
#[derive(Clone, Default)]
struct Runs(Arc<AtomicUsize>);

impl Runs {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

async fn counted(State(runs): State<Runs>, RawQuery(query): RawQuery) -> String {
    format!("{} {}", runs.next(), query.unwrap_or_default())
}

/// A router with one route that says how often it ran.
fn app(cache: &Cache, runs: &Runs, policy: Policy) -> Router {
    Router::new()
        .route("/", get(counted).post(counted))
        .layer(CacheLayer::new(cache.clone()).route("/", policy))
        .with_state(runs.clone())
}

#[tokio::test]
async fn a_miss_is_stored_and_then_hit() {
    let (cache, runs) = (cache(), Runs::default());
    let app = app(&cache, &runs, Policy::ttl(TTL).jitter(0.0));
    let (body, status) = fetch(&app, "/?a").await;
    assert_eq!(body, "1 a");
    assert_eq!(status, "tidegate; fwd=uri-miss; fwd-status=200; stored; detail=\"absent\"");
    let (body, status) = fetch(&app, "/?a").await;
    assert_eq!(body, "1 a");
    assert_eq!(status, "tidegate; hit; ttl=60; detail=\"memory\"");
    assert_eq!(fetch(&app, "/?b").await.0, "2 b");
}

#[tokio::test]
async fn a_hit_repeats_the_stored_response_with_its_age() {
    let cache = cache();
    let handler = || async {
        (
            [("content-type", "text/x"), ("x-two", "1"), ("connection", "x-hop"), ("x-hop", "1")],
            "hi",
        )
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache).route("/", Policy::ttl(TTL)));
    let request = || Request::get("/").body(Body::empty()).unwrap();
    send(&app, request()).await;
    let hit = send(&app, request()).await;
    assert_eq!(hit.status(), StatusCode::OK);
    assert_eq!(hit.headers()["content-type"], "text/x");
    assert_eq!(hit.headers()["age"], "0");
    assert!(!hit.headers().contains_key("connection"));
    assert!(!hit.headers().contains_key("x-hop"));
    assert_eq!(read(hit).await.0, "hi");
}

#[tokio::test]
async fn invalidating_a_tag_recomputes_exactly_the_entries_with_it() {
    let (cache, runs) = (cache(), Runs::default());
    let user = |State(runs): State<Runs>, Path(id): Path<u32>| async move {
        format!("{id}: {}", runs.next())
    };
    let policy = Policy::ttl(TTL).tag("users:id={id}");
    let app = Router::new()
        .route("/users/{id}", get(user))
        .layer(CacheLayer::new(cache.clone()).route("/users/{id}", policy))
        .with_state(runs);
    assert_eq!(fetch(&app, "/users/1").await.0, "1: 1");
    assert_eq!(fetch(&app, "/users/2").await.0, "2: 2");
    cache.invalidate(["users:id=1"]).await.unwrap();
    let (body, status) = fetch(&app, "/users/1").await;
    assert_eq!(body, "1: 3");
    assert!(status.contains("fwd=stale") && status.contains("changed"), "{status}");
    assert_eq!(fetch(&app, "/users/2").await.0, "2: 2");
    cache.invalidate(["users"]).await.unwrap();
    assert_eq!(fetch(&app, "/users/1").await.0, "1: 4");
    assert_eq!(fetch(&app, "/users/2").await.0, "2: 5");
}

#[tokio::test]
async fn a_request_whose_parameter_cannot_fill_the_tag_bypasses_the_cache() {
    let (cache, runs) = (cache(), Runs::default());
    let policy = Policy::ttl(TTL).tag("users:id={id}");
    let app = Router::new()
        .route("/users/{id}", get(counted))
        .layer(CacheLayer::new(cache.clone()).route("/users/{id}", policy))
        .with_state(runs);
    for run in 1..3 {
        let (body, status) = fetch(&app, "/users/%ff").await;
        assert_eq!(body, format!("{run} "));
        assert_eq!(status, "tidegate; fwd=bypass; detail=\"no-parameter\"");
    }
}

#[tokio::test]
async fn an_entry_is_invalidated_by_another_spelling_of_its_tag_value() {
    let (cache, runs) = (cache(), Runs::default());
    let user =
        |State(runs): State<Runs>, Path(_): Path<u32>| async move { runs.next().to_string() };
    let policy = Policy::ttl(TTL).tag("users:id={id}");
    let app = Router::new()
        .route("/users/{id}", get(user))
        .layer(CacheLayer::new(cache.clone()).route("/users/{id}", policy))
        .with_state(runs);
    assert_eq!(fetch(&app, "/users/042").await.0, "1");
    cache.invalidate(["users:id=42"]).await.unwrap();
    assert_eq!(fetch(&app, "/users/042").await.0, "2");
}

#[tokio::test]
async fn a_fill_overtaken_by_an_invalidation_is_not_stored() {
    let (cache, runs, gate) = (cache(), Runs::default(), Arc::new(Notify::new()));
    let handler = {
        let (runs, gate) = (runs.clone(), gate.clone());
        move || async move {
            let run = runs.next();
            if run == 1 {
                gate.notify_one();
                gate.notified().await;
            }
            run.to_string()
        }
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache.clone()).route("/", Policy::ttl(TTL).tag("t")));
    let first = tokio::spawn({
        let app = app.clone();
        async move { fetch(&app, "/").await }
    });
    gate.notified().await;
    cache.invalidate(["t"]).await.unwrap();
    gate.notify_one();
    let (body, status) = first.await.unwrap();
    assert_eq!(body, "1");
    assert!(status.contains("overtaken"), "{status}");
    assert_eq!(fetch(&app, "/").await.0, "2");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_concurrent_requests_cause_one_run() {
    let (cache, runs, gate) = (cache(), Runs::default(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (runs, gate) = (runs.clone(), gate.clone());
        move || async move {
            let run = runs.next();
            gate.acquire().await.unwrap().forget();
            run.to_string()
        }
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache.clone()).route("/", Policy::ttl(TTL)));
    let requests: Vec<_> = (0..1000)
        .map(|_| {
            let app = app.clone();
            tokio::spawn(async move { fetch(&app, "/").await })
        })
        .collect();
    settled().await;
    gate.add_permits(1);
    for request in requests {
        assert_eq!(request.await.unwrap().0, "1");
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_disconnects_hands_the_fill_to_a_waiter() {
    let (cache, runs, gate) = (cache(), Runs::default(), Arc::new(Semaphore::new(0)));
    let handler = {
        let (runs, gate) = (runs.clone(), gate.clone());
        move || async move {
            let run = runs.next();
            gate.acquire().await.unwrap().forget();
            run.to_string()
        }
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache).route("/", Policy::ttl(TTL)));
    let spawn = || {
        let app = app.clone();
        tokio::spawn(async move { fetch(&app, "/").await })
    };
    let leaves = spawn();
    settled().await;
    assert_eq!(runs.count(), 1);
    let stays = spawn();
    settled().await;
    leaves.abort();
    gate.add_permits(1);
    assert_eq!(stays.await.unwrap().0, "2");
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_served_while_it_is_recomputed() {
    let (cache, runs) = (cache(), Runs::default());
    let policy = Policy::ttl(TTL).jitter(0.0).early_refresh(0.0).stale_while_revalidate(TTL);
    let app = app(&cache, &runs, policy.tag("front-page"));
    fetch(&app, "/").await;
    tokio::time::advance(TTL + Duration::from_secs(1)).await;
    let (body, status) = fetch(&app, "/").await;
    assert_eq!(body, "1 ");
    assert_eq!(status, "tidegate; hit; ttl=-1; detail=\"stale-while-revalidate\"");
    settled().await;
    assert_eq!(fetch(&app, "/").await.0, "2 ");
    assert_eq!(runs.count(), 2);
    cache.invalidate(["front-page"]).await.unwrap();
    assert_eq!(fetch(&app, "/").await.0, "3 ", "the recomputed response has its tags");
}

/// A handler that fails on demand.
fn failing(cache: &Cache, runs: &Runs, policy: Policy) -> Router {
    let handler = |State(runs): State<Runs>| async move {
        match runs.next() {
            1 => "fine".into_response(),
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    };
    Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache.clone()).route("/", policy))
        .with_state(runs.clone())
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_replaces_an_error_only_within_the_stale_if_error_window() {
    let (cache, runs) = (cache(), Runs::default());
    let app = failing(&cache, &runs, Policy::ttl(TTL).jitter(0.0).stale_if_error(TTL).tag("t"));
    fetch(&app, "/").await;
    cache.invalidate(["t"]).await.unwrap();
    let (body, status) = fetch(&app, "/").await;
    assert_eq!(body, "fine");
    assert!(status.contains("fwd=stale") && status.contains("stale-if-error"), "{status}");
    tokio::time::advance(TTL * 2).await;
    let response = send(&app, Request::get("/").body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn an_error_is_never_stored() {
    let (cache, runs) = (cache(), Runs::default());
    runs.next();
    let app = failing(&cache, &runs, Policy::ttl(TTL).negative_ttl(TTL));
    for _ in 0..2 {
        let response = send(&app, Request::get("/").body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(runs.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_404_is_stored_only_if_the_policy_sets_a_negative_ttl() {
    let handler =
        |State(runs): State<Runs>| async move { (StatusCode::NOT_FOUND, runs.next().to_string()) };
    let app = |policy| {
        Router::new()
            .route("/", get(handler))
            .layer(CacheLayer::new(cache()).route("/", policy))
            .with_state(Runs::default())
    };
    let without = app(Policy::ttl(TTL));
    fetch(&without, "/").await;
    assert_eq!(fetch(&without, "/").await.0, "2");
    let with = app(Policy::ttl(TTL).negative_ttl(Duration::from_secs(5)).jitter(0.0));
    fetch(&with, "/").await;
    assert_eq!(fetch(&with, "/").await.0, "1");
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(fetch(&with, "/").await.0, "2");
}

#[tokio::test]
async fn a_body_over_the_limit_is_forwarded_whole_and_not_stored() {
    let body = |size: usize| Router::new().route("/", get(move || async move { vec![7u8; size] }));
    for (size, stored) in [(1000, true), (1001, false)] {
        let policy = Policy::ttl(TTL).body_limit(1000);
        let app = body(size).layer(CacheLayer::new(cache()).route("/", policy));
        let (first, status) = fetch(&app, "/").await;
        assert_eq!(first.len(), size);
        assert_eq!(status.contains("; stored"), stored, "{status}");
        assert_eq!(fetch(&app, "/").await.1.contains("hit"), stored);
    }
}

#[tokio::test]
async fn a_streamed_body_reaches_the_client_frame_by_frame_and_is_stored_at_its_end() {
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = gate.clone();
        move || async move {
            let parts = stream::iter(["a", "b", "c"]).then(move |part| {
                let gate = gate.clone();
                async move {
                    gate.acquire().await.unwrap().forget();
                    Ok::<_, std::convert::Infallible>(Bytes::from(part))
                }
            });
            Body::from_stream(parts)
        }
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache()).route("/", Policy::ttl(TTL)));
    let mut response = send(&app, Request::get("/").body(Body::empty()).unwrap()).await;
    gate.add_permits(1);
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "a");
    gate.add_permits(2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "bc");
    let (body, status) = fetch(&app, "/").await;
    assert_eq!((body.as_str(), status.contains("hit")), ("abc", true));
}

#[tokio::test]
async fn a_body_that_ends_in_an_error_is_not_stored() {
    let runs = Runs::default();
    let handler = |State(runs): State<Runs>| async move {
        let parts = match runs.next() {
            1 => vec![Ok("half"), Err(std::io::Error::other("broke off"))],
            _ => vec![Ok("whole")],
        };
        Body::from_stream(stream::iter(parts))
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache()).route("/", Policy::ttl(TTL)))
        .with_state(runs);
    let first = send(&app, Request::get("/").body(Body::empty()).unwrap()).await;
    assert!(first.into_body().collect().await.is_err());
    assert_eq!(fetch(&app, "/").await.0, "whole");
}

#[tokio::test]
async fn head_is_served_from_a_stored_get_and_never_fills_it() {
    let (cache, runs) = (cache(), Runs::default());
    let app = app(&cache, &runs, Policy::ttl(TTL));
    let head = || Request::builder().method(Method::HEAD).uri("/").body(Body::empty()).unwrap();
    send(&app, head()).await;
    assert_eq!(fetch(&app, "/").await.0, "2 ");
    let response = send(&app, head()).await;
    assert_eq!(response.headers()["content-length"], "2");
    let (body, status) = read(response).await;
    assert_eq!((body.as_str(), status.contains("hit")), ("", true));
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn post_cookies_and_no_store_bypass_the_cache() {
    let (cache, runs) = (cache(), Runs::default());
    let app = app(&cache, &runs, Policy::ttl(TTL));
    fetch(&app, "/").await;
    let passed = |request: Request<Body>| {
        let app = app.clone();
        async move { read(send(&app, request).await).await }
    };
    let (body, status) = passed(Request::post("/").body(Body::empty()).unwrap()).await;
    assert_eq!((body.as_str(), status.as_str()), ("2 ", "tidegate; fwd=method; detail=\"method\""));
    let personal = Request::get("/").header("cookie", "sid=1").body(Body::empty()).unwrap();
    let (body, status) = passed(personal).await;
    assert_eq!(
        (body.as_str(), status.as_str()),
        ("3 ", "tidegate; fwd=bypass; detail=\"personal\"")
    );
    let unstored =
        Request::get("/").header("cache-control", "no-store").body(Body::empty()).unwrap();
    assert_eq!(passed(unstored).await.1, "tidegate; fwd=request; detail=\"no-store\"");
}

#[tokio::test]
async fn switching_the_cache_off_bypasses_it_until_it_is_switched_on() {
    let (cache, runs) = (cache(), Runs::default());
    let app = app(&cache, &runs, Policy::ttl(TTL));
    fetch(&app, "/").await;
    cache.set_off(true);
    assert_eq!(
        fetch(&app, "/").await,
        ("2 ".into(), "tidegate; fwd=bypass; detail=\"off\"".into())
    );
    cache.set_off(false);
    assert_eq!(fetch(&app, "/").await.0, "1 ");
}

#[tokio::test]
async fn routers_nested_under_two_prefixes_never_share_a_response() {
    let cache = cache();
    let inner = |name: &'static str| {
        Router::new()
            .route("/x", get(move || async move { name }))
            .layer(CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL)))
    };
    let app = Router::new().nest("/a", inner("in a")).nest("/b", inner("in b"));
    for _ in 0..2 {
        assert_eq!(fetch(&app, "/a/x").await.0, "in a");
        assert_eq!(fetch(&app, "/b/x").await.0, "in b");
    }
}

#[tokio::test]
async fn a_matching_if_none_match_gets_a_304() {
    let handler = || async { ([("etag", "\"v1\"")], "body") };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::new(cache()).route("/", Policy::ttl(TTL)));
    let conditional = |etag| Request::get("/").header("if-none-match", etag).body(Body::empty());
    let first = send(&app, conditional("\"v1\"").unwrap()).await;
    assert_eq!(first.status(), StatusCode::NOT_MODIFIED, "though the handler sent it whole");
    let response = send(&app, conditional("\"v0\", W/\"v1\"").unwrap()).await;
    assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    assert_eq!(read(response).await.0, "");
    assert_eq!(send(&app, conditional("\"v2\"").unwrap()).await.status(), StatusCode::OK);
}

/// Two responses of one second have one date, and a client that has the first would keep it.
#[tokio::test]
async fn under_a_ttl_policy_if_modified_since_never_gets_a_304() {
    let dated = |name, date: &'static str| {
        let response = [("date", "Sun, 06 Nov 1994 08:49:40 GMT"), (name, date)];
        get(async move || (response, "body"))
    };
    let of_noon = "Sun, 06 Nov 1994 08:49:37 GMT";
    let app = Router::new()
        .route("/changed", dated("last-modified", of_noon))
        .route("/undated", dated("x-other", "value"))
        .layer(
            CacheLayer::new(cache())
                .route("/changed", Policy::ttl(TTL))
                .route("/undated", Policy::ttl(TTL)),
        );
    for path in ["/changed", "/undated"] {
        for since in [of_noon, "Sun, 06 Nov 1994 08:49:40 GMT", "Sun, 06 Nov 2044 08:49:40 GMT"] {
            let request = Request::get(path).header("if-modified-since", since);
            let response = send(&app, request.body(Body::empty()).unwrap()).await;
            assert_eq!(response.status(), StatusCode::OK, "{path} {since}");
        }
        assert!(fetch(&app, path).await.1.contains("hit"));
    }
}

#[tokio::test]
async fn an_invalid_policy_is_reported_by_validate_and_not_used() {
    let layer = CacheLayer::new(cache())
        .route("/a", Policy::ttl(Duration::ZERO))
        .route("/users/{id}", Policy::ttl(TTL).tag("users:id={user}"))
        .route("/shops/{id}/users/{id}", Policy::ttl(TTL).tag("users:id={id}"));
    let message = layer.clone().validate().unwrap_err().to_string();
    assert!(message.contains("/a") && message.contains("TTL"), "{message}");
    assert!(message.contains("/users/{id}") && message.contains("{user}"), "{message}");
    assert!(
        message.contains("/shops/{id}/users/{id}") && message.contains("more than once"),
        "{message}"
    );
    let runs = Runs::default();
    let app = Router::new().route("/a", get(counted)).layer(layer).with_state(runs);
    assert_eq!(fetch(&app, "/a").await.1, "tidegate; fwd=bypass; detail=\"no-policy\"");
}
