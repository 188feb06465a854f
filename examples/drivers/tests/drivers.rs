//! Each driver on private servers: a primary, and a standby whose replay can be paused.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::routing::get;
use diesel_async::AsyncPgConnection;
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, deadpool};
use http_body_util::BodyExt;
use sqlx::{Connection, PgConnection};
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};
use tidegate_example_drivers::{by_diesel, by_sea_orm, by_tokio_postgres};
use tidegate_testing::{Postgres, eventually};
use tokio_postgres::NoTls;
use tower::ServiceExt;

const SETUP: &str =
    "create table users (id int primary key, name text not null, visits int not null);
    insert into users values (1, 'ada', 0), (2, 'bob', 0)";

struct Servers {
    primary: Postgres,
    standby: Postgres,
    db: Database,
    cache: Cache,
}

impl Servers {
    async fn start() -> Self {
        let primary = Postgres::start_with(&[("log_statement", "all")]).await.unwrap();
        primary.psql(SETUP).await.unwrap();
        let mut conn = PgConnection::connect(&primary.url()).await.unwrap();
        Triggers::new().table("users").install(&mut conn).await.unwrap();
        let standby = primary.standby().await.unwrap();
        let db = DatabaseOptions::new(primary.url()).connect().await.unwrap();
        let cache = Cache::new(Memory::new(1 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        Self { primary, standby, db, cache }
    }
}

/// The body and the `Cache-Status` of a response.
async fn ask(app: &Router, uri: &str) -> (String, String) {
    let request = Request::get(uri).body(Body::empty()).unwrap();
    let response = app.clone().oneshot(request).await.unwrap();
    let status = response.headers().get("cache-status").map(|it| it.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), status.unwrap_or_default())
}

async fn warm(app: &Router, uris: &[&str]) {
    for uri in uris {
        eventually(uri, async || ask(app, uri).await.1.contains("hit")).await.unwrap();
    }
}

async fn sees(app: &Router, uri: &str, body: &str) {
    eventually(body, async || ask(app, uri).await.0 == body).await.unwrap();
}

async fn is_hit(app: &Router, uri: &str, body: &str) {
    let (got, status) = ask(app, uri).await;
    assert!(got == body && status.contains("hit"), "{uri}: {got} {status}");
}

/// Whether a server has run a statement that reads certain rows.
fn has_served(server: &Postgres) -> bool {
    server.log().replace('"', "").to_lowercase().contains("from users where")
}

/// What holds for each driver.
async fn check(servers: &Servers, app: &Router) {
    let Servers { primary, standby, .. } = servers;
    warm(app, &["/users/1", "/users/2"]).await;
    // The first reads may have come before the standby had replayed what they need.
    let mut others = 3..;
    eventually("a read by the standby", async || {
        ask(app, &format!("/users/{}", others.next().unwrap())).await;
        has_served(standby)
    })
    .await
    .unwrap();

    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    sees(app, "/users/1", "eve 0").await;
    is_hit(app, "/users/2", "bob 0").await;

    standby.pause_replay().await.unwrap();
    primary.psql("update users set name = 'zoe' where id = 1").await.unwrap();
    sees(app, "/users/1", "zoe 0").await;
    is_hit(app, "/users/2", "bob 0").await;

    for visited in ["bob 1", "bob 2"] {
        assert_eq!(ask(app, "/users/2/visit").await.0, visited, "it must see its own write");
    }
    sees(app, "/users/2", "bob 2").await;
}

fn deadpool_postgres(server: &Postgres) -> deadpool_postgres::Pool {
    let manager = deadpool_postgres::Manager::new(server.url().parse().unwrap(), NoTls);
    deadpool_postgres::Pool::builder(manager).build().unwrap()
}

fn tokio_postgres_service(servers: &Servers) -> by_tokio_postgres::Service {
    by_tokio_postgres::Service {
        db: servers.db.clone(),
        primary: deadpool_postgres(&servers.primary),
        replica: Some(deadpool_postgres(&servers.standby)),
    }
}

#[tokio::test]
async fn reads_by_tokio_postgres_are_cached() {
    let servers = Servers::start().await;
    let service = tokio_postgres_service(&servers);
    let app = by_tokio_postgres::router(service, servers.cache.clone()).unwrap();
    check(&servers, &app).await;
}

#[tokio::test]
async fn reads_by_diesel_are_cached() {
    let servers = Servers::start().await;
    let pool = |server: &Postgres| {
        let manager = AsyncDieselConnectionManager::<AsyncPgConnection>::new(server.url());
        deadpool::Pool::builder(manager).build().unwrap()
    };
    let service = by_diesel::Service {
        db: servers.db.clone(),
        primary: pool(&servers.primary),
        replica: Some(pool(&servers.standby)),
    };
    let app = by_diesel::router(service, servers.cache.clone()).unwrap();
    check(&servers, &app).await;
}

#[tokio::test]
async fn reads_by_sea_orm_are_cached() {
    let servers = Servers::start().await;
    let service = by_sea_orm::Service {
        db: servers.db.clone(),
        primary: sea_orm::Database::connect(servers.primary.url()).await.unwrap(),
        replica: Some(sea_orm::Database::connect(servers.standby.url()).await.unwrap()),
    };
    let app = by_sea_orm::router(service, servers.cache.clone()).unwrap();
    check(&servers, &app).await;
}

#[tokio::test]
async fn an_argument_of_another_type_does_not_hide_those_after_it() {
    type Service = by_tokio_postgres::Service;
    const SQL: &str =
        "select name from users where visits < $1::float8 and id = $2 and visits >= $3";
    let servers = Servers::start().await;
    let user = async |State(service): State<Service>, Path(id): Path<i32>| {
        let rows = service.cached_read(SQL, &[&1.5_f64, &id, &0]).await.unwrap();
        rows[0].get::<_, String>(0)
    };
    let policy = Policy::ttl(Duration::from_mins(5));
    let app = Router::new()
        .route("/users/{id}", get(user))
        .layer(CacheLayer::with_policy(servers.cache.clone(), policy))
        .with_state(tokio_postgres_service(&servers));
    warm(&app, &["/users/1", "/users/2"]).await;
    servers.primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    sees(&app, "/users/1", "eve").await;
    is_hit(&app, "/users/2", "bob").await;
}

#[tokio::test]
async fn a_read_that_could_not_be_declared_is_not_stored() {
    let servers = Servers::start().await;
    servers.primary.psql("create role app login superuser").await.unwrap();
    let url = servers.primary.url().replacen("postgres@", "app@", 1);
    let manager = deadpool_postgres::Manager::new(url.parse().unwrap(), NoTls);
    let primary = deadpool_postgres::Pool::builder(manager).build().unwrap();
    let service = by_tokio_postgres::Service { db: servers.db.clone(), primary, replica: None };
    let app = by_tokio_postgres::router(service, servers.cache.clone()).unwrap();
    for _ in 0..2 {
        let (body, status) = ask(&app, "/users/1").await;
        assert!(body == "ada 0" && status.contains("unnoted-reads"), "{body} {status}");
    }
}
