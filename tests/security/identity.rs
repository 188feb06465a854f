//! Who the client is, found by layers around the cache: attacks, and the stacks that docs/guide/2-policies.md recommends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::common::origin::by;
use crate::common::warnings::{keep_warnings, warnings};
use crate::common::{cache, fetch_with, read, send, ttl};
use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, OriginalUri, Path, Request};
use axum::http::{HeaderName, Method, StatusCode};
use axum::middleware::{Next, from_fn, map_request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tidegate::{CacheLayer, Policy};
use tower::Layer;

/// Who an authentication layer found.
#[derive(Clone, Debug)]
struct User(String);

/// The user's id, as a policy keys by it.
fn by_user(policy: Policy) -> Policy {
    policy.vary_by(|parts| parts.extensions.get::<User>().map(|user| user.0.clone()))
}

/// Takes a header off each request, and hands over in its place who sent it.
async fn authenticate(name: HeaderName, mut request: Request, next: Next) -> Response {
    if let Some(value) = request.headers_mut().remove(&name) {
        request.extensions_mut().insert(User(value.to_str().unwrap().to_owned()));
    }
    next.run(request).await
}

/// A page for each user.
async fn secret(user: Option<Extension<User>>) -> impl IntoResponse {
    let name = user.map_or_else(|| "nobody".to_owned(), |user| user.0.0);
    ([("cache-control", "max-age=60")], format!("secret of {name}"))
}

/// The page, behind a cache, behind authentication by a header.
fn authenticated(name: &'static str, layer: CacheLayer) -> Router {
    let authenticate = move |request: Request, next: Next| {
        authenticate(HeaderName::from_static(name), request, next)
    };
    Router::new().route("/", get(secret)).layer(layer).layer(from_fn(authenticate))
}

/// It is for clients with `Authorization` (RFC 9111, section 3.5), and says nothing of other signs of an identity.
#[tokio::test]
async fn a_must_revalidate_response_never_reaches_a_user_found_by_an_outer_layer() {
    let page = |user: Option<Extension<User>>| async {
        let name = user.map_or_else(|| "nobody".to_owned(), |user| user.0.0);
        ([("cache-control", "max-age=60, must-revalidate")], format!("page of {name}"))
    };
    let authenticate = |request: Request, next: Next| {
        authenticate(HeaderName::from_static("x-badge"), request, next)
    };
    let layer = CacheLayer::with_policy(cache(), Policy::standard());
    let app = Router::new().route("/", get(page)).layer(layer).layer(from_fn(authenticate));
    assert_eq!(fetch_with(&app, "/", &[]).await.0, "page of nobody");
    assert_eq!(fetch_with(&app, "/", &[("x-badge", "alice")]).await.0, "page of alice");
}

#[tokio::test]
async fn a_user_found_by_an_outer_layer_never_gets_the_response_of_another() {
    for name in ["authorization", "cookie", "x-badge"] {
        for policy in [ttl(), Policy::standard(), by_user(ttl()), by_user(Policy::standard())] {
            let app = authenticated(name, CacheLayer::with_policy(cache(), policy.clone()));
            for user in ["alice", "bob", "alice"] {
                let (body, status) = fetch_with(&app, "/", &[(name, user)]).await;
                assert_eq!(body, format!("secret of {user}"), "{name} {policy:?}: {status}");
            }
            assert_eq!(fetch_with(&app, "/", &[]).await.0, "secret of nobody", "{name} {policy:?}");
        }
    }
}

#[tokio::test]
async fn an_anonymous_response_never_reaches_a_user_found_by_an_outer_layer() {
    for policy in [ttl(), Policy::standard(), by_user(ttl()), by_user(Policy::standard())] {
        let app = authenticated("x-badge", CacheLayer::with_policy(cache(), policy));
        assert_eq!(fetch_with(&app, "/", &[]).await.0, "secret of nobody");
        assert!(fetch_with(&app, "/", &[]).await.1.contains("hit"));
        assert_eq!(fetch_with(&app, "/", &[("x-badge", "alice")]).await.0, "secret of alice");
    }
}

#[tokio::test]
async fn an_extension_of_an_undeclared_type_makes_requests_bypass_the_cache() {
    let layer = || CacheLayer::with_policy(cache(), ttl());
    let status_with = async |layer: CacheLayer| {
        let app = Router::new().route("/", get(|| async { "page" })).layer(layer);
        let app = app.layer(Extension(7_u8)).layer(Extension("state"));
        drop(fetch_with(&app, "/", &[]).await);
        fetch_with(&app, "/", &[]).await.1
    };
    assert_eq!(status_with(layer()).await, "tidegate; fwd=bypass; detail=\"extensions\"");
    assert!(status_with(layer().extension::<u8>().extension::<u8>()).await.contains("extensions"));
    assert!(status_with(layer().extension::<u8>().extension::<&str>()).await.contains("hit"));
    let public = CacheLayer::with_policy(cache(), ttl().public());
    assert!(status_with(public).await.contains("hit"));
}

#[tokio::test]
async fn the_extensions_of_axum_itself_do_not_make_requests_bypass_the_cache() {
    let of_user = || get(|Path(id): Path<u32>| async move { format!("user {id}") });
    let layer = || CacheLayer::with_policy(cache(), ttl());
    let nested = Router::new().nest("/a", Router::new().route("/{id}", of_user()));
    let inside = Router::new().route("/{id}", of_user()).layer(layer());
    let serviced = Router::new().nest_service("/a", inside.clone());
    let plain = Router::new().route("/a/{id}", of_user());
    let fallback = || Router::new().fallback(|| async { "user 7" });
    let unmatched = fallback().route("/b", of_user());
    let apps = [
        nested.layer(layer()),
        Router::new().nest("/a", inside),
        serviced,
        plain.layer(layer()),
        fallback().layer(layer()),
        Router::new().nest("/a", unmatched.clone().layer(layer())),
        Router::new().nest_service("/a", unmatched.clone().layer(layer())),
        Router::new().nest_service("/a", unmatched.clone()).layer(layer()),
        Router::new().nest_service("/a", layer().layer(unmatched.clone())),
        Router::new().nest_service("/{tenant}", unmatched.clone().layer(layer())),
    ];
    for (at, app) in apps.into_iter().enumerate() {
        let get = || by(Method::GET, "/a/7", &[]);
        assert_eq!(read(send(&app, get()).await).await.0, "user 7", "{at}");
        let (body, status) = read(send(&app, get()).await).await;
        assert!(body == "user 7" && status.contains("hit"), "{at}: {body} {status}");
        let known = app.layer(Extension(User("alice".into())));
        let (_, status) = read(send(&known, get()).await).await;
        assert!(status.contains("extensions"), "{at}: an undeclared one: {status}");
    }
}

/// A router adds no parameters where the URI has no path (RFC 9112, section 3.2.4).
#[tokio::test]
async fn an_undeclared_extension_is_detected_whatever_a_router_adds() {
    let app = Router::new().fallback(secret).layer(CacheLayer::with_policy(cache(), ttl()));
    // Or somebody else than a router adds its URI.
    let bare = CacheLayer::with_policy(cache(), ttl()).layer(get(secret));
    let bare = Router::new().fallback_service(map_request(unrouted).layer(bare));
    for (app, uri) in [(app, "*"), (bare, "/")] {
        for user in ["alice", "bob"] {
            let app = app.clone().layer(Extension(User(user.into())));
            let (body, status) = read(send(&app, by(Method::GET, uri, &[])).await).await;
            assert_eq!(body, format!("secret of {user}"), "{uri}: {status}");
        }
    }
}

/// Takes off a request all that routers have added but the URI.
async fn unrouted(mut request: Request) -> Request {
    let user = request.extensions().get::<User>().cloned();
    let uri = OriginalUri(request.uri().clone());
    request.extensions_mut().clear();
    request.extensions_mut().insert(uri);
    if let Some(user) = user {
        request.extensions_mut().insert(user);
    }
    request
}

#[tokio::test]
async fn credentials_for_which_vary_by_returns_none_are_still_personal() {
    for policy in [ttl(), Policy::standard()] {
        let nobody = policy.vary_by(|_| None);
        let layer = CacheLayer::with_policy(cache(), nobody);
        let echo = |request: Request<Body>| async move {
            let said = format!("{:?}", request.headers());
            ([("cache-control", "max-age=60")], said)
        };
        let app = Router::new().route("/", get(echo)).layer(layer);
        for name in ["authorization", "cookie", "x-api-key"] {
            for user in ["alice", "bob"] {
                let (body, status) = fetch_with(&app, "/", &[(name, user)]).await;
                assert!(body.contains(user), "{name}: {body} {status}");
            }
        }
    }
}

/// Puts a header's value before the path, as a layer does that finds the tenant or the locale.
async fn prefix(name: &'static str, mut request: Request, next: Next) -> Response {
    let value = request.headers().get(name).map_or("none", |value| value.to_str().unwrap());
    let uri = format!("/{value}{}", request.uri());
    *request.uri_mut() = uri.parse().unwrap();
    next.run(request).await
}

#[tokio::test]
async fn a_path_rewritten_inside_the_router_is_part_of_the_key() {
    for name in ["x-site", "accept-language"] {
        let rewrite = move |request: Request, next: Next| prefix(name, request, next);
        let page = |request: Request| async move {
            ([("cache-control", "max-age=60")], request.uri().to_string())
        };
        for policy in [ttl(), Policy::standard(), ttl().query(["q"])] {
            let layer = CacheLayer::with_policy(cache(), policy);
            let routed = Router::new().route("/report", get(page));
            let nested = Router::new().nest_service("/report", Router::new().fallback(page));
            for router in [routed, Router::new().fallback(page), nested] {
                let app = router.layer(layer.clone()).layer(from_fn(rewrite));
                for (at, tenant) in ["acme", "globex", "acme"].into_iter().enumerate() {
                    let request = by(Method::GET, "/report?q=1", &[(name, tenant)]);
                    let (body, status) = read(send(&app, request).await).await;
                    assert!(body.starts_with(&format!("/{tenant}/")), "{at}: {body} {status}");
                }
            }
        }
    }
}

/// A handler that gets nothing of the tenant but a parameter of the path, which a router has stripped.
#[tokio::test]
async fn a_parameter_of_a_rewritten_path_is_part_of_the_key_though_a_router_strips_it() {
    let page = |Path(tenant): Path<String>| async move {
        ([("cache-control", "max-age=60")], format!("of {tenant}"))
    };
    let rewrite = |request: Request, next: Next| prefix("x-site", request, next);
    for policy in [ttl(), Policy::standard(), ttl().strict()] {
        let layer = CacheLayer::with_policy(cache(), policy.clone());
        let pages = Router::new().route("/report", get(page)).layer(layer);
        let strip = |mut request: Request, next: Next| {
            *request.uri_mut() = "/report".parse().unwrap();
            next.run(request)
        };
        let by_hand = Router::new().route_service(
            "/{tenant}/report",
            from_fn(strip).layer(
                Router::new().fallback(page).layer(CacheLayer::with_policy(cache(), policy)),
            ),
        );
        let nested = Router::new().nest("/{tenant}", pages.clone());
        let deep = Router::new().nest("/{tenant}", Router::new().nest("/a", pages.clone()));
        for (router, uri) in [(nested, "/report"), (deep, "/a/report"), (by_hand, "/report")] {
            let rewritten = from_fn(rewrite).layer(router);
            let direct = Router::new().fallback_service(rewritten.clone());
            let within = Router::new().nest_service("/api", rewritten);
            for (app, uri) in [(direct, uri.to_owned()), (within, format!("/api{uri}"))] {
                for tenant in ["acme", "globex", "acme"] {
                    let request = by(Method::GET, &uri, &[("x-site", tenant)]);
                    let (body, status) = read(send(&app, request).await).await;
                    assert_eq!(body, format!("of {tenant}"), "{uri}: {status}");
                }
                let again = by(Method::GET, &uri, &[("x-site", "acme")]);
                let status = read(send(&app, again).await).await.1;
                assert!(status.contains("hit"), "{status}");
            }
        }
    }
}

#[tokio::test]
async fn an_extension_that_one_strict_policy_keys_by_reaches_no_handler_of_another() {
    let mine = ttl().strict().vary_by_extension(|user: &User| Some(user.0.clone()));
    let layer = CacheLayer::new(cache()).route("/mine", mine).route("/", ttl().strict().public());
    let authenticate = |request: Request, next: Next| {
        authenticate(HeaderName::from_static("x-user"), request, next)
    };
    let app = Router::new()
        .route("/mine", get(secret))
        .route("/", get(secret))
        .layer(layer.validate().unwrap())
        .layer(from_fn(authenticate));
    let by_user = async |uri: &str, user: &str| {
        let request = by(Method::GET, uri, &[("x-user", user)]);
        read(send(&app, request).await).await
    };
    for user in ["alice", "bob"] {
        assert_eq!(by_user("/mine", user).await.0, format!("secret of {user}"));
        let (body, status) = by_user("/mine", user).await;
        assert!(body == format!("secret of {user}") && status.contains("hit"), "{body}: {status}");
        assert_eq!(by_user("/", user).await.0, "secret of nobody");
    }
    let anonymous = read(send(&app, by(Method::GET, "/mine", &[])).await).await.0;
    assert_eq!(anonymous, "secret of nobody");
}

/// The handler's extractor takes the user for missing.
#[tokio::test]
async fn a_handler_that_refuses_for_want_of_a_withheld_extension_is_warned_about() {
    keep_warnings();
    let layer = CacheLayer::new(cache()).route("/", by_user(ttl().strict()));
    let authenticate = |request: Request, next: Next| {
        authenticate(HeaderName::from_static("x-user"), request, next)
    };
    let name = |user: Extension<User>| async move { user.0.0 };
    let app = Router::new().route("/", get(name)).layer(layer).layer(from_fn(authenticate));
    for _ in 0..2 {
        let request = by(Method::GET, "/", &[("x-user", "alice")]);
        assert_eq!(send(&app, request).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    }
    assert_eq!(warnings(&["withheld request extensions", "vary_by_extension"]), 1);
}

#[test]
fn an_extension_that_a_policy_keys_by_cannot_be_declared_not_to_identify_the_client() {
    let mine = || ttl().vary_by_extension(|user: &User| Some(user.0.clone()));
    let before = CacheLayer::new(cache()).extension::<User>().route("/", mine());
    let after = CacheLayer::new(cache()).route("/", mine()).extension::<User>();
    for layer in [before, after] {
        let fault = layer.validate().unwrap_err().to_string();
        assert!(fault.contains("leave out the declaration"), "{fault}");
    }
}

#[tokio::test]
async fn a_scheme_that_a_layer_writes_into_the_uri_is_part_of_the_key() {
    let page = |request: Request| async move {
        let scheme = request.uri().scheme_str().unwrap_or_default().to_owned();
        ([("cache-control", "max-age=60")], scheme)
    };
    let rewrite = |mut request: Request, next: Next| {
        let scheme = request.headers()["x-listener"].to_str().unwrap();
        *request.uri_mut() = format!("{scheme}://shop.example/a").parse().unwrap();
        next.run(request)
    };
    let layer = CacheLayer::with_policy(cache(), ttl());
    let app = Router::new().route("/a", get(page)).layer(layer).layer(from_fn(rewrite));
    for scheme in ["http", "https", "http"] {
        let request = by(Method::GET, "/a", &[("x-listener", scheme)]);
        assert_eq!(read(send(&app, request).await).await.0, scheme);
    }
}

// The stacks that guide 2 recommends, with small stand-ins for their crates.

/// The time, in seconds, by which tokens expire.
static NOW: AtomicU64 = AtomicU64::new(0);

/// Stands in for the check of a JWT: `Bearer alice.60` is Alice's until 60.
async fn check_token(mut request: Request, next: Next) -> Response {
    let header = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let token = header.and_then(|value| value.strip_prefix("Bearer ")?.split_once('.'));
    match token {
        Some((user, expires)) if expires.parse::<u64>().unwrap() > NOW.load(Ordering::SeqCst) => {
            let user = User(user.to_owned());
            request.extensions_mut().insert(user);
            next.run(request).await
        }
        _ => StatusCode::UNAUTHORIZED.into_response(),
    }
}

#[tokio::test]
async fn an_expired_access_token_gets_no_cached_response() {
    let layer = CacheLayer::with_policy(cache(), by_user(ttl()));
    let app = Router::new().route("/", get(secret)).layer(layer).layer(from_fn(check_token));
    let as_alice = |expires: u64| {
        let token = format!("Bearer alice.{expires}");
        let request = by(Method::GET, "/", &[("authorization", &token)]);
        async { send(&app, request).await }
    };
    assert_eq!(read(as_alice(60).await).await.0, "secret of alice");
    // Another token of the same user: entries are the user's.
    let (body, status) = read(as_alice(90).await).await;
    assert!(body == "secret of alice" && status.contains("hit"), "{status}");
    NOW.store(60, Ordering::SeqCst);
    assert_eq!(as_alice(60).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(as_alice(90).await.status(), StatusCode::OK);
}

/// Stands in for the session of tower-sessions: one for each request, with or without a user in it.
#[derive(Clone, Debug)]
struct Session(Arc<Option<String>>);

/// Stands in for its layer: the cookie's value is the user, and each response sets it again.
async fn with_session(mut request: Request, next: Next) -> Response {
    let cookie = request.headers().get("cookie").and_then(|cookie| cookie.to_str().ok());
    let user = cookie.and_then(|cookie| cookie.strip_prefix("id=")).map(str::to_owned);
    request.extensions_mut().insert(Session(Arc::new(user)));
    let mut response = next.run(request).await;
    response.headers_mut().insert("set-cookie", "id=renewed".parse().unwrap());
    response
}

#[tokio::test]
async fn session_middleware_around_the_cache_separates_users_and_shares_anonymous_entries() {
    let layer = CacheLayer::with_policy(
        cache(),
        ttl().vary_by(|parts| parts.extensions.get::<Session>()?.0.as_ref().clone()),
    );
    let page = |Extension(Session(user)): Extension<Session>| async move { format!("{user:?}") };
    let app = Router::new().route("/", get(page)).layer(layer).layer(from_fn(with_session));
    for (cookies, user) in [("id=alice", "Some(\"alice\")"), ("id=bob", "Some(\"bob\")")] {
        for expected in ["absent", "hit"] {
            let (body, status) = fetch_with(&app, "/", &[("cookie", cookies)]).await;
            assert!(body == user && status.contains(expected), "{cookies}: {body} {status}");
        }
    }
    for expected in ["absent", "hit"] {
        let (body, status) = fetch_with(&app, "/", &[]).await;
        assert!(body == "None" && status.contains(expected), "{body} {status}");
    }
    let response = send(&app, by(Method::GET, "/", &[("cookie", "id=alice")])).await;
    assert_eq!(
        response.headers()["set-cookie"],
        "id=renewed",
        "the session's own layer still runs"
    );
}

/// Stands in for `login_required!` and `permission_required!` of axum-login.
async fn require_staff(request: Request, next: Next) -> Response {
    let user = request.extensions().get::<User>().map(|user| user.0.as_str());
    match user {
        Some("staff") => next.run(request).await,
        Some(_) => StatusCode::FORBIDDEN.into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

#[tokio::test]
async fn permissions_are_checked_for_each_request_even_on_a_hit() {
    let layer = CacheLayer::with_policy(cache(), by_user(ttl()));
    let authenticate = |request: Request, next: Next| {
        authenticate(HeaderName::from_static("cookie"), request, next)
    };
    let app = Router::new().route("/", get(secret)).layer(layer);
    let app = app.layer(from_fn(require_staff)).layer(from_fn(authenticate));
    for _ in 0..2 {
        for (user, status) in [("staff", 200), ("alice", 403)] {
            let response = send(&app, by(Method::GET, "/", &[("cookie", user)])).await;
            assert_eq!(response.status(), status, "{user}");
        }
        assert_eq!(send(&app, by(Method::GET, "/", &[])).await.status(), 401);
    }
    assert!(fetch_with(&app, "/", &[("cookie", "staff")]).await.1.contains("hit"));
}
