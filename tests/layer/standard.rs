//! RFC 9111 through the layer: the headers of the response decide. Each rule alone is tested beside its code.

use std::time::Duration;

use crate::common::origin::{FRESH, Origin, TAGGED, body, by, get};
use crate::common::{read, send};
use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode};
use tidegate::{Cache, CacheLayer, Memory, Policy};

#[tokio::test(start_paused = true)]
async fn a_response_is_stored_for_its_lifetime_and_its_age_continues() {
    let origin = Origin::default().then(200, &[FRESH, ("age", "30")], "one");
    let app = origin.router(Policy::standard());
    assert_eq!(body(&app, get(&[])).await, "one");
    tokio::time::advance(Duration::from_secs(20)).await;
    let hit = send(&app, get(&[])).await;
    assert_eq!(hit.headers()["age"], "50");
    assert!(hit.headers().contains_key("date"));
    assert_eq!(read(hit).await.0, "one");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(body(&app, get(&[])).await, "run 2");
}

#[tokio::test]
async fn a_response_without_a_lifetime_is_not_stored() {
    let origin = Origin::default();
    let app = origin.router(Policy::standard());
    assert_eq!(body(&app, get(&[])).await, "run 1");
    let (body, status) = read(send(&app, get(&[])).await).await;
    assert_eq!(body, "run 2");
    assert!(status.contains("stale"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_revalidated_and_its_headers_are_updated() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED, ("a", "1"), ("b", "1")], "one").then(
        304,
        &[FRESH, ("a", "2")],
        "",
    );
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    let confirmed = send(&app, get(&[])).await;
    assert_eq!(origin.last()["if-none-match"], "\"v1\"");
    assert_eq!(confirmed.status(), StatusCode::OK);
    let headers = confirmed.headers().clone();
    assert_eq!(
        (&headers["a"], &headers["b"], &headers["etag"]),
        (&"2".parse().unwrap(), &"1".parse().unwrap(), &"\"v1\"".parse().unwrap())
    );
    let (text, status) = read(confirmed).await;
    assert_eq!(text, "one");
    assert!(status.contains("fwd=stale; fwd-status=304; stored"), "{status}");
    let hit = send(&app, get(&[])).await;
    assert_eq!(
        (hit.headers()["a"].as_bytes(), hit.headers()["age"].as_bytes()),
        (&b"2"[..], &b"0"[..])
    );
    assert_eq!(origin.runs(), 2);
}

#[tokio::test]
async fn a_no_cache_response_is_revalidated_for_each_request() {
    let no_cache = ("cache-control", "no-cache");
    let origin = Origin::default().then(200, &[no_cache, TAGGED], "one").then(304, &[], "").then(
        200,
        &[no_cache, ("etag", "\"v2\"")],
        "two",
    );
    let app = origin.router(Policy::standard());
    for expected in ["one", "one", "two"] {
        assert_eq!(body(&app, get(&[])).await, expected);
    }
    assert_eq!(origin.runs(), 3);
}

#[tokio::test]
async fn a_matching_if_none_match_gets_a_304_from_a_fill_a_hit_and_a_revalidation() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED], "one").then(304, &[FRESH], "");
    let app = origin.router(Policy::standard());
    let has = ("if-none-match", "W/\"v1\"");
    let reload = ("cache-control", "no-cache");
    for (request, from) in
        [(get(&[has]), "absent"), (get(&[has]), "memory"), (get(&[has, reload]), "requested")]
    {
        let response = send(&app, request).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{from}");
        assert_eq!(response.headers()["etag"], "\"v1\"");
        let (text, status) = read(response).await;
        assert!(text.is_empty() && status.contains(from), "{status}");
    }
    assert_eq!(body(&app, get(&[])).await, "one");
    assert_eq!(origin.runs(), 2);
}

