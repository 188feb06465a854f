//! The page for operators, and its data.

use crate::common::admin::{change, greeting, json, policy};
use crate::common::followed::followed;
use crate::common::{eventually, fetch, read, send};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use serde_json::{Value, json};
use sqlx::Connection;
use tidegate::{Admin, CacheLayer, Database, Tag, Triggers};
use tidegate_testing::Postgres;

/// What a request that changes something must have.
const INTENT: (&str, &str) = ("tidegate-admin", "1");

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
                fetch(&self.app, uri).await;
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
        let request = json!({ "url": url, "headers": headers });
        let response = change(&self.app, "/admin/api/explain", &[INTENT], &request).await;
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

async fn text(app: &Router, uri: &str) -> String {
    let request = Request::get(uri).header("accept", "text/plain").body(Body::empty()).unwrap();
    read(send(app, request).await).await.0
}

#[tokio::test]
async fn route_statistics_are_counted_only_once_the_admin_page_exists() {
    let (app, layer) = greeting(policy());
    fetch(&app, "/hello").await;
    let page = Admin::new(&layer).unprotected();
    for _ in 0..3 {
        fetch(&app, "/hello").await;
    }
    let status = json(&page, "/api/status").await;
    let route = &status["routes"][0];
    assert_eq!(route["pattern"], "/hello");
    assert_eq!(route["policy"]["ttl_seconds"], 60.0);
    assert_eq!(route["outcomes"], json!([{ "result": "hit", "reason": "memory", "count": 3 }]));
    let served: u64 =
        route["served"].as_array().unwrap().iter().map(|pair| pair[1].as_u64().unwrap()).sum();
    assert_eq!(served, 3);
    assert_eq!(route["computed"], json!([]));
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
    fetch(&shop.app, "/products/7").await;
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
    let (body, status) = fetch(&shop.app, "/products/7").await;
    assert!(body == "y" && status.contains("changed"), "it was not recomputed before: {status}");
}

#[tokio::test]
async fn explain_names_the_reason_for_a_bypass_and_keys_by_host() {
    let shop = Shop::new().await;
    let reason = async |url, headers| shop.explain(url, headers).await["reason"].clone();
    assert_eq!(reason("/products", "Cookie: a=b").await, "personal");
    assert_eq!(reason("/products", "Cache-Control: no-store").await, "no-store");
    assert_eq!(reason("/plain/1", "").await, "no-policy");
    assert!(shop.explain("/plain/1", "").await["route"].is_null());
    fetch(&shop.app, "/plain/1").await;
    assert_eq!(shop.explain("/plain/1", "").await["route"], "/plain/{id}", "known after a request");
    // Responses are keyed by host, wherever the URL names it.
    let host =
        Request::get("/products").header("host", "shop.example").body(Body::empty()).unwrap();
    send(&shop.app, host).await;
    assert_eq!(reason("/products", "").await, "absent");
    assert_eq!(reason("/products", "Host: shop.example").await, "memory");
    assert_eq!(reason("http://shop.example/products", "").await, "memory");
    let request = json!({ "url": "/products", "headers": "Host: shop.example" });
    let with = [INTENT, ("accept", "text/plain")];
    let shown = read(change(&shop.app, "/admin/api/explain", &with, &request).await).await.0;
    assert!(shown.starts_with("/products: hit (memory)\n  served from the cache"), "{shown}");
    for (url, headers) in [("products", ""), ("/", "x"), ("", ""), ("http://", "")] {
        let request = json!({ "url": url, "headers": headers });
        let response = change(&shop.app, "/admin/api/explain", &[INTENT], &request).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{url} with {headers}");
    }
}

#[tokio::test]
async fn an_invalidated_tag_is_listed_as_a_change_without_its_value() {
    let shop = Shop::new().await;
    fetch(&shop.app, "/products/7").await;
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
        fetch(&shop.app, &format!("/plain/{}", round % 3)).await;
        fetch(&shop.app, "/notes").await;
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
    // Each text is shown with how often its arguments came again.
    let all = json(&shop.app, "/admin/api/suggest").await;
    let texts = all["statements"].as_array().unwrap();
    let by_id = texts.iter().find(|one| one["sql"].as_str().unwrap().contains("$1")).unwrap();
    let (times, repeated) = (by_id["times"].as_f64().unwrap(), by_id["repeated"].as_f64().unwrap());
    assert!(times >= 30.0 && (repeated - (times - 3.0) / times).abs() < 1e-9, "{by_id}");
    let shown = text(&shop.app, "/admin/api/suggest").await;
    assert!(
        shown.contains(&format!("of {sample} requests would have been served from the cache")),
        "{shown}"
    );
}

