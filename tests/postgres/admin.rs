//! The page for operators, and what it is made of.

use std::time::Duration;

use crate::common::followed::followed;
use crate::common::{ask, eventually, read, send};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{Method, Request, Response, StatusCode};
use axum::routing::get;
use axum::{Router, middleware};
use serde_json::{Value, json};
use tidegate::{Admin, Cache, CacheLayer, Database, Memory, Policy, Tag};
use tidegate_testing::Postgres;

const SECRET: &str = "0123456789abcdef";

/// What a request that changes something must have.
const INTENT: (&str, &str) = ("tidegate-admin", "1");

fn policy() -> Policy {
    Policy::ttl(Duration::from_mins(1)).early_refresh(0.0).jitter(0.0)
}

/// A service that needs no server, and its layer.
fn greeting(policy: Policy) -> (Router, CacheLayer) {
    let layer = CacheLayer::new(Cache::new(Memory::new(1 << 20))).route("/hello", policy);
    let app = Router::new().route("/hello", get(async || "hello")).layer(layer.clone());
    (app, layer)
}

/// A service over a database, with its page under `/admin`.
struct Shop {
    server: Postgres,
    app: Router,
}

impl Shop {
    async fn new() -> Self {
        let tables = "create table products (id int primary key, name text);
            create table notes (id int primary key);
            insert into products select i, 'product ' || i from generate_series(1, 50) i";
        let (server, db, cache) = followed(tables).await;
        let layer = CacheLayer::new(cache)
            .route("/products/{id}", policy().tag("products:id={id}"))
            .route("/products", policy());
        let admin = Admin::new(&layer).database(&db).unprotected();
        let app = Router::new()
            .route("/products/{id}", get(product))
            .route("/products", get(count))
            .route("/plain/{id}", get(product))
            .route("/notes", get(notes))
            .layer(layer)
            .with_state(db)
            .nest("/admin", admin);
        Self { server, app }
    }

    /// Asks until it is known what these read, which is found out in the background.
    async fn learns(&self, uris: &[&str]) {
        for uri in uris {
            let known = async || {
                ask(&self.app, uri).await;
                let status = json(&self.app, "/admin/api/status").await;
                let routes = status["routes"].as_array().unwrap();
                let first = uri.split('/').nth(1).unwrap();
                let route = routes.iter().find(|route| {
                    route["pattern"].as_str().unwrap().starts_with(&format!("/{first}"))
                });
                let known =
                    |what| route.is_some_and(|route| !route[what].as_object().unwrap().is_empty());
                known("tables") || known("untracked")
            };
            eventually(uri, known).await;
        }
    }

    async fn explain(&self, url: &str, headers: &str) -> Value {
        let asked = json!({ "url": url, "headers": headers });
        let response = change(&self.app, "/admin/api/explain", &[INTENT], &asked).await;
        assert_eq!(response.status(), StatusCode::OK, "{url}");
        serde_json::from_str(&read(response).await.0).unwrap()
    }
}

async fn product(State(db): State<Database>, Path(id): Path<i32>) -> Result<String, StatusCode> {
    let query = sqlx::query_scalar("select name from products where id = $1").bind(id);
    query.fetch_one(db.reader()).await.map_err(|_| StatusCode::NOT_FOUND)
}

async fn count(State(db): State<Database>) -> String {
    let query = sqlx::query_scalar::<_, i64>("select count(*) from products");
    query.fetch_one(db.reader()).await.unwrap().to_string()
}

async fn notes(State(db): State<Database>) -> String {
    let query = sqlx::query_scalar::<_, i64>("select count(*) from notes");
    query.fetch_one(db.reader()).await.unwrap().to_string()
}