#[tokio::test]
async fn variants_are_stored_side_by_side() {
    let vary = ("vary", "Accept-Language");
    let origin =
        Origin::default().then(200, &[FRESH, vary], "english").then(200, &[FRESH, vary], "deutsch");
    let app = origin.router(Policy::standard());
    let (en, de) = (("accept-language", "en"), ("accept-language", "de"));
    assert_eq!(body(&app, get(&[en])).await, "english");
    assert_eq!(body(&app, get(&[de])).await, "deutsch");
    for _ in 0..2 {
        let (text, status) = read(send(&app, get(&[en])).await).await;
        assert_eq!((text.as_str(), status.contains("; hit; ")), ("english", true), "{status}");
        assert_eq!(body(&app, get(&[de])).await, "deutsch");
    }
    assert_eq!(body(&app, get(&[])).await, "run 3");
}

#[tokio::test]
async fn a_response_whose_vary_field_changes_is_found_under_its_new_key() {
    let (once, never) = (("cache-control", "max-age=60"), ("cache-control", "no-store"));
    let origin = Origin::default()
        .then(200, &[once, ("vary", "a")], "by a")
        .then(200, &[once, ("vary", "b")], "by b")
        .then(200, &[once], "by none")
        .then(200, &[never], "never");
    let app = origin.router(Policy::standard());
    let reload = ("cache-control", "no-cache");
    assert_eq!(body(&app, get(&[("a", "1"), ("b", "1")])).await, "by a");
    assert_eq!(body(&app, get(&[("a", "1"), ("b", "2")])).await, "by a");
    assert_eq!(body(&app, get(&[("a", "2"), ("b", "1")])).await, "by b");
    assert_eq!(body(&app, get(&[("a", "9"), ("b", "1")])).await, "by b");
    assert_eq!(body(&app, get(&[("a", "9"), ("b", "1"), reload])).await, "by none");
    assert_eq!(body(&app, get(&[("a", "x"), ("b", "y")])).await, "by none");
    assert_eq!(origin.runs(), 3);
}

/// A handler whose response varies by `a` and contains its value. It takes 20 ms of paused time, which passes only once all
/// other requests wait.
fn varying() -> (Router, Cache) {
    let handler = |headers: HeaderMap| async move {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let value = headers["a"].to_str().unwrap().to_owned();
        ([FRESH, ("vary", "a")], value)
    };
    let cache = Cache::new(Memory::new(16 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), Policy::standard());
    (Router::new().fallback(handler).layer(layer), cache)
}

/// Requests each of these values of `a`, all at once; each request must get its own.
async fn each_gets_its_own(app: &Router, values: impl Iterator<Item = usize>) {
    let requests = values.map(|value| {
        let (app, value) = (app.clone(), value.to_string());
        async move { (body(&app, get(&[("a", &value)])).await, value) }
    });
    for (got, wanted) in futures_util::future::join_all(requests).await {
        assert_eq!(got, wanted);
    }
}

#[tokio::test(start_paused = true)]
async fn concurrent_requests_for_several_variants_store_each_once() {
    let (app, cache) = varying();
    each_gets_its_own(&app, (0..100).map(|at| at % 5)).await;
    assert_eq!(cache.counters().event(tidegate::Event::Stored), 5);
}

#[tokio::test(start_paused = true)]
async fn variants_that_evict_each_other_are_never_confused() {
    let (app, _) = varying();
    each_gets_its_own(&app, 0..1).await;
    each_gets_its_own(&app, 0..500).await;
    each_gets_its_own(&app, 0..500).await;
}

/// As many as there may be.
#[tokio::test(start_paused = true)]
async fn sixty_four_variants_are_all_stored() {
    let (app, cache) = varying();
    for value in 0..64 {
        each_gets_its_own(&app, value..=value).await;
    }
    for value in 0..64_usize {
        let (_, status) = read(send(&app, get(&[("a", &value.to_string())])).await).await;
        assert!(status.contains("; hit"), "{value}: {status}");
    }
    assert_eq!(cache.counters().event(tidegate::Event::Stored), 64);
}

