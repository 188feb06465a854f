//! Strict policies: the handler gets nothing of a request but what its key holds.

use std::time::Duration;

use crate::common::origin::{Origin, by, get};
use crate::common::{cache, fetch_with, read, send};
use axum::Router;
use axum::extract::{Extension, MatchedPath, NestedPath, OriginalUri, Path, Request};
use axum::http::{Method, Version};
use axum::routing;
use tidegate::{CacheLayer, Policy};
use tower::Layer;

fn strict() -> Policy {
    Policy::ttl(Duration::from_mins(1)).strict()
}

fn layer(policy: Policy) -> CacheLayer {
    CacheLayer::with_policy(cache(), policy)
}

/// Says all that it can see of a request.
async fn mirror(request: Request) -> String {
    let (parts, _) = request.into_parts();
    let original = parts.extensions.get::<OriginalUri>().map(|original| original.0.to_string());
    let user = parts.extensions.get::<&str>();
    format!("{} {original:?} {:?} {user:?}", parts.uri, parts.headers)
}

fn mirrored(policy: Policy) -> Router {
    Router::new().fallback(mirror).layer(layer(policy)).layer(Extension("alice"))
}

#[tokio::test]
async fn under_a_strict_policy_the_handler_sees_only_what_the_key_contains() {
    let policy = strict().public().query(["page"]).vary(["accept"]).vary_cookies(["theme"]);
    let app = mirrored(policy);
    let headers = [
        ("host", "example.org"),
        ("accept", "text/html"),
        ("accept-language", "de"),
        ("authorization", "Bearer alice"),
        ("cookie", "sid=alice; theme=dark"),
        ("referer", "https://alice.example"),
        ("user-agent", "alice"),
        ("x-forwarded-for", "192.0.2.1"),
        ("x-badge", "alice"),
    ];
    let (seen, status) = fetch_with(&app, "/a?page=2&ref=alice", &headers).await;
    let expected = "/a?page=2 Some(\"/a?page=2\") \
                    {\"host\": \"example.org\", \"accept\": \"text/html\", \"cookie\": \"theme=dark\"} None";
    assert_eq!(seen, expected, "{status}");
    let others = [headers[0], headers[1], ("cookie", "sid=bob; theme=dark")];
    let (seen, status) = fetch_with(&app, "/a?page=2&ref=bob", &others).await;
    assert!(seen == expected && status.contains("hit"), "{seen} {status}");
}

#[tokio::test]
async fn a_host_that_is_not_in_the_key_is_withheld() {
    let app = mirrored(strict().public().host(false));
    let headers = [("host", "a.example"), ("x-forwarded-host", "b.example")];
    assert_eq!(fetch_with(&app, "http://c.example/", &headers).await.0, "/ Some(\"/\") {} None");
}

#[tokio::test]
async fn head_range_and_conditional_requests_are_stripped_like_plain_ones() {
    let origin = Origin::default();
    let app = origin.behind(layer(strict().public()));
    let personal = ("referer", "https://alice.example");
    for request in [
        by(Method::HEAD, "/", &[personal]),
        get(&[personal, ("range", "bytes=0-1")]),
        get(&[personal, ("if-none-match", "\"a\"")]),
    ] {
        drop(read(send(&app, request).await).await);
        assert!(!origin.last().contains_key("referer"), "{:?}", origin.last());
    }
    assert_eq!(origin.runs(), 3);
    assert_eq!(origin.all()[1]["range"], "bytes=0-1");
}

#[tokio::test]
async fn forwarded_and_tracing_headers_reach_the_handler_and_are_not_in_the_key() {
    let app = mirrored(strict().public().forward(["X-Request-Id"]));
    let (seen, _) = fetch_with(&app, "/", &[("x-request-id", "7"), ("traceparent", "00-1")]).await;
    assert!(seen.contains("x-request-id") && seen.contains("traceparent"), "{seen}");
    assert!(fetch_with(&app, "/", &[("x-request-id", "8")]).await.1.contains("hit"));
}

#[tokio::test]
async fn vary_by_a_withheld_field_is_ignored() {
    let origin = Origin::default().then(200, &[("vary", "accept-language, cookie")], "one");
    let app = origin.behind(layer(strict()));
    for language in ["de", "en"] {
        let request = get(&[("accept-language", language)]);
        assert_eq!(read(send(&app, request).await).await.0, "one");
    }
}