async fn json(app: &Router, uri: &str) -> Value {
    let response = send(app, Request::get(uri).body(Body::empty()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK, "{uri}");
    serde_json::from_str(&read(response).await.0).unwrap()
}

async fn text(app: &Router, uri: &str) -> String {
    let request = Request::get(uri).header("accept", "text/plain").body(Body::empty()).unwrap();
    read(send(app, request).await).await.0
}

/// Sends a change with these headers.
async fn change(app: &Router, uri: &str, headers: &[(&str, &str)], body: &Value) -> Response<Body> {
    let request = Request::builder().method(Method::POST).uri(uri);
    let request = request.header(CONTENT_TYPE, "application/json");
    let request =
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    send(app, request.body(Body::from(body.to_string())).unwrap()).await
}

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
    assert!(ask(&app, "/hello").await.1.contains("off"));
    change(&page, "/api/switch", &[(intent, "1")], &json!({ "off": false })).await;
    assert!(!ask(&app, "/hello").await.1.contains("off"));
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

#[tokio::test]
async fn route_statistics_are_counted_only_once_the_admin_page_exists() {
    let (app, layer) = greeting(policy());
    ask(&app, "/hello").await;
    let page = Admin::new(&layer).unprotected();
    for _ in 0..3 {
        ask(&app, "/hello").await;
    }
    let status = json(&page, "/api/status").await;
    let route = &status["routes"][0];
    assert_eq!(route["pattern"], "/hello");
    assert_eq!(route["policy"]["ttl_seconds"], 60.0);
    assert_eq!(route["outcomes"], json!([{ "result": "hit", "reason": "memory", "count": 3 }]));
    let served: u64 =
        route["served"].as_array().unwrap().iter().map(|pair| pair[1].as_u64().unwrap()).sum();
    assert_eq!(served, 3);
    assert_eq!(route["made"], json!([]));
    assert_eq!(status["hit_ratio"], 0.75, "of all, since the process began");
    assert_eq!(status["store"]["memory_entries"], 1);
}

#[tokio::test]
async fn explain_predicts_the_outcome_of_a_request_and_changes_nothing() {
    let shop = Shop::new().await;
    let before = shop.explain("/products/7", "").await;
    assert_eq!((&before["result"], &before["reason"]), (&json!("miss"), &json!("absent")));
    assert_eq!(before["route"], "/products/{id}");
    assert_eq!(before["tags"][0]["name"], "products:id=7");
    assert_eq!(before["servers"][0]["name"], "primary");
    ask(&shop.app, "/products/7").await;
    let hit = shop.explain("/products/7", "").await;
    assert_eq!((&hit["result"], &hit["reason"]), (&json!("hit"), &json!("memory")));
    assert_eq!(hit["key"], before["key"]);
    assert_eq!((&hit["entry"]["status"], &hit["entry"]["bytes"]), (&json!(200), &json!(9)));
    let names: Vec<&str> =
        hit["tags"].as_array().unwrap().iter().map(|tag| tag["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"products:id=7") && names.contains(&"products!"), "{names:?}");
    assert!(hit["tags"].as_array().unwrap().iter().all(|tag| tag["holds"] == true));
    // Of another row, then of this one.
    shop.server.psql("update products set name = 'x' where id = 8").await.unwrap();
    shop.server.psql("update products set name = 'y' where id = 7").await.unwrap();
    let fallen = async || shop.explain("/products/7", "").await["reason"] == "changed";
    eventually("the change is seen", fallen).await;
    let changed = shop.explain("/products/7", "").await;
    let lacking = changed["tags"].as_array().unwrap().iter().filter(|tag| tag["holds"] == false);
    assert_eq!(lacking.map(|tag| &tag["name"]).collect::<Vec<_>>(), ["products:id=7"]);
    let (body, status) = ask(&shop.app, "/products/7").await;
    assert!(body == "y" && status.contains("changed"), "it was not made anew before: {status}");
}

#[tokio::test]
async fn explain_names_the_reason_for_a_bypass_and_keys_by_host() {
    let shop = Shop::new().await;
    let reason = async |url, headers| shop.explain(url, headers).await["reason"].clone();
    assert_eq!(reason("/products", "Cookie: a=b").await, "personal");
    assert_eq!(reason("/products", "Cache-Control: no-store").await, "no-store");
    assert_eq!(reason("/plain/1", "").await, "no-policy");
    assert!(shop.explain("/plain/1", "").await["route"].is_null());
    ask(&shop.app, "/plain/1").await;
    assert_eq!(
        shop.explain("/plain/1", "").await["route"],
        "/plain/{id}",
        "known once it was asked for"
    );
    // Hosts tell answers apart, however the URL says which.
    let host =
        Request::get("/products").header("host", "shop.example").body(Body::empty()).unwrap();
    send(&shop.app, host).await;
    assert_eq!(reason("/products", "").await, "absent");
    assert_eq!(reason("/products", "Host: shop.example").await, "memory");
    assert_eq!(reason("http://shop.example/products", "").await, "memory");
    let asked = json!({ "url": "/products", "headers": "Host: shop.example" });
    let with = [INTENT, ("accept", "text/plain")];
    let told = read(change(&shop.app, "/admin/api/explain", &with, &asked).await).await.0;
    assert!(told.starts_with("/products: hit (memory)\n  served from the cache"), "{told}");
    for (url, headers) in [("products", ""), ("/", "x"), ("", ""), ("http://", "")] {
        let asked = json!({ "url": url, "headers": headers });
        let response = change(&shop.app, "/admin/api/explain", &[INTENT], &asked).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{url} with {headers}");
    }
}

#[tokio::test]
async fn an_invalidated_tag_is_listed_as_a_change_without_its_value() {
    let shop = Shop::new().await;
    ask(&shop.app, "/products/7").await;
    let post = async |body: Value| {
        change(&shop.app, "/admin/api/invalidate", &[("tidegate-admin", "1")], &body).await.status()
    };
    assert_eq!(post(json!({ "tags": [] })).await, StatusCode::BAD_REQUEST);
    assert_eq!(post(json!({ "tags": [" "] })).await, StatusCode::BAD_REQUEST);
    assert_eq!(post(json!({ "tag": "x" })).await, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(post(json!({ "tags": [" products:id=7 "] })).await, StatusCode::NO_CONTENT);
    let fallen = async || shop.explain("/products/7", "").await["reason"] == "changed";
    eventually("the tag has fallen", fallen).await;
    let changes = json(&shop.app, "/admin/api/changes").await;
    let hash = Tag::column("products", "id", "7").hash();
    assert_eq!(changes[0]["tags"], json!([format!("products:id=#{hash:016x}")]), "no value shows");
}

#[tokio::test]
async fn suggest_recommends_policies_and_tables_to_track() {
    let shop = Shop::new().await;
    shop.learns(&["/plain/1", "/notes"]).await;
    for round in 0..30 {
        ask(&shop.app, &format!("/plain/{}", round % 3)).await;
        ask(&shop.app, "/notes").await;
    }
    let advice = async |pattern: &str| {
        let all = json(&shop.app, "/admin/api/suggest").await;
        let routes = all["routes"].as_array().unwrap().clone();
        routes.into_iter().find(|route| route["pattern"] == pattern).unwrap_or_default()
    };
    // There is no product 0, and what is not found is not kept. Of the other two, the first time is a miss.
    let plain = advice("/plain/{id}").await;
    let sample = plain["sample"].as_f64().unwrap();
    let ratio = plain["expected_hit_ratio"].as_f64().unwrap();
    assert!(sample >= 20.0 && (ratio - (sample - 2.0) / sample).abs() < 1e-9, "{plain}");
    let policy = plain["policy"].as_str().unwrap();
    assert_eq!(policy, ".route(\"/plain/{id}\", Policy::ttl(Duration::from_secs(60)))");
    assert!(plain["notes"].to_string().contains("products:id={id}"), "{plain}");
    let notes = advice("/notes").await;
    assert!(notes["notes"].to_string().contains("tidegate install notes"), "{notes}");
    assert!(notes["policy"].is_null());
    let status = json(&shop.app, "/admin/api/status").await;
    let routes = status["routes"].as_array().unwrap();
    let of = |pattern: &str| routes.iter().find(|route| route["pattern"] == pattern).unwrap();
    assert!(of("/notes")["untracked"]["notes"].as_u64() >= Some(30), "{status}");
    assert!(of("/plain/{id}")["tables"]["products"].as_u64() >= Some(30), "{status}");
    // Each text is told with how often its arguments came again.
    let all = json(&shop.app, "/admin/api/suggest").await;
    let texts = all["statements"].as_array().unwrap();
    let by_id = texts.iter().find(|one| one["sql"].as_str().unwrap().contains("$1")).unwrap();
    let (times, repeated) = (by_id["times"].as_f64().unwrap(), by_id["repeated"].as_f64().unwrap());
    assert!(times >= 30.0 && (repeated - (times - 3.0) / times).abs() < 1e-9, "{by_id}");
    let told = text(&shop.app, "/admin/api/suggest").await;
    assert!(told.contains(&format!("of {sample} would have been served from the cache")), "{told}");
}

#[tokio::test]
async fn the_expected_hit_ratio_accounts_for_changes() {
    let shop = Shop::new().await;
    shop.learns(&["/plain/9"]).await;
    // Each read after a write that this node knows of: an answer that was stored before has fallen.
    for round in 0..20 {
        ask(&shop.app, "/plain/1").await;
        ask(&shop.app, "/products/1").await;
        let write = format!("update products set name = 'v{round}' where id = 1");
        shop.server.psql(&write).await.unwrap();
        let fresh = async || ask(&shop.app, "/products/1").await.0 == format!("v{round}");
        eventually("the write is seen", fresh).await;
    }
    let all = json(&shop.app, "/admin/api/suggest").await;
    let plain =
        all["routes"].as_array().unwrap().iter().find(|route| route["pattern"] == "/plain/{id}");
    let plain = plain.unwrap();
    assert_eq!(plain["expected_hit_ratio"], 0.0);
    assert!(plain["policy"].is_null() && plain["tables"][0]["name"] == "products", "{plain}");
}

/// A request from this address, with this token.
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

#[tokio::test(flavor = "multi_thread")]
async fn column_values_are_shown_only_if_the_service_enables_it() {
    let (server, db, cache) = followed("create table products (email text primary key)").await;
    server.psql("insert into products values ('eve@example.org')").await.unwrap();
    let layer = CacheLayer::new(cache);
    let page = || Admin::new(&layer).database(&db);
    let hidden = json(&page().unprotected(), "/api/changes").await.to_string();
    assert!(hidden.contains("products:email=#") && !hidden.contains("eve"), "{hidden}");
    let shown = json(&page().show_values().unprotected(), "/api/changes").await.to_string();
    assert!(shown.contains("products:email=eve@example.org"), "{shown}");
}
