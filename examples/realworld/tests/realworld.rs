//! The blog on a private server: what the cache serves, and how often.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Sessions, Triggers,
};
use tidegate_example_realworld::{App, Keys, layer, router};
use tidegate_testing::Postgres;
use tower::ServiceExt;

const SCHEMA: &str = include_str!("../schema.sql");
const USERS: usize = 60;
const ARTICLES: usize = 150;
const TAGS: usize = 12;

/// Some content: popular users have more articles and followers, popular articles more favorites and comments.
const CONTENT: &str = "
    insert into users (username, email, password)
    select 'user-' || i, 'user-' || i || '@example.org', '-' from generate_series(1, 60) i;
    insert into articles (slug, author, title, description, body, created_at)
    select 'article-' || i, 1 + i * i % 60, 'article ' || i, 'about ' || i, repeat('text ', 100),
        '2026-01-01'::timestamptz + i * interval '1 hour'
    from generate_series(1, 150) i;
    insert into article_tags select i, 'tag-' || 1 + i * j % 12 from generate_series(1, 150) i, generate_series(1, 3) j
    on conflict do nothing;
    insert into follows select i, 1 + i * j % 60 from generate_series(1, 60) i, generate_series(1, 7) j
    on conflict do nothing;
    insert into favorites select i, 1 + i * j % 150 from generate_series(1, 60) i, generate_series(1, 9) j
    on conflict do nothing;
    insert into comments (article, author, body)
    select 1 + i * i % 150, 1 + i % 60, 'comment ' || i from generate_series(1, 400) i";

/// The service, with the cache and without.
struct Blog {
    server: Postgres,
    cached: Router,
    uncached: Router,
    keys: Keys,
}