/// Otherwise, one client's version could decide what the others get.
#[tokio::test]
async fn the_version_of_http_is_withheld() {
    let version = async |request: Request| format!("{:?}", request.version());
    let app = Router::new().fallback(version).layer(layer(strict()));
    let mut old = by(Method::GET, "/", &[]);
    *old.version_mut() = Version::HTTP_10;
    assert_eq!(read(send(&app, old).await).await.0, "HTTP/1.1");
}

#[tokio::test]
async fn a_request_that_identifies_its_client_is_passed_on_whole() {
    let app = Router::new().fallback(mirror).layer(layer(strict()));
    let (seen, status) = fetch_with(&app, "/", &[("x-api-key", "alice"), ("referer", "x")]).await;
    assert!(seen.contains("alice") && seen.contains("referer"), "{seen}");
    assert!(status.contains("personal"), "{status}");
}

#[tokio::test]
async fn the_extensions_of_axum_are_passed_on() {
    let page = |Path((a, b)): Path<(String, u32)>,
                matched: MatchedPath,
                uri: OriginalUri,
                nested: Option<Extension<()>>| async move {
        format!("{a} {b} {} {} {}", matched.as_str(), uri.0, nested.is_some())
    };
    let inner = || Router::new().route("/b/{b}", routing::get(page));
    let layer = || layer(strict().public());
    let apps = [
        Router::new().nest("/a/{a}", inner()).layer(layer()),
        Router::new().nest("/a/{a}", inner().layer(layer())),
        Router::new().nest_service("/a/{a}", inner().layer(layer())),
    ];
    for (at, app) in apps.into_iter().enumerate() {
        let app = app.layer(Extension(()));
        let expected = "x y 7 /a/{a}/b/{b} /a/x%20y/b/7?q false";
        for _ in 0..2 {
            let (body, status) = fetch_with(&app, "/a/x%20y/b/7?q", &[]).await;
            assert_eq!(body, expected, "{at}: {status}");
        }
    }
}

#[tokio::test]
async fn parameters_of_enclosing_routers_are_passed_on_if_no_inner_router_has_matched() {
    let page = |Path(shop): Path<String>| async move { shop };
    let layer = || layer(strict().public());
    let fallback = || Router::new().fallback(page);
    let apps = [
        Router::new().nest_service("/shops/{shop}", fallback().layer(layer())),
        Router::new().nest_service("/shops/{shop}", layer().layer(fallback())),
        Router::new().nest_service("/shops/{shop}", fallback()).layer(layer()),
        Router::new().nest("/shops/{shop}", fallback().layer(layer())),
        Router::new().nest("/shops/{shop}", fallback()).layer(layer()),
    ];
    for (at, app) in apps.into_iter().enumerate() {
        for uri in ["/shops/x%20y/a/b", "/shops/x%20y/a"] {
            for expected in ["absent", "hit"] {
                let (body, status) = fetch_with(&app, uri, &[]).await;
                assert!(body == "x y" && status.contains(expected), "{at} {uri}: {body} {status}");
            }
        }
    }
}

#[tokio::test]
async fn the_prefix_of_a_nested_router_is_passed_on() {
    let page = |nested: NestedPath| async move { nested.as_str().to_owned() };
    let inner = Router::new().route("/b", routing::get(page)).layer(layer(strict()));
    let app = Router::new().nest("/a", inner);
    assert_eq!(fetch_with(&app, "/a/b", &[]).await.0, "/a");
}

#[derive(Clone)]
struct User(&'static str);

#[tokio::test]
async fn a_declared_extension_is_passed_on() {
    let page = |Extension(user): Extension<User>| async move { user.0 };
    let policy = strict().vary_by(|parts| Some(parts.extensions.get::<User>()?.0.to_owned()));
    let layer = layer(policy).extension::<User>();
    let app = |user| {
        Router::new()
            .route("/", routing::get(page))
            .layer(layer.clone())
            .layer(Extension(User(user)))
    };
    for (user, expected) in [("alice", "absent"), ("bob", "absent"), ("alice", "hit")] {
        let (body, status) = fetch_with(&app(user), "/", &[]).await;
        assert!(body == user && status.contains(expected), "{user}: {body} {status}");
    }
}

#[tokio::test]
async fn a_strict_policy_never_serves_a_response_stored_by_another_policy() {
    let cache = cache();
    let app = |policy| {
        let layer = CacheLayer::with_policy(cache.clone(), policy);
        Router::new().fallback(mirror).layer(layer)
    };
    let open = Policy::ttl(Duration::from_mins(1));
    assert!(fetch_with(&app(open), "/", &[("referer", "evil")]).await.0.contains("evil"));
    assert!(!fetch_with(&app(strict()), "/", &[]).await.0.contains("evil"));
}
