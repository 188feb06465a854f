//! What `CacheLayer::validate` finds at start, and the warning about patterns that no request matches.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tower::{Layer, ServiceExt};

use crate::common;
use crate::common::warnings::{all_warnings, keep_warnings, notes, warnings};
use crate::common::{fetch, read, send};

fn layer() -> CacheLayer {
    CacheLayer::new(common::cache())
}

fn ttl() -> Policy {
    common::ttl().untracked()
}

/// The message of `validate`.
fn fault(layer: CacheLayer) -> String {
    layer.validate().map_or_else(|error| error.to_string(), |_| panic!("the layer is valid"))
}

#[test]
fn validate_refuses_patterns_that_axum_does_not_accept() {
    for (pattern, expected) in [
        ("", "`` is not used: it is empty"),
        ("users/{id}", "begins with `/`"),
        ("/users/:id", "`{id}`"),
        ("/files/*path", "`{*path}`"),
        ("/users/{id", "brace"),
        ("/users/{}", "no name"),
        ("/files/{*path}/raw", "not at the end"),
        ("/users?page={page}", "Policy::query"),
    ] {
        let of_route = fault(layer().route(pattern, ttl()));
        assert!(of_route.contains(expected) && of_route.contains(pattern), "{of_route}");
        let of_reads = fault(layer().only_reads(pattern).route("/", ttl()));
        assert!(of_reads.contains("only_reads(") && !of_reads.contains("policy"), "{of_reads}");
        assert!(of_reads.contains(expected.rsplit("it is").next().unwrap().trim()), "{of_reads}");
    }
    let legal = ["/", "/users/{id}/", "/v{major}/files/{*path}", "/items:search"];
    let valid = legal.into_iter().fold(layer(), |layer, it| layer.route(it, ttl()).only_reads(it));
    assert!(valid.validate().is_ok());
}

#[test]
fn validate_refuses_a_public_policy_that_varies_by_the_client() {
    let by = |header: &str| ttl().public().vary([header]);
    for header in ["Authorization", "cookie", "proxy-authorization"] {
        let message = fault(layer().route("/a", by(header)));
        assert!(message.contains("the policy of /a is not used: Policy::public says"), "{message}");
        assert!(
            message.contains(&header.to_lowercase()) && message.contains("leave one of them out"),
            "{message}"
        );
        assert!(message.contains("Policy::strict"), "{message}");
        assert!(fault(layer().default_policy(by(header))).contains("the default policy"));
    }
    // Headers that the service declares itself, before or after.
    let badges = ["X-Badge", "x-acme-*"];
    for header in ["x-badge", "x-acme-pass"] {
        assert!(layer().route("/a", by(header)).validate().is_ok());
        let message = fault(layer().identity_headers(badges).route("/a", by(header)));
        assert!(message.contains(header), "{message}");
        let message = fault(layer().route("/a", by(header)).identity_headers(badges));
        assert!(message.contains("the policy of /a") && message.contains(header), "{message}");
        let message = fault(layer().default_policy(by(header)).identity_headers(badges));
        assert!(message.contains("the default policy") && message.contains(header), "{message}");
    }
    for legal in [
        ttl().strict().public().vary(["accept-language"]),
        // The handler sees of the client only what the key holds.
        ttl().strict().public().vary(["authorization", "cookie", "x-badge"]),
        ttl().public().vary_cookies(["theme"]),
        ttl().public().vary_by(|_| None),
        ttl().vary(["authorization"]),
        ttl().vary(["cookie"]).vary_cookies(["lang"]),
    ] {
        assert!(layer().route("/a", legal).identity_headers(badges).validate().is_ok());
    }
}

#[tokio::test]
async fn a_policy_that_contradicts_a_later_declaration_is_not_used() {
    let policy = ttl().public().vary(["x-badge"]);
    let layer = layer().route("/a", policy).identity_headers(["x-badge"]);
    let app = Router::new().route("/a", get(|| async { "a" })).layer(layer);
    assert!(fetch(&app, "/a").await.1.contains("no-policy"));
}