impl Blog {
    /// Each statement's changes are recorded by row up to this number.
    async fn start(row_limit: u32) -> Self {
        let server = Postgres::start().await.unwrap();
        server.psql(SCHEMA).await.unwrap();
        server.psql(CONTENT).await.unwrap();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        let (triggers, untrackable) = Triggers::discover(&mut conn).await.unwrap();
        assert!(untrackable.is_empty(), "{untrackable:?}");
        let triggers = triggers.columns("users", &["username"]).columns("articles", &["slug"]);
        let triggers = triggers.columns("article_tags", &["tag"]);
        triggers.row_limit(row_limit).install(&mut conn).await.unwrap();
        let db: Database = DatabaseOptions::new(server.url()).connect().await.unwrap();
        let cache = Cache::new(Memory::new(64 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        let keys = Keys::new("a secret of this test").unwrap();
        let app = App { db, keys: keys.clone() };
        let sessions = Sessions::new("another secret of this test").unwrap();
        let cached = router(app.clone(), layer(cache.clone(), sessions).validate().unwrap());
        let uncached = router(app, CacheLayer::new(cache));
        Self { server, cached, uncached, keys }
    }

    fn request(&self, method: Method, uri: &str, user: Option<usize>, body: Body) -> Request<Body> {
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(user) = user {
            let token = self.keys.sign(i64::try_from(user).unwrap());
            request = request.header("authorization", format!("Token {token}"));
        }
        request.header("content-type", "application/json").body(body).unwrap()
    }
}

async fn text(response: axum::response::Response) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// Reads and writes at random, the same in each run.
struct Clients {
    random: fastrand::Rng,
    written: usize,
}

impl Clients {
    /// A number from 1 to `most` by Zipf's law.
    fn popular(&mut self, most: usize) -> usize {
        #[expect(clippy::cast_precision_loss, reason = "they are small")]
        let weights: Vec<f64> = (1..=most).map(|rank| 1.0 / rank as f64).collect();
        let mut at = self.random.f64() * weights.iter().sum::<f64>();
        weights
            .iter()
            .position(|weight| {
                (at < *weight) || {
                    at -= weight;
                    false
                }
            })
            .map_or(most, |at| at + 1)
    }

    fn user(&mut self) -> usize {
        self.popular(USERS)
    }

    fn slug(&mut self) -> String {
        format!("article-{}", self.popular(ARTICLES))
    }

    /// A URI, and the user who requests it.
    fn read(&mut self) -> (String, Option<usize>) {
        let viewer = if self.random.f64() < 0.3 { None } else { Some(self.user()) };
        let of = |path: &str, value: String| format!("/api/{path}{value}");
        let uri = match self.random.u32(..100) {
            0..35 => of("articles/", self.slug()),
            35..45 => "/api/articles".into(),
            45..52 => format!("/api/articles?tag=tag-{}", self.popular(TAGS)),
            52..57 => format!("/api/articles?author=user-{}", self.user()),
            57..60 => format!("/api/articles?favorited=user-{}", self.user()),
            60..75 => of("articles/", self.slug() + "/comments"),
            75..80 => of("profiles/user-", self.user().to_string()),
            80..85 => "/api/tags".into(),
            85..95 => return ("/api/articles/feed".into(), Some(self.user())),
            _ => return ("/api/user".into(), Some(self.user())),
        };
        (uri, viewer)
    }

    /// A request that writes.
    fn write(&mut self, blog: &Blog) -> Request<Body> {
        self.written += 1;
        let (user, slug) = (Some(self.user()), self.slug());
        let toggle = if self.random.bool() { Method::POST } else { Method::DELETE };
        let json = |value: serde_json::Value| Body::from(value.to_string());
        match self.random.u32(..100) {
            0..40 => {
                let uri = format!("/api/articles/{slug}/favorite");
                blog.request(toggle, &uri, user, Body::empty())
            }
            40..65 => {
                let comment =
                    json(json!({ "comment": { "body": format!("number {}", self.written) } }));
                let uri = format!("/api/articles/{slug}/comments");
                blog.request(Method::POST, &uri, user, comment)
            }
            65..80 => {
                let uri = format!("/api/profiles/user-{}/follow", self.user());
                blog.request(toggle, &uri, user, Body::empty())
            }
            80..90 => {
                let article = json(json!({ "article": {
                    "title": format!("new {}", self.written), "description": "", "body": "new",
                    "tagList": [format!("tag-{}", self.popular(TAGS))] } }));
                blog.request(Method::POST, "/api/articles", user, article)
            }
            _ => {
                let bio = json(json!({ "user": { "bio": format!("bio {}", self.written) } }));
                blog.request(Method::PUT, "/api/user", user, bio)
            }
        }
    }
}

#[derive(Debug, Default)]
struct Rates {
    reads: usize,
    hits: usize,
    /// Reads whose response was the same when it was last computed: what no cache can exceed.
    unchanged: usize,
    stale: usize,
}

impl Rates {
    async fn measure(blog: &Blog, requests: usize) -> Self {
        let mut clients = Clients { random: fastrand::Rng::with_seed(7), written: 0 };
        let (mut rates, mut computed) = (Self::default(), HashMap::new());
        let mut position: Option<HeaderValue> = None;
        for _ in 0..requests {
            if clients.random.f64() < 0.02 {
                let response = blog.cached.clone().oneshot(clients.write(blog)).await.unwrap();
                assert!(response.status().is_success(), "{}", response.status());
                position = response.headers().get("tidegate-position").cloned().or(position);
                continue;
            }
            let (uri, viewer) = clients.read();
            let mut request = blog.request(Method::GET, &uri, viewer, Body::empty());
            let fresh = blog.request(Method::GET, &uri, viewer, Body::empty());
            // All clients have seen the last write, so what is older is stale.
            if let Some(position) = &position {
                request.headers_mut().insert("tidegate-position", position.clone());
            }
            let response = blog.cached.clone().oneshot(request).await.unwrap();
            let is_hit = response.headers()["cache-status"].to_str().unwrap().contains("; hit");
            let got = text(response).await;
            let fresh = text(blog.uncached.clone().oneshot(fresh).await.unwrap()).await;
            rates.reads += 1;
            rates.hits += usize::from(is_hit);
            rates.stale += usize::from(got != fresh);
            let before = computed.insert((uri, viewer), fresh.clone());
            rates.unchanged += usize::from(before == Some(fresh));
        }
        rates
    }

    #[expect(clippy::cast_precision_loss, reason = "they are small")]
    fn share(&self, count: usize) -> f64 {
        count as f64 / self.reads as f64
    }
}

/// Under Zipf's law, with one write in fifty requests.
#[tokio::test(flavor = "multi_thread")]
async fn most_responses_that_have_not_changed_are_hits_and_none_is_stale() {
    let requests = std::env::var("REALWORLD_REQUESTS").map_or(4000, |count| count.parse().unwrap());
    let by_table = Rates::measure(&Blog::start(0).await, requests).await;
    let by_row = Rates::measure(&Blog::start(100).await, requests).await;
    let bound = by_row.share(by_row.unchanged);
    println!(
        "of {} reads: hits by table {:.1} %, by row {:.1} %, bound {:.1} %; stale {} and {}",
        by_row.reads,
        100.0 * by_table.share(by_table.hits),
        100.0 * by_row.share(by_row.hits),
        100.0 * bound,
        by_table.stale,
        by_row.stale,
    );
    assert_eq!((by_table.stale, by_row.stale), (0, 0));
    assert!(by_row.share(by_row.hits) >= 0.85 * bound);
    assert!(by_row.hits > by_table.hits);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_gets_a_401_instead_of_the_stored_response() {
    let blog = Blog::start(100).await;
    let get = async |token: String| {
        let request = Request::get("/api/user").header("authorization", format!("Token {token}"));
        let request = request.body(Body::empty()).unwrap();
        blog.cached.clone().oneshot(request).await.unwrap()
    };
    for _ in 0..3 {
        assert_eq!(get(blog.keys.sign(1)).await.status(), StatusCode::OK);
    }
    let status = get(blog.keys.sign(1)).await;
    assert!(status.headers()["cache-status"].to_str().unwrap().contains("hit"));
    assert!(text(status).await.contains("user-1@"));
    let expired = get(blog.keys.sign_until(1, 1_000_000_000)).await;
    assert_eq!(expired.status(), StatusCode::UNAUTHORIZED);
    assert!(text(get(blog.keys.sign(2)).await).await.contains("user-2@"), "{}", blog.server.url());
}