#[tokio::test]
async fn the_expected_hit_ratio_accounts_for_changes() {
    let shop = Shop::new().await;
    shop.learns(&["/plain/9"]).await;
    // Each read after a write that this node knows of: a response that was stored before is invalid.
    for round in 0..20 {
        fetch(&shop.app, "/plain/1").await;
        fetch(&shop.app, "/products/1").await;
        let write = format!("update products set name = 'v{round}' where id = 1");
        shop.server.psql(&write).await.unwrap();
        let fresh = async || fetch(&shop.app, "/products/1").await.0 == format!("v{round}");
        eventually("the write is seen", fresh).await;
    }
    let all = json(&shop.app, "/admin/api/suggest").await;
    let plain =
        all["routes"].as_array().unwrap().iter().find(|route| route["pattern"] == "/plain/{id}");
    let plain = plain.unwrap();
    assert_eq!(plain["expected_hit_ratio"], 0.0);
    assert!(plain["policy"].is_null() && plain["tables"][0]["name"] == "products", "{plain}");
}

#[tokio::test]
async fn suggest_names_columns_that_statements_compare_but_changes_do_not_record() {
    async fn products_named(State(db): State<Database>, Path(name): Path<String>) -> String {
        let sql = "select count(*) from products where name = $1 and price > 0";
        let query = sqlx::query_scalar::<_, i64>(sql).bind(name);
        query.fetch_one(db.reader()).await.unwrap().to_string()
    }
    let tables = "create table products (id int primary key, name text, price int);
        insert into products values (1, 'a', 1), (2, 'b', 1)";
    let (server, db, cache) = followed(tables).await;
    let layer = CacheLayer::new(cache).route("/cached/{name}", policy());
    let admin = Admin::new(&layer).database(&db).unprotected();
    let app = Router::new()
        .route("/cached/{name}", get(products_named))
        .route("/plain/{name}", get(products_named))
        .layer(layer)
        .with_state(db)
        .nest("/admin", admin);
    let advice = async |pattern: &str| {
        let all = json(&app, "/admin/api/suggest").await;
        let routes = all["routes"].as_array().unwrap().clone();
        let mut routes = routes.into_iter().filter(|route| route["pattern"] == pattern);
        routes.next().unwrap_or_default()["columns"][0].clone()
    };
    let known = async || {
        fetch(&app, "/plain/a").await;
        !advice("/plain/{name}").await.is_null()
    };
    eventually("the statement is analysed", known).await;
    for round in 0..20 {
        fetch(&app, "/cached/a").await;
        fetch(&app, "/plain/a").await;
        let write = format!("update products set price = {round} + 2 where name = 'b'");
        server.psql(&write).await.unwrap();
        let seen = async || fetch(&app, "/cached/a").await.1.contains("changed");
        eventually("the write is seen", seen).await;
    }
    for pattern in ["/cached/{name}", "/plain/{name}"] {
        let columns = advice(pattern).await;
        assert_eq!(columns["install"], "products:id,name", "{pattern}: {columns}");
        assert!(columns["statements"]["name"].as_u64() >= Some(20), "{pattern}: {columns}");
        let most = columns["hit_ratio_at_most"].as_f64().unwrap();
        assert!(most > 0.9 && most <= 1.0, "{pattern}: {columns}");
    }
    let shown = text(&app, "/admin/api/suggest").await;
    assert!(shown.contains("tidegate install products:id,name"), "{shown}");
    // Once changes are recorded by the column, there is nothing to suggest.
    let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    Triggers::new().columns("products", &["id", "name"]).install(&mut conn).await.unwrap();
    let status = async || {
        fetch(&app, "/cached/b").await;
        server.psql("update products set price = price + 1 where name = 'a'").await.unwrap();
        fetch(&app, "/cached/b").await.1.contains("hit")
    };
    eventually("changes of other rows leave the response", status).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn security_column_values_are_shown_only_if_the_service_enables_it() {
    let (server, db, cache) = followed("create table products (email text primary key)").await;
    server.psql("insert into products values ('eve@example.org')").await.unwrap();
    let layer = CacheLayer::new(cache);
    let page = || Admin::new(&layer).database(&db);
    let hidden = json(&page().unprotected(), "/api/changes").await.to_string();
    assert!(hidden.contains("products:email=#") && !hidden.contains("eve"), "{hidden}");
    let shown = json(&page().show_values().unprotected(), "/api/changes").await.to_string();
    assert!(shown.contains("products:email=eve@example.org"), "{shown}");
}
