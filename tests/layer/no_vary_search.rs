//! `No-Vary-Search`: which parameters of the query a response does not depend on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, Method, Uri};
use tidegate::{Cache, CacheLayer, Policy};

use crate::common::origin::{FRESH, Origin, TAGGED, body, by};
use crate::common::{cache, fetch};

const UTM: (&str, &str) = ("no-vary-search", "key-order, params=(\"utm\")");

/// The body of the stored response that a request to this path and query gets.
async fn hits(app: &Router, uri: &str) -> Option<String> {
    let (body, status) = fetch(app, uri).await;
    status.contains("; hit").then_some(body)
}

/// An origin whose responses carry a field and the query that they were computed for.
fn app(cache: &Cache, field: (&'static str, &'static str)) -> (Router, Arc<AtomicUsize>) {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = runs.clone();
    let handler = async move |uri: Uri| {
        counted.fetch_add(1, Ordering::SeqCst);
        ([FRESH, field], uri.to_string())
    };
    let layer = CacheLayer::with_policy(cache.clone(), Policy::standard());
    (Router::new().fallback(handler).layer(layer), runs)
}

#[tokio::test]
async fn parameters_excluded_by_no_vary_search_are_ignored() {
    let (app, runs) = app(&cache(), UTM);
    fetch(&app, "/a?id=1&utm=1").await;
    fetch(&app, "/a?id=1&utm=2").await;
    assert_eq!(runs.load(Ordering::SeqCst), 2, "nothing was known of the path at first");
    for uri in ["/a?id=1", "/a?utm=9&id=1", "/a?id=1&utm", "/a?%69d=1"] {
        assert_eq!(hits(&app, uri).await.as_deref(), Some("/a?id=1&utm=2"), "{uri}");
    }
    for uri in ["/a?id=2", "/b?id=1", "/a", "/a?id=1&id=1", "/a?id=1&UTM=1"] {
        assert_eq!(hits(&app, uri).await, None, "{uri}");
    }
    assert_eq!(hits(&app, "/a?utm=5").await.as_deref(), Some("/a"), "no query is an empty one");
}

/// The policy says what the handler receives, so no response can say that less of it counts.
#[tokio::test]
async fn the_parameters_that_a_policy_lists_count_whatever_no_vary_search_says() {
    let handler = async move |uri: Uri| {
        ([FRESH, ("no-vary-search", "params, except=(\"id\")")], uri.to_string())
    };
    let layer = CacheLayer::with_policy(cache(), Policy::standard().query(["page"]));
    let app = Router::new().fallback(handler).layer(layer);
    for _ in 0..2 {
        assert_eq!(fetch(&app, "/a?page=1&id=7").await.0, "/a?page=1");
        assert_eq!(fetch(&app, "/a?page=2&id=7").await.0, "/a?page=2");
    }
    assert_eq!(hits(&app, "/a?page=1&id=8").await.as_deref(), Some("/a?page=1"));
}

/// A handler may split a query at semicolons too, or read `id[]`, `id.x`, `ID` and ` id` as `id`.
#[tokio::test]
async fn security_a_query_that_a_handler_may_read_otherwise_is_stored_for_itself() {
    let but_utm = "params=(\"utm\")";
    let only_id = "params, except=(\"id\")";
    for (field, safe, evil) in [
        (but_utm, "utm=1", "utm=1;id=evil"),
        (but_utm, "utm=1", "utm=%zz"),
        ("params=(\"a b\")", "x", "a+b=1"),
        ("key-order", "id=1&+id=2", "+id=2&id=1"),
        ("key-order", "id=1&id[]=2", "id[]=2&id=1"),
        (only_id, "x=1", "x=1;id=evil"),
        (only_id, "x=1", "id[]=evil"),
        (only_id, "x=1", "id[x]=evil"),
        (only_id, "x=1", "id.x=evil"),
        (only_id, "x=1", "ID=evil"),
        (only_id, "x=1", "+id=evil"),
        (only_id, "x=1", "id%00=evil"),
        (only_id, "x=1", "id%=evil"),
    ] {
        let (app, _) = app(&cache(), ("no-vary-search", field));
        let (safe, evil) = (format!("/?{safe}"), format!("/?{evil}"));
        fetch(&app, &safe).await;
        fetch(&app, &evil).await;
        assert_eq!(fetch(&app, &safe).await.0, safe, "{field}: not the response to {evil}");
        assert_eq!(fetch(&app, &evil).await.0, evil, "{field}: not the response to {safe}");
        assert_eq!(hits(&app, &evil).await.as_deref(), Some(evil.as_str()), "{field}");
    }
}

