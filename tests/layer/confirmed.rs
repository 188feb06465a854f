//! A handler confirms a stored response by a date (RFC 9111, section 4.3) while a change makes the response invalid.

use std::time::Duration;

use crate::common::origin::{FRESH, Origin, TAGGED, body, by, get};
use crate::common::{cache, eventually, send};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use tidegate::{Cache, CacheLayer, Memory, Policy};

/// The second of both versions.
const DATED: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
const STALE: (&str, &str) = ("cache-control", "max-age=60, stale-while-revalidate=60");

/// A cache, and a layer over it whose responses have the tag `t`.
fn tagged() -> (Cache, CacheLayer) {
    let cache = cache();
    (cache.clone(), CacheLayer::with_policy(cache, Policy::standard().tag("t")))
}

/// The second version is there, and invalidates the first, before the handler reads it.
async fn changes(State((cache, origin)): State<(Cache, Origin)>, request: Request) -> Response {
    let is_conditional = request.headers().contains_key("if-modified-since");
    let run = origin.receives(request);
    if run == 2 {
        cache.invalidate(["t"]).await.unwrap();
    }
    let version = if run == 1 { "one" } else { "two" };
    match is_conditional {
        true => (StatusCode::NOT_MODIFIED, [STALE, DATED]).into_response(),
        false => ([STALE, DATED], version).into_response(),
    }
}

#[tokio::test]
async fn a_change_while_the_handler_runs_is_not_undone_by_its_304() {
    for method in [Method::GET, Method::HEAD] {
        let ((cache, layer), origin) = (tagged(), Origin::default());
        let app = Router::new().fallback(changes).layer(layer);
        let app = app.with_state((cache, origin.clone()));
        assert_eq!(body(&app, get(&[])).await, "one");
        body(&app, by(method.clone(), "/", &[("cache-control", "no-cache")])).await;
        assert_eq!(origin.runs(), 2);
        assert_eq!(body(&app, get(&[])).await, "two", "{method}");
    }
}

/// The renewal begins after the change, so its own position does not show that the stored response lacks the change.
#[tokio::test(start_paused = true)]
async fn a_change_before_a_renewal_begins_is_not_undone_by_its_304() {
    let origin = Origin::default()
        .then(200, &[STALE, DATED], "one")
        .then(304, &[STALE, DATED], "")
        .then(200, &[STALE, DATED], "two");
    let (cache, layer) = tagged();
    let app = origin.behind(layer);
    assert_eq!(body(&app, get(&[])).await, "one");
    tokio::time::advance(Duration::from_secs(61)).await;
    assert_eq!(body(&app, get(&[])).await, "one", "stale, and to be renewed in the background");
    cache.invalidate(["t"]).await.unwrap();
    assert_eq!(origin.runs(), 1, "the renewal has not begun");
    eventually("it is renewed", async || origin.runs() == 2).await;
    assert!(origin.last().contains_key("if-modified-since"));
    assert_eq!(body(&app, get(&[])).await, "two");
}

async fn advance(seconds: u64) {
    tokio::time::advance(Duration::from_secs(seconds)).await;
}

/// RFC 9111, section 3.5: what is said to a client that the handler knows may be for that client alone.
#[tokio::test(start_paused = true)]
async fn a_revalidation_for_one_client_adds_no_fields_for_others() {
    for who in ["authorization", "cookie", "x-user"] {
        for (method, status) in [(Method::GET, 304), (Method::HEAD, 200)] {
            let origin = Origin::default().then(200, &[FRESH, TAGGED], "one").then(
                status,
                &[FRESH, TAGGED, ("x-csrf", "alice")],
                "",
            );
            let app = origin.router(Policy::standard());
            assert_eq!(body(&app, get(&[])).await, "one");
            advance(61).await;
            send(&app, by(method.clone(), "/", &[(who, "a=alice")])).await;
            let response = send(&app, get(&[])).await;
            assert!(!response.headers().contains_key("x-csrf"), "{who} {method}");
        }
    }
}

/// Responds by the cookies and the credentials of a request, with one date for all; 304 to a request with a date.
async fn dated_by_client(
    State((origin, vary)): State<(Origin, &'static str)>,
    request: Request,
) -> Response {
    let headers = request.headers().clone();
    let run = origin.receives(request);
    let of = |name: &str| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let said = [("cache-control", "max-age=1"), DATED, ("vary", vary)];
    match headers.contains_key("if-modified-since") {
        true => (StatusCode::NOT_MODIFIED, said).into_response(),
        false => (said, format!("{}{} {run}", of("cookie"), of("authorization"))).into_response(),
    }
}

type Field = (&'static str, &'static str);

/// A stored response that the client may not have: by its cookies (RFC 9111, section 4.1), and by its credentials (section
/// 3.5).
const OF_NOBODY: [(Option<Field>, Field, &str); 2] = [
    (Some(("cookie", "theme=dark")), ("cookie", "theme=dark; sid=bob"), "cookie"),
    (None, ("authorization", "bob"), "accept"),
];

/// An app whose responses vary by a header, keyed by the cookie `theme`.
fn dated(origin: &Origin, vary: &'static str) -> Router {
    let policy = Policy::standard().vary_cookies(["theme"]);
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy);
    let app = Router::new().fallback(dated_by_client).layer(layer);
    app.with_state((origin.clone(), vary))
}