#[test]
fn validate_refuses_other_settings_of_the_layer_that_make_no_sense() {
    for (expected, layer) in [
        ("`*`, which matches every", layer().identity_headers(["*"])),
        ("identity_headers has `x y`", layer().identity_headers(["x y"])),
        ("identity_headers has `x-*-y`", layer().identity_headers(["x-*-y"])),
        ("identity_headers has ``", layer().identity_headers([""])),
        ("buffer_limit", layer().buffer_limit(0)),
        ("two policies", layer().route("/a", ttl()).route("/a", ttl())),
        ("vary has `x y`", layer().default_policy(ttl().vary(["x y"]))),
    ] {
        let message = fault(layer);
        assert!(message.contains(expected), "{message}");
    }
}

#[tokio::test]
async fn tags_of_a_default_policy_use_the_parameters_of_each_route() {
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), ttl().tag("users:id={id}"));
    let app = Router::new()
        .route("/users/{id}", get(|| async { "a user" }))
        .route("/users", get(|| async { "all users" }))
        .layer(layer.validate().unwrap());
    for user in ["/users/1", "/users/2"] {
        assert!(fetch(&app, user).await.1.contains("stored"));
    }
    cache.invalidate(["users:id=1"]).await.unwrap();
    assert!(fetch(&app, "/users/1").await.1.contains("changed"));
    assert!(fetch(&app, "/users/2").await.1.contains("hit"));
    assert!(fetch(&app, "/users").await.1.contains("no-parameter"));
}

const NONE_MATCHED: &str = "although at least 10000 requests";

/// The shortest time after which a pattern is reported.
const TEN_MINUTES: Duration = Duration::from_mins(10);

