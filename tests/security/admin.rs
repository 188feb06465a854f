//! Who may use the operators' page, and how often.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Request, Response, StatusCode};
use axum::{Router, middleware};
use serde_json::json;
use tidegate::Admin;

use crate::common::admin::{change, greeting, json, policy};
use crate::common::{fetch, read, send};

const SECRET: &str = "0123456789abcdef";

async fn get_with(app: &Router, uri: &str, authorization: &str) -> Response<Body> {
    let request = Request::get(uri).header(AUTHORIZATION, authorization);
    send(app, request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn every_admin_path_requires_the_token() {
    let (_, layer) = greeting(policy());
    assert!(Admin::new(&layer).with_token("short").unwrap_err().to_string().contains("16"));
    let page = || Admin::new(&layer).with_token(SECRET).unwrap();
    let paths = ["/", "/api/status", "/api/changes", "/api/suggest"];
    for path in paths {
        // Each has room for ten wrong tokens.
        let page = page();
        let none = send(&page, Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(none.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(none.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic"));
        for wrong in ["Bearer 0123456789abcdeF", "Bearer", "Bearer ", "Basic !", "Digest x", SECRET]
        {
            let status = get_with(&page, path, wrong).await.status();
            assert_eq!(status, StatusCode::UNAUTHORIZED, "{path} with {wrong}");
        }
        // `anybody:0123456789abcdef`, as a browser sends it.
        for right in ["Bearer 0123456789abcdef", "basic YW55Ym9keTowMTIzNDU2Nzg5YWJjZGVm"] {
            assert_eq!(get_with(&page, path, right).await.status(), StatusCode::OK, "{path}");
        }
    }
    let body = json!({ "off": true });
    let posted = change(&page(), "/api/switch", &[("tidegate-admin", "1")], &body).await;
    assert_eq!(posted.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn the_admin_page_can_use_the_services_own_authentication() {
    let (_, layer) = greeting(policy());
    let only_operators =
        middleware::from_fn(async |request: Request<Body>, next: middleware::Next| {
            match request.headers().contains_key("x-operator") {
                true => next.run(request).await,
                false => axum::response::IntoResponse::into_response(StatusCode::FORBIDDEN),
            }
        });
    let app: Router = Router::new().nest("/ops", Admin::new(&layer).behind(only_operators));
    let status = async |request: axum::http::request::Builder| {
        send(&app, request.body(Body::empty()).unwrap()).await.status()
    };
    assert_eq!(status(Request::get("/ops/api/status")).await, StatusCode::FORBIDDEN);
    let operator = Request::get("/ops/api/status").header("x-operator", "1");
    assert_eq!(status(operator).await, StatusCode::OK);
}

#[tokio::test]
async fn a_cross_origin_request_changes_nothing() {
    let (app, layer) = greeting(policy());
    let page = Admin::new(&layer).unprotected();
    let off = json!({ "off": true });
    let (intent, site) = ("tidegate-admin", "sec-fetch-site");
    let refused: [&[(&str, &str)]; 4] = [
        &[],
        &[(site, "same-origin")],
        &[(intent, "1"), (site, "cross-site")],
        &[(intent, "1"), (site, "same-site")],
    ];
    for headers in refused {
        let status = change(&page, "/api/switch", headers, &off).await.status();
        assert_eq!(status, StatusCode::FORBIDDEN, "{headers:?}");
    }
    // What a form of another origin can send at most.
    let form = Request::post("/api/switch").header(CONTENT_TYPE, "text/plain").header(intent, "1");
    let form = send(&page, form.body(Body::from(off.to_string())).unwrap()).await;
    assert_eq!(form.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert_eq!(json(&page, "/api/status").await["off"], false);
    let done = change(&page, "/api/switch", &[(intent, "1"), (site, "same-origin")], &off).await;
    assert_eq!(done.status(), StatusCode::NO_CONTENT);
    assert_eq!(json(&page, "/api/status").await["off"], true);
    assert!(fetch(&app, "/hello").await.1.contains("off"));
    change(&page, "/api/switch", &[(intent, "1")], &json!({ "off": false })).await;
    assert!(!fetch(&app, "/hello").await.1.contains("off"));
}

#[tokio::test]
async fn the_admin_page_loads_nothing_from_elsewhere() {
    let (_, layer) = greeting(policy());
    let page = Admin::new(&layer).unprotected();
    let response = send(&page, Request::get("/").body(Body::empty()).unwrap()).await;
    let headers = response.headers().clone();
    let said = headers["content-security-policy"].to_str().unwrap();
    for directive in ["default-src 'none'", "script-src 'sha256-", "frame-ancestors 'none'"] {
        assert!(said.contains(directive), "{said}");
    }
    assert!(!said.contains("unsafe") && !said.contains("http"), "{said}");
    for (name, value) in [("cache-control", "no-store"), ("x-frame-options", "DENY")] {
        assert_eq!(headers[name], value);
    }
    let html = read(response).await.0;
    let links = html.matches("http").count();
    assert_eq!(links, html.matches("http://www.w3.org/2000/svg").count(), "nothing from elsewhere");
    assert!(
        !html.contains("/* script */") && !html.contains(" style=") && !html.contains(" onclick")
    );
}

fn from(address: &str, token: &str) -> Request<Body> {
    let mut request = Request::get("/api/status").header(AUTHORIZATION, token);
    let peer: std::net::SocketAddr = address.parse().unwrap();
    request = request.extension(axum::extract::ConnectInfo(peer));
    request.body(Body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn security_wrong_admin_tokens_are_rate_limited() {
    let (_, layer) = greeting(policy());
    let page = Admin::new(&layer).with_token(SECRET).unwrap();
    let right = format!("Bearer {SECRET}");
    for _ in 0..10 {
        let status = get_with(&page, "/", "Bearer a wrong one").await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let limited = get_with(&page, "/", "Bearer a wrong one").await;
    assert_eq!(limited.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(limited.headers()["retry-after"], "6");
    assert_eq!(get_with(&page, "/", &right).await.status(), StatusCode::OK, "nobody is shut out");

    let (mallory, alice) = ("192.0.2.1:1000", "192.0.2.2:1000");
    for _ in 0..10 {
        let status = send(&page, from(mallory, "Bearer a wrong one")).await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
    }
    let status = send(&page, from("192.0.2.1:2000", &right)).await.status();
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS, "its guesses are not looked at");
    assert_eq!(send(&page, from(alice, &right)).await.status(), StatusCode::OK);
    tokio::time::advance(Duration::from_secs(6)).await;
    assert_eq!(send(&page, from(mallory, &right)).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn security_requests_to_the_admin_page_are_rate_limited() {
    let (_, layer) = greeting(policy());
    let page = Admin::new(&layer).unprotected();
    let mut admitted = 0;
    for _ in 0..300 {
        let request = Request::get("/api/status").body(Body::empty()).unwrap();
        admitted += usize::from(send(&page, request).await.status() == StatusCode::OK);
    }
    assert_eq!(admitted, 200);
}
