//! Users share no response, and whoever is logged out or loses a right gets none that is stored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use tidegate::{Cache, Memory};
use tidegate_example_sessions::{by_axum_login, by_tower_sessions};
use tower::ServiceExt;

fn cache() -> Cache {
    Cache::new(Memory::new(1 << 20))
}

/// A browser: it sends the session's cookie with each request.
struct Browser<'a> {
    app: &'a Router,
    cookie: Option<String>,
}

impl<'a> Browser<'a> {
    fn new(app: &'a Router) -> Self {
        Self { app, cookie: None }
    }

    async fn logged_in(app: &'a Router, user: i64) -> Self {
        let mut browser = Self::new(app);
        let (status, ..) = browser.send(Method::POST, &format!("/login/{user}")).await;
        assert_eq!(status, StatusCode::OK);
        assert!(browser.cookie.is_some());
        browser
    }

    /// The status, the body, and what the cache says.
    async fn send(&mut self, method: Method, path: &str) -> (StatusCode, String, String) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(cookie) = &self.cookie {
            request = request.header("cookie", cookie);
        }
        let request = request.body(Body::empty()).unwrap();
        let response = self.app.clone().oneshot(request).await.unwrap();
        let text = |name| Some(response.headers().get(name)?.to_str().unwrap().to_owned());
        let cache = text("cache-status").unwrap_or_default();
        if let Some(set) = text("set-cookie") {
            let pair = set.split(';').next().unwrap();
            self.cookie = (!pair.ends_with('=')).then(|| pair.to_owned());
        }
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.into()).unwrap(), cache)
    }

    async fn get(&mut self, path: &str) -> (StatusCode, String, String) {
        self.send(Method::GET, path).await
    }
}

#[tokio::test]
async fn users_of_tower_sessions_share_no_response_and_the_others_share_one() {
    let app = by_tower_sessions::app(cache()).unwrap();
    for user in [1, 2] {
        let mut browser = Browser::logged_in(&app, user).await;
        for expected in ["absent", "hit"] {
            let (_, body, cache) = browser.get("/").await;
            assert!(body == format!("{user}'s") && cache.contains(expected), "{body} {cache}");
        }
        // In another session, too.
        let (_, body, cache) = Browser::logged_in(&app, user).await.get("/").await;
        assert!(body == format!("{user}'s") && cache.contains("hit"), "{body} {cache}");
        browser.send(Method::POST, "/logout").await;
        assert_eq!(browser.get("/").await.1, "nobody's");
    }
    let (_, body, cache) = Browser::new(&app).get("/").await;
    assert!(body == "nobody's" && cache.contains("hit"), "{body} {cache}");
}

#[tokio::test]
async fn users_of_axum_login_share_no_response() {
    let accounts = by_axum_login::Accounts::default();
    let app = by_axum_login::app(cache(), accounts.clone()).unwrap();
    for user in [1, 2] {
        accounts.permit(user, true);
        let mut browser = Browser::logged_in(&app, user).await;
        for expected in ["absent", "hit"] {
            let (_, body, cache) = browser.get("/report").await;
            assert!(body == format!("{user}'s") && cache.contains(expected), "{body} {cache}");
        }
    }
}

#[tokio::test]
async fn a_logged_out_user_or_one_without_the_right_to_a_page_gets_no_stored_page() {
    let accounts = by_axum_login::Accounts::default();
    let app = by_axum_login::app(cache(), accounts.clone()).unwrap();
    accounts.permit(1, true);
    let mut browser = Browser::logged_in(&app, 1).await;
    let hit = async |browser: &mut Browser<'_>| {
        browser.get("/report").await;
        assert!(browser.get("/report").await.2.contains("hit"));
    };

    hit(&mut browser).await;
    accounts.permit(1, false);
    assert_eq!(browser.get("/report").await.0, StatusCode::FORBIDDEN);
    accounts.permit(1, true);
    hit(&mut browser).await;

    let mut other = Browser::logged_in(&app, 1).await;
    other.send(Method::POST, "/logout").await;
    assert_eq!(other.get("/report").await.0, StatusCode::FORBIDDEN);

    hit(&mut browser).await;
    accounts.change_password(1);
    assert_eq!(browser.get("/report").await.0, StatusCode::FORBIDDEN);
}