fn of_patterns(patterns: &[&str]) -> CacheLayer {
    let layer = patterns.iter().fold(layer(), |layer, pattern| layer.route(pattern, ttl()));
    layer.validate().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_pattern_that_no_request_matches_is_warned_about_once() {
    keep_warnings();
    let inner = Router::new()
        .route("/users/{user}", get(|| async { "a user" }))
        .route("/posts", get(|| async { "posts" }))
        .route("/about/us", get(|| async { "about" }));
    let app = Router::new()
        .nest("/api", inner)
        .route("/orders/{id}", get(|| async { "an order" }))
        .layer(of_patterns(&["/users/{id}", "/orders/{id}", "/api/psots", "/api/users/{id}/rare"]));
    // The second of these is a hit, and does not count.
    for _ in 0..2 {
        fetch(&app, "/orders/1").await;
    }
    fetch(&app, "/api/posts").await;
    fetch(&app, "/api/about/us").await;
    for _ in 3..9_999 {
        fetch(&app, "/api/users/1").await;
    }
    tokio::time::advance(TEN_MINUTES).await;
    assert_eq!(warnings(&[NONE_MATCHED]), 0, "{}", all_warnings());
    for _ in 0..10 {
        fetch(&app, "/api/users/1").await;
    }
    assert_eq!(warnings(&[NONE_MATCHED]), 2, "{}", all_warnings());
    let users = ["pattern=/users/{id} similar=/api/users/{user} ", "prefixes of nested routers"];
    assert_eq!(warnings(&users), 1, "{}", all_warnings());
    let posts = ["pattern=/api/psots similar=/api/posts "];
    assert_eq!(warnings(&posts), 1, "{}", all_warnings());
    // This one begins like another, but does not look like a mistake: it may be a route that is seldom requested.
    assert_eq!(notes(&["pattern=/api/users/{id}/rare similar= ", NONE_MATCHED]), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_minutes_must_pass_before_a_pattern_is_warned_about() {
    keep_warnings();
    let app = Router::new()
        .route("/api/a", get(|| async { "a" }))
        .route("/late", get(|| async { "late" }))
        .layer(of_patterns(&["/a", "/late"]));
    for _ in 0..10_000 {
        fetch(&app, "/api/a").await;
    }
    tokio::time::advance(Duration::from_secs(10 * 60 - 1)).await;
    fetch(&app, "/api/a").await;
    assert_eq!(warnings(&[NONE_MATCHED]) + notes(&[NONE_MATCHED]), 0, "{}", all_warnings());
    fetch(&app, "/late").await;
    tokio::time::advance(Duration::from_secs(1)).await;
    for _ in 0..3 {
        fetch(&app, "/api/a").await;
    }
    assert_eq!(warnings(&["pattern=/a ", NONE_MATCHED]), 1, "{}", all_warnings());
    assert_eq!(warnings(&[NONE_MATCHED]) + notes(&[NONE_MATCHED]), 1, "{}", all_warnings());
}

#[tokio::test(start_paused = true)]
async fn a_layer_around_a_router_is_warned_about() {
    keep_warnings();
    let router: Router = Router::new().route("/a", get(|| async { "a" }));
    let app = layer().route("/a", ttl()).layer(router);
    for at in 0..10_001 {
        if at == 10_000 {
            tokio::time::advance(TEN_MINUTES).await;
        }
        let request = Request::get("/a").body(Body::empty()).unwrap();
        app.clone().oneshot(request).await.unwrap();
    }
    let texts = ["pattern=/a ", NONE_MATCHED, "no request had a MatchedPath", "Router::layer"];
    assert_eq!(warnings(&texts), 1, "{}", all_warnings());
    let services = ["nest_service", "fallback", "default_policy", "with_policy"];
    assert_eq!(warnings(&services), 1, "{}", all_warnings());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_warned_about_if_each_pattern_has_been_matched() {
    keep_warnings();
    let app = Router::new()
        .route("/a", get(|| async { "a" }))
        .route("/b", get(|| async { "b" }))
        .layer(layer().route("/a", ttl()));
    fetch(&app, "/a").await;
    for _ in 0..10_010 {
        fetch(&app, "/b").await;
    }
    tokio::time::advance(TEN_MINUTES).await;
    fetch(&app, "/b").await;
    assert_eq!(warnings(&[NONE_MATCHED]) + notes(&[NONE_MATCHED]), 0, "{}", all_warnings());
}

#[tokio::test]
async fn under_a_strict_policy_each_value_of_a_credential_has_a_response() {
    let policy = ttl().strict().public().vary(["authorization"]);
    let handler = |headers: HeaderMap| async move {
        let of =
            |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        format!("{} {}", of("authorization"), of("cookie"))
    };
    let app = Router::new().route("/a", get(handler)).layer(layer().route("/a", policy));
    for expected in ["stored", "; hit;"] {
        for token in ["alice", "bob"] {
            let request = Request::get("/a").header("authorization", token);
            let request = request.header("cookie", format!("sid={token}"));
            let (got, status) = read(send(&app, request.body(Body::empty()).unwrap()).await).await;
            assert!(got == format!("{token} ") && status.contains(expected), "{got} {status}");
        }
    }
}

#[tokio::test]
async fn zeros_that_have_a_meaning_are_legal() {
    let policy = ttl().body_limit(0).negative_ttl(Duration::ZERO);
    let app = Router::new()
        .route("/empty", get(|| async { "" }))
        .route("/full", get(|| async { "full" }))
        .route("/none", get(|| async { StatusCode::NOT_FOUND }))
        .layer(layer().default_policy(policy).validate().unwrap());
    assert!(fetch(&app, "/empty").await.1.contains("stored"));
    assert!(fetch(&app, "/empty").await.1.contains("; hit;"));
    assert!(fetch(&app, "/full").await.1.contains("too-large"));
    for _ in 0..2 {
        assert!(fetch(&app, "/none").await.1.contains("negative"));
    }
    let message = fault(layer().default_policy(ttl().max_staleness(Duration::ZERO)));
    assert!(message.contains("with a Listener") && message.contains("without one"), "{message}");
}