#[tokio::test]
async fn without_a_supported_no_vary_search_field_every_parameter_counts() {
    for field in
        [("x-none", "1"), ("no-vary-search", "params, other"), ("no-vary-search", "key-order=?0")]
    {
        let (app, _) = app(&cache(), field);
        fetch(&app, "/a?id=1").await;
        fetch(&app, "/a?id=2").await;
        assert_eq!(hits(&app, "/a?id=3").await, None, "{field:?}");
        assert!(hits(&app, "/a?id=1").await.is_some(), "{field:?}");
    }
}

#[tokio::test]
async fn a_response_with_another_no_vary_search_is_stored_for_its_query_alone() {
    let origin = Origin::default()
        .then(200, &[FRESH, UTM], "all")
        .then(200, &[FRESH, UTM], "all")
        .then(200, &[FRESH], "one")
        .then(200, &[FRESH, UTM], "all")
        .then(200, &[FRESH], "two");
    let app = origin.router(Policy::standard());
    let read = async |uri: &str| body(&app, by(Method::GET, uri, &[])).await;
    assert_eq!((read("/?id=1").await, read("/?id=2&utm=1").await), ("all".into(), "all".into()));
    assert_eq!(read("/?id=2&utm=2").await, "all");
    assert_eq!(
        read("/?id=3&utm=1").await,
        "one",
        "it is not stored for all values of the parameter"
    );
    assert_eq!(read("/?id=4").await, "all", "nothing was known of the path any more");
    assert_eq!(read("/?id=3&utm=2").await, "two");
    assert_eq!(origin.runs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_304_can_change_the_no_vary_search_of_a_stored_response() {
    let origin = Origin::default()
        .then(200, &[FRESH, TAGGED, UTM], "first")
        .then(200, &[FRESH, TAGGED, UTM], "first")
        .then(304, &[FRESH, ("no-vary-search", "key-order")], "")
        .then(200, &[FRESH], "second");
    let app = origin.router(Policy::standard());
    let read = async |uri: &str| body(&app, by(Method::GET, uri, &[])).await;
    assert_eq!(read("/?id=1").await, "first");
    assert_eq!(read("/?id=1&utm=1").await, "first");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(read("/?id=1&utm=2").await, "first");
    assert_eq!(read("/?id=1&utm=3").await, "second", "the parameter counts now");
}

#[tokio::test]
async fn no_vary_search_is_learned_per_node_and_does_not_merge_hosts() {
    let shared = cache();
    let (one, _) = app(&shared, UTM);
    let (other, _) = app(&shared, UTM);
    fetch(&one, "/?id=1&utm=1").await;
    fetch(&one, "/?id=1&utm=2").await;
    assert_eq!(hits(&other, "/?id=1&utm=3").await, None, "it does not know of the path yet");
    assert_eq!(hits(&other, "/?id=1&utm=4").await.as_deref(), Some("/?id=1&utm=2"));
    let by_host = by(Method::GET, "/?id=1&utm=5", &[("host", "other.example")]);
    assert_eq!(body(&one, by_host).await, "/?id=1&utm=5");
}

#[tokio::test]
async fn a_ttl_policy_ignores_no_vary_search() {
    let handler = async |uri: Uri, _: HeaderMap| ([UTM], uri.to_string());
    let policy = Policy::ttl(Duration::from_secs(60)).untracked();
    let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache(), policy));
    for uri in ["/?utm=1", "/?utm=2", "/?utm=3"] {
        assert_eq!(hits(&app, uri).await, None, "{uri}");
    }
}
