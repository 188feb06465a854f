//! Macros of sqlx: queries that the compiler checks against the schema, and tests with a database of their own.
//!
//! The compiler reads what it must know of the database from the folder `.sqlx`. After a change of a query below, make it
//! anew: create a database with `schema.sql`, and run `cargo sqlx prepare -- --tests` with its URL as `DATABASE_URL`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Command;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sqlx::{FromRow, PgPool};
use tidegate::{Cache, Cached, Database, Listener, Memory, Outcome, Tier, Triggers, ValuePolicy};
use tidegate_testing::{Postgres, eventually};

const HIT: Outcome = Outcome::Hit(Tier::Memory);

const SCHEMA: &str = include_str!("../schema.sql");

#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize, Deserialize)]
struct User {
    id: i64,
    username: String,
    image: Option<String>,
}

/// `query_as!` into a type that can be stored.
async fn user(cached: &Cached, id: i64) -> User {
    let query = sqlx::query_as!(User, "select id, username, image from users where id = $1", id);
    cached.fetch_one(query).await.unwrap()
}

/// `query_scalar!`, as a row of one column.
async fn names(cached: &Cached) -> Vec<String> {
    let query = sqlx::query_scalar!("select username from users order by username");
    let rows: Vec<(String,)> = cached.fetch_all(query).await.unwrap();
    rows.into_iter().map(|(name,)| name).collect()
}

#[sqlx::test]
#[ignore = "needs DATABASE_URL; the test below runs it"]
async fn queries_checked_by_the_compiler_are_cached_and_invalidated(pool: PgPool) {
    sqlx::raw_sql(SCHEMA).execute(&pool).await.unwrap();
    for name in ["ada", "bob"] {
        let insert = "insert into users (username, email, password) values ($1, $1, '-')";
        sqlx::query(insert).bind(name).execute(&pool).await.unwrap();
    }
    Triggers::new().table("users").install(&mut pool.acquire().await.unwrap()).await.unwrap();
    let db = Database::from_pools(&pool, []).await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let cached = db.cached(&cache, ValuePolicy::ttl(Duration::from_mins(5)).build().unwrap());
    assert_eq!(user(&cached, 1).await.username, "ada");
    assert_eq!(names(&cached).await, ["ada", "bob"]);
    let hits = async || {
        let before = cache.counters().outcome(HIT);
        user(&cached, 1).await;
        names(&cached).await;
        cache.counters().outcome(HIT) - before
    };
    eventually("both are hits", async || hits().await == 2).await.unwrap();
    sqlx::query!("update users set username = 'eve' where id = 1").execute(&pool).await.unwrap();
    let is_seen = async || user(&cached, 1).await.username == "eve";
    eventually("the change invalidates the row", is_seen).await.unwrap();
    assert_eq!(names(&cached).await, ["bob", "eve"]);
    // `query!` has a type of its own for its rows, which can't be stored: it is for reads, and for handlers under a layer.
    let row = sqlx::query!("select count(*) as \"count!\" from users").fetch_one(db.reader()).await;
    assert_eq!(row.unwrap().count, 2);
    db.close().await;
}

#[tokio::test]
async fn a_database_that_sqlx_makes_for_a_test_can_be_followed() {
    let server = Postgres::start().await.unwrap();
    let test = "queries_checked_by_the_compiler_are_cached_and_invalidated";
    let program = std::env::current_exe().unwrap();
    let mut command = Command::new(program);
    command.args([test, "--exact", "--include-ignored"]).env("DATABASE_URL", server.url());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    // Dropped at the end, since no connection was left.
    let left = "select count(*) from pg_database where datname like '\\_sqlx\\_test\\_%'";
    assert_eq!(server.psql(left).await.unwrap().trim(), "0");
}