#[tokio::test(start_paused = true)]
async fn a_response_that_a_client_may_not_have_is_never_revalidated_for_it() {
    for (nobody, bob, vary) in OF_NOBODY {
        for reload in [false, true] {
            let origin = Origin::default();
            let app = dated(&origin, vary);
            body(&app, get(nobody.as_slice())).await;
            let mut headers = vec![bob];
            match reload {
                true => headers.push(("cache-control", "no-cache")),
                false => advance(2).await,
            }
            let got = body(&app, get(&headers)).await;
            assert_eq!(got, format!("{} 2", bob.1), "{vary}, reload: {reload}");
            assert!(!origin.last().contains_key("if-modified-since"), "{vary}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_request_never_refreshes_a_response_that_its_client_may_not_have() {
    for (nobody, bob, vary) in OF_NOBODY {
        let origin = Origin::default();
        let app = dated(&origin, vary);
        body(&app, get(nobody.as_slice())).await;
        advance(2).await;
        send(&app, by(Method::HEAD, "/", &[bob])).await;
        body(&app, get(nobody.as_slice())).await;
        assert_eq!(origin.runs(), 3, "{vary}: the stored response is as stale as before");
    }
}

#[tokio::test(start_paused = true)]
async fn a_304_that_forbids_storing_for_one_client_removes_nothing_for_others() {
    for forbids in [("set-cookie", "a=1"), ("cache-control", "private")] {
        let origin = Origin::default().then(200, &[FRESH, TAGGED], "one").then(304, &[forbids], "");
        let app = origin.router(Policy::standard());
        assert_eq!(body(&app, get(&[])).await, "one");
        let confirm = [("authorization", "alice"), ("cache-control", "no-cache")];
        send(&app, get(&confirm)).await;
        assert_eq!((body(&app, get(&[])).await.as_str(), origin.runs()), ("one", 2), "{forbids:?}");
    }
}

/// Else whoever sends HEAD could keep any response for as long as they like.
#[tokio::test(start_paused = true)]
async fn a_head_response_without_a_validator_refreshes_nothing() {
    let origin = Origin::default()
        .then(200, &[FRESH], "v1")
        .then(200, &[FRESH, ("content-length", "2")], "")
        .then(200, &[FRESH], "v2");
    let app = origin.router(Policy::standard());
    assert_eq!(body(&app, get(&[])).await, "v1");
    advance(59).await;
    send(&app, by(Method::HEAD, "/", &[("cache-control", "no-cache")])).await;
    advance(2).await;
    assert_eq!(body(&app, get(&[])).await, "v2");
}

/// RFC 9111, section 4.3.4: also where the tag is weak, or where there is only a date.
#[tokio::test]
async fn a_304_with_another_validator_confirms_nothing() {
    const ASKS: (&str, &str) = ("cache-control", "no-cache");
    for (stored, said) in [
        (("etag", "W/\"1\""), ("etag", "W/\"2\"")),
        (DATED, ("last-modified", "Sun, 06 Nov 1994 08:49:38 GMT")),
    ] {
        let origin = Origin::default()
            .then(200, &[ASKS, stored], "one")
            .then(304, &[ASKS, said], "")
            .then(200, &[ASKS], "two");
        let app = origin.router(Policy::standard());
        assert_eq!(body(&app, get(&[])).await, "one");
        assert_eq!(body(&app, get(&[])).await, "two", "{said:?}");
        assert_eq!(origin.runs(), 3, "{said:?}");
    }
}

/// Clients make up paths as they like.
#[tokio::test]
async fn audits_of_paths_that_match_no_route_share_one_report() {
    let cache = Cache::new(Memory::new(16 << 20));
    let policy = Policy::ttl(Duration::from_mins(1)).untracked().audit(1.0);
    let layer = CacheLayer::with_policy(cache.clone(), policy);
    let app = Router::new().fallback(async || "page").layer(layer);
    for path in 0..100 {
        for _ in 0..3 {
            body(&app, by(Method::GET, &format!("/{path}"), &[])).await;
        }
    }
    eventually("they are compared", async || !cache.audits().is_empty()).await;
    assert_eq!(cache.audits().keys().collect::<Vec<_>>(), ["(default)"]);
}
