//! What a response says itself of what it depends on: cache groups (RFC 9875), and tags in fields for a CDN.

use axum::Router;
use axum::http::Method;
use axum::routing::get as get_route;
use tidegate::{Cache, CacheLayer, Memory, Policy};

use crate::common::origin::{FRESH, Origin, TAGGED, body, by, get};
use crate::common::{fetch, send};

const GROUP: (&str, &str) = ("cache-groups", "\"one\", \"two\";x");

fn host(host: &'static str) -> [(&'static str, &'static str); 1] {
    [("host", host)]
}

/// The bodies of two requests, with a write in between whose response has this field.
async fn around(method: &str, group: &str, hosts: [&'static str; 2]) -> (String, String) {
    let origin = Origin::default()
        .then(200, &[FRESH, GROUP], "first")
        .then(500, &[("cache-group-invalidation", group)], "")
        .then(200, &[FRESH], "second");
    let app = origin.router(Policy::standard());
    let read = || by(Method::GET, "/read", &host(hosts[0]));
    let first = body(&app, read()).await;
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    send(&app, by(method, "/write", &host(hosts[1]))).await;
    (first, body(&app, read()).await)
}

#[tokio::test]
async fn a_write_invalidates_the_groups_that_its_response_names() {
    for group in ["\"two\"", "\"x\", \"one\";y=1"] {
        let bodies = around("POST", group, ["a.example", "A.example:80"]).await;
        assert_eq!(bodies, ("first".into(), "second".into()), "{group}");
    }
}

#[tokio::test]
async fn safe_methods_malformed_fields_and_other_origins_invalidate_no_group() {
    let same = ["a.example", "a.example"];
    for (method, group, hosts) in [
        ("POST", "\"three\"", same),
        ("POST", "\"One\"", same),
        ("POST", "one", same),
        ("POST", "\"one\", two", same),
        ("POST", "\"one\"", ["a.example", "b.example"]),
        ("OPTIONS", "\"one\"", same),
        ("QUERY", "\"one\"", same),
    ] {
        let bodies = around(method, group, hosts).await;
        assert_eq!(bodies, ("first".into(), "first".into()), "{method} {group} {hosts:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_revalidated_response_keeps_its_groups() {
    let origin = Origin::default()
        .then(200, &[FRESH, TAGGED, GROUP], "first")
        .then(304, &[FRESH], "")
        .then(204, &[("cache-group-invalidation", "\"one\"")], "")
        .then(200, &[FRESH], "second");
    let app = origin.router(Policy::standard());
    assert_eq!(body(&app, get(&[])).await, "first");
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(body(&app, get(&[])).await, "first");
    send(&app, by(Method::POST, "/write", &[])).await;
    assert_eq!(body(&app, get(&[])).await, "second");
}

#[tokio::test(start_paused = true)]
async fn a_revalidated_response_keeps_its_tags() {
    let origin = Origin::default()
        .then(200, &[FRESH, TAGGED, ("surrogate-key", "page")], "first")
        .then(304, &[FRESH], "")
        .then(200, &[FRESH], "second");
    let cache = Cache::new(Memory::new(1 << 20));
    let policy = Policy::standard().tag_fields(["surrogate-key"]);
    let app = origin.behind(CacheLayer::with_policy(cache.clone(), policy));
    assert_eq!(body(&app, get(&[])).await, "first");
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    assert_eq!(body(&app, get(&[])).await, "first");
    cache.invalidate(["page"]).await.unwrap();
    assert_eq!(body(&app, get(&[])).await, "second");
}

#[tokio::test]
async fn a_write_to_a_route_without_a_policy_invalidates_groups_too() {
    let runs = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let read = async move || {
        let run = runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        ([FRESH, GROUP], format!("run {run}"))
    };
    let write = async || [("cache-group-invalidation", "\"one\"")];
    let cache = Cache::new(Memory::new(1 << 20));
    let app = Router::new()
        .route("/read", get_route(read))
        .route("/write", axum::routing::post(write))
        .layer(CacheLayer::new(cache).route("/read", Policy::standard().host(false)));
    assert_eq!(fetch(&app, "/read").await.0, "run 0");
    assert_eq!(fetch(&app, "/read").await.0, "run 0");
    send(&app, by(Method::POST, "/write", &host("a.example"))).await;
    assert_eq!(fetch(&app, "/read").await.0, "run 1", "its key has no host, and nor has its group");
}

#[tokio::test]
async fn a_write_to_a_route_without_hosts_in_its_keys_invalidates_the_groups_of_its_host() {
    let read = async || ([FRESH, GROUP], "first");
    let write = async || [("cache-group-invalidation", "\"one\"")];
    for policy in [Policy::standard(), Policy::ttl(std::time::Duration::from_secs(60))] {
        let layer = CacheLayer::new(Cache::new(Memory::new(1 << 20)))
            .route("/read", Policy::standard())
            .route("/write", policy.host(false));
        let app = Router::new()
            .route("/read", get_route(read))
            .route("/write", axum::routing::post(write))
            .layer(layer);
        let status = async |host: &'static str| {
            let response = send(&app, by(Method::GET, "/read", &self::host(host))).await;
            response.headers()["cache-status"].to_str().unwrap().to_owned()
        };
        for at in ["a.example", "b.example"] {
            status(at).await;
            assert!(status(at).await.contains("hit"));
        }
        send(&app, by(Method::POST, "/write", &host("a.example"))).await;
        assert!(!status("a.example").await.contains("hit"));
        assert!(status("b.example").await.contains("hit"));
    }
}

#[tokio::test]
async fn tag_fields_tag_the_stored_response_and_are_hidden_from_clients() {
    let fields = [FRESH, ("surrogate-key", "page rows:id=7"), ("cache-tag", "other")];
    for policy in [Policy::standard(), Policy::ttl(std::time::Duration::from_secs(60)).untracked()]
    {
        for tag in ["page", "rows:id=007"] {
            let origin = Origin::default().then(200, &fields, "first").then(200, &fields, "second");
            let cache = Cache::new(Memory::new(1 << 20));
            let policy = policy.clone().tag_fields(["Surrogate-Key"]);
            let app = origin.behind(CacheLayer::with_policy(cache.clone(), policy));
            for _ in 0..2 {
                let response = send(&app, get(&[])).await;
                assert!(!response.headers().contains_key("surrogate-key"), "{tag}");
                assert_eq!(response.headers()["cache-tag"], "other", "it is not opted in");
            }
            assert_eq!(origin.runs(), 1);
            for unrelated in ["other", "rows:id=8"] {
                cache.invalidate([unrelated]).await.unwrap();
                assert_eq!(body(&app, get(&[])).await, "first");
            }
            cache.invalidate([tag]).await.unwrap();
            assert_eq!(body(&app, get(&[])).await, "second", "{tag}");
        }
    }
}

#[tokio::test]
async fn tag_fields_are_hidden_from_clients_on_bypass_too() {
    let tagged = ("surrogate-key", "page");
    let origin = Origin::default();
    let origin = (0..4).fold(origin, |origin, _| origin.then(200, &[tagged], ""));
    let app = origin.router(Policy::standard().tag_fields(["surrogate-key"]));
    let no_store = [("cache-control", "no-store")];
    for request in
        [get(&[]), get(&no_store), by(Method::POST, "/", &[]), by(Method::HEAD, "/", &[])]
    {
        let of = format!("{} {:?}", request.method(), request.headers());
        let response = send(&app, request).await;
        assert!(!response.headers().contains_key("surrogate-key"), "{of}");
    }
    assert_eq!(origin.runs(), 4);
}