#[tokio::test]
async fn ranges_are_served_from_the_stored_body() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED], "0123456789");
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    let fetch = |headers: &[(&str, &str)]| {
        let (app, request) = (app.clone(), get(headers));
        async move {
            let response = send(&app, request).await;
            let range = response.headers().get("content-range").cloned();
            let range = range.map(|range| range.to_str().unwrap().to_owned());
            (response.status().as_u16(), range.unwrap_or_default(), read(response).await.0)
        }
    };
    assert_eq!(fetch(&[("range", "bytes=2-4")]).await, (206, "bytes 2-4/10".into(), "234".into()));
    assert_eq!(fetch(&[("range", "bytes=-2")]).await, (206, "bytes 8-9/10".into(), "89".into()));
    assert_eq!(fetch(&[("range", "bytes=10-")]).await, (416, "bytes */10".into(), String::new()));
    let whole = (200, String::new(), "0123456789".into());
    assert_eq!(fetch(&[("range", "bytes=0-1,4-5")]).await, whole);
    assert_eq!(fetch(&[("range", "bytes=0-1"), ("if-range", "\"v0\"")]).await, whole);
    let same = [("range", "bytes=0-1"), ("if-range", "\"v1\"")];
    assert_eq!(fetch(&same).await, (206, "bytes 0-1/10".into(), "01".into()));
    assert_eq!(origin.runs(), 1);
}

