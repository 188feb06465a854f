//! The whole path on real servers: an axum app over a primary and a replica, invalidated by writes
//! that the app knows nothing of.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use common::{ask, eventually};
use sqlx::Connection;
use std::time::Duration;
use tidegate::testing::Postgres;
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};

const TTL: Duration = Duration::from_mins(1);

struct World {
    primary: Postgres,
    replica: Postgres,
    db: Database,
    app: Router,
}

async fn world() -> World {
    let primary = Postgres::start().await.unwrap();
    primary
        .psql("create table users (id int primary key, name text); insert into users values (1, 'ada'), (2, 'bob')")
        .await
        .unwrap();
    let mut conn = sqlx::PgConnection::connect(&primary.url()).await.unwrap();
    Triggers::new().table("users").install(&mut conn).await.unwrap();
    let replica = primary.standby().await.unwrap();
    let db = DatabaseOptions::new(primary.url()).replica(replica.url()).connect().await.unwrap();
    let (_cache, app) = node(&db).await;
    World { primary, replica, db, app }
}

async fn node(db: &Database) -> (Cache, Router) {
    let cache = Cache::new(Memory::new(16 << 20));
    Listener::spawn(db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache.clone())
        .route("/users/{id}", Policy::ttl(TTL).tag("users:id={id}"))
        .route("/users", Policy::ttl(TTL));
    let app = Router::new()
        .route("/users/{id}", get(user))
        .route("/users", get(users))
        .layer(layer)
        .with_state(db.clone());
    (cache, app)
}

async fn user(State(db): State<Database>, Path(id): Path<i32>) -> String {
    let query = sqlx::query_scalar("select name from users where id = $1").bind(id);
    query.fetch_optional(db.reader()).await.unwrap().unwrap_or_default()
}

async fn users(State(db): State<Database>) -> String {
    let query = sqlx::query_scalar::<_, String>("select name from users order by id");
    query.fetch_all(db.reader()).await.unwrap().join(" ")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_psql_is_seen_and_nothing_else_is_made_anew() {
    let World { primary, app, replica: _replica, .. } = world().await;
    let (body, status) = ask(&app, "/users/1").await;
    assert_eq!(body, "ada", "{status}");
    eventually("the answers are cached", async || {
        ask(&app, "/users").await.1.contains("hit")
            && ask(&app, "/users/1").await.1.contains("hit")
            && ask(&app, "/users/2").await.1.contains("hit")
    })
    .await;
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("the new name is seen", async || ask(&app, "/users/1").await.0 == "eve").await;
    assert_eq!(ask(&app, "/users").await.0, "eve bob");
    let (body, status) = ask(&app, "/users/2").await;
    assert_eq!(body, "bob");
    assert!(status.contains("hit"), "another row's answer is as good as before: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_taken_off_the_primary_when_the_replica_is_far_enough() {
    let World { app, db, primary: _primary, replica: _replica, .. } = world().await;
    eventually("the replica is up", async || db.replicas()[0].replayed.is_some()).await;
    let (_, status) = ask(&app, "/users").await;
    assert!(status.contains("from replica-1"), "{status}");
    assert!(status.contains("stored"), "{status}");
}