#[tokio::test]
async fn a_range_of_an_unstored_response_comes_from_the_origin_and_is_not_stored() {
    let part = [FRESH, ("content-range", "bytes 0-1/10")];
    let origin = Origin::default().then(206, &part, "01").then(200, &[FRESH], "0123456789");
    let app = origin.router(Policy::standard());
    let response = send(&app, get(&[("range", "bytes=0-1")])).await;
    assert_eq!(response.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(origin.last()["range"], "bytes=0-1");
    assert_eq!(body(&app, get(&[])).await, "0123456789");
}

#[tokio::test(start_paused = true)]
async fn a_head_response_updates_the_stored_response_or_removes_it() {
    let origin = Origin::default()
        .then(200, &[FRESH, TAGGED, ("a", "1")], "one")
        .then(200, &[FRESH, TAGGED, ("a", "2")], "")
        .then(200, &[FRESH, ("etag", "\"v2\"")], "");
    let app = origin.router(Policy::standard());
    let head = || by(Method::HEAD, "/", &[]);
    body(&app, get(&[])).await;
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(send(&app, head()).await.headers()["a"], "2");
    let hit = send(&app, get(&[])).await;
    assert_eq!(hit.headers()["a"], "2");
    assert_eq!(read(hit).await.0, "one");
    let from_memory = send(&app, head()).await;
    assert_eq!(from_memory.headers()["content-length"], "3");
    assert_eq!(origin.runs(), 2);
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(send(&app, head()).await.headers()["etag"], "\"v2\"");
    assert_eq!(body(&app, get(&[])).await, "run 4");
    assert!(!origin.last().contains_key("if-none-match"));
}

#[tokio::test]
async fn a_successful_write_invalidates_the_response_of_its_path() {
    let origin = Origin::default()
        .then(200, &[FRESH], "one")
        .then(500, &[], "no")
        .then(200, &[], "yes")
        .then(200, &[FRESH], "two");
    let app = origin.router(Policy::standard());
    assert_eq!(body(&app, get(&[])).await, "one");
    assert_eq!(body(&app, by(Method::PUT, "/", &[])).await, "no");
    assert_eq!(body(&app, get(&[])).await, "one");
    assert_eq!(body(&app, by(Method::PUT, "/", &[])).await, "yes");
    assert_eq!(body(&app, get(&[])).await, "two");
}

#[tokio::test(start_paused = true)]
async fn request_directives_bound_the_age_of_the_response_served() {
    let origin = Origin::default().then(200, &[FRESH], "one").then(200, &[FRESH], "two");
    let app = origin.router(Policy::standard());
    let says = |directives: &'static str| body_of(&app, directives);
    assert_eq!(says("").await, "one");
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(says("max-age=30").await, "one");
    assert_eq!(says("min-fresh=30").await, "one");
    assert_eq!(says("max-age=29").await, "two");
    tokio::time::advance(Duration::from_secs(70)).await;
    assert_eq!(says("max-stale=20").await, "two");
    assert_eq!(says("no-store").await, "run 3");
}

async fn body_of(app: &Router, directives: &str) -> String {
    body(app, get(&[("cache-control", directives)])).await
}

#[tokio::test]
async fn only_if_cached_gets_a_stored_response_or_a_504() {
    let origin = Origin::default().then(200, &[FRESH], "one");
    let app = origin.router(Policy::standard());
    let stored = [("cache-control", "only-if-cached")];
    let (text, status) = {
        let response = send(&app, get(&stored)).await;
        assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
        read(response).await
    };
    assert_eq!((text.as_str(), status.as_str()), ("", "tidegate; detail=\"only-if-cached\""));
    assert_eq!(origin.runs(), 0);
    body(&app, get(&[])).await;
    assert_eq!(body(&app, get(&stored)).await, "one");
}

#[tokio::test(start_paused = true)]
async fn a_stale_response_is_served_as_its_headers_allow() {
    let soon = ("cache-control", "max-age=1, stale-while-revalidate=10, stale-if-error=60");
    let strict = ("cache-control", "max-age=1, stale-if-error=60, must-revalidate");
    for (said, after, expected) in
        [(soon, 5, "one"), (soon, 30, "one"), (soon, 100, "broken"), (strict, 5, "broken")]
    {
        let origin = Origin::default().then(200, &[said], "one").then(503, &[], "broken");
        let app = origin.router(Policy::standard());
        body(&app, get(&[])).await;
        tokio::time::advance(Duration::from_secs(after)).await;
        assert_eq!(body(&app, get(&[])).await, expected, "{said:?} after {after} s");
    }
}

#[tokio::test]
async fn fields_named_by_no_cache_or_private_are_not_stored() {
    let said = ("cache-control", "max-age=60, no-cache=\"a\", private=\"b\"");
    let origin = Origin::default().then(200, &[said, ("a", "1"), ("b", "1"), ("c", "1")], "one");
    let app = origin.router(Policy::standard());
    let first = send(&app, get(&[])).await;
    assert!(first.headers().contains_key("a"));
    drop(read(first).await);
    let hit = send(&app, get(&[])).await;
    let has = |name: &str| hit.headers().contains_key(name);
    assert!(!has("a") && !has("b") && has("c"));
}

#[tokio::test]
async fn tidegate_cache_control_takes_precedence_over_cache_control() {
    let origin = Origin::default().then(
        200,
        &[("cache-control", "no-store"), ("tidegate-cache-control", "max-age=60")],
        "one",
    );
    let app = origin.router(Policy::standard());
    body(&app, get(&[])).await;
    assert_eq!(body(&app, get(&[])).await, "one");
}

#[tokio::test]
async fn a_reload_is_a_hit_under_a_ttl_policy() {
    let origin = Origin::default().then(200, &[TAGGED], "one");
    let app = origin.router(Policy::ttl(Duration::from_secs(60)));
    body(&app, get(&[])).await;
    assert_eq!(body_of(&app, "no-cache, max-age=0").await, "one");
}

#[tokio::test]
async fn an_invalidated_response_is_recomputed_and_not_revalidated() {
    let origin = Origin::default().then(200, &[FRESH, TAGGED], "one");
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), Policy::standard().tag("t"));
    let app = origin.behind(layer);
    body(&app, get(&[])).await;
    cache.invalidate(["t"]).await.unwrap();
    assert_eq!(body(&app, get(&[])).await, "run 2");
    assert!(!origin.last().contains_key("if-none-match"));
}

#[tokio::test(start_paused = true)]
async fn under_a_ttl_policy_no_condition_reaches_the_handler() {
    let origin = Origin::default().then(200, &[TAGGED], "one");
    let app = origin.router(Policy::ttl(Duration::from_secs(10)));
    body(&app, get(&[])).await;
    tokio::time::advance(Duration::from_secs(11)).await;
    assert_eq!(body(&app, get(&[("if-none-match", "\"v1\"")])).await, "run 2");
    assert!(!origin.last().contains_key("if-none-match"));
}
