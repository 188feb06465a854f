//! What a statement leaves behind in a session of a pool changes no later statement's result.

use sqlx::{AssertSqlSafe, Executor};
use tidegate::{Cache, Cached, Database, DatabaseOptions, Listener, Memory, ValuePolicy};
use tidegate_testing::{PgBouncer, Postgres};

use super::world::{TTL, options, primary};

/// A role whose own schema comes first in the default search path.
const OTHER: &str = "create role mallory;
    create schema mallory authorization mallory;
    create table mallory.users as select 1 as id, 'mallory' as name;
    alter table mallory.users owner to mallory";

/// After each of these a session returns something else to `SHOWN`.
const LEFT: [&str; 8] = [
    "create temporary table users as select 1 as id, 'mallory' as name",
    "do 'begin create temporary view users as select 1 as id, ''mallory'' as name; end'",
    "set search_path to mallory, public",
    "set time zone 'Asia/Tokyo'",
    "select set_config('datestyle', 'german', false)",
    "set role mallory",
    "set session authorization mallory",
    "begin; update users set name = 'mallory'",
];

const SHOWN: &str =
    "select name || ' ' || timestamptz '2026-01-02 03:04:05+00' from users where id = 1";

/// A database with one connection: each statement is sent by the connection of the one before.
async fn bed() -> (Postgres, Database, Cached) {
    let primary = primary(&[]).await;
    primary.psql(OTHER).await.unwrap();
    let db = options(&primary).connections(1).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let cached = db.cached(&cache, ValuePolicy::ttl(TTL).build().unwrap());
    (primary, db, cached)
}

/// What a session shows, by a statement whose result is not stored yet.
async fn shown(cached: &Cached, after: &str) -> String {
    let sql = AssertSqlSafe(format!("{SHOWN} /* after {after} */"));
    cached.fetch_one::<(String,)>(sqlx::query(sql)).await.unwrap().0
}

#[tokio::test(flavor = "multi_thread")]
async fn session_state_left_by_a_statement_changes_no_later_result() {
    let (_primary, db, cached) = bed().await;
    let expected = shown(&cached, "nothing").await;
    for left in LEFT {
        sqlx::raw_sql(left).execute(db.writer()).await.unwrap();
        assert_eq!(shown(&cached, left).await, expected, "after {left}, by the writer");
        let mut transaction = db.begin().await.unwrap();
        transaction.execute(left.trim_start_matches("begin; ")).await.unwrap();
        match left.starts_with("begin") {
            true => transaction.rollback().await.unwrap(),
            false => transaction.commit().await.unwrap(),
        }
        assert_eq!(shown(&cached, &format!("{left} in a transaction")).await, expected, "{left}");
    }
}

/// The statements are known, and something else than the call keeps their results from being cached.
#[tokio::test(flavor = "multi_thread")]
async fn session_state_left_by_a_read_changes_no_later_result() {
    let (_primary, db, cached) = bed().await;
    let expected = shown(&cached, "nothing").await;
    for left in [
        "select set_config('search_path', 'mallory, public', false), current_user::text",
        "select set_config('timezone', 'Asia/Tokyo', false), current_setting('timezone')",
        "select set_config('timezone', 'Asia/Tokyo', false), 'users'::regclass::text",
    ] {
        let once = cached.fetch_one::<(String, String)>(sqlx::query(left)).await;
        once.unwrap();
        sqlx::query(left).fetch_one(db.reader()).await.unwrap();
        assert_eq!(shown(&cached, left).await, expected, "after {left}");
    }
}

/// What is as it was serves the next statement.
#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_session_stays_open() {
    let primary = primary(&[]).await;
    let db = options(&primary).connections(1).connect().await.unwrap();
    let process = async || {
        let query = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        query.fetch_one(db.writer()).await.unwrap()
    };
    let first = process().await;
    sqlx::query("update users set name = 'eve'").execute(db.writer()).await.unwrap();
    let mut transaction = db.begin().await.unwrap();
    transaction
        .execute("create temporary table users on commit drop as select 1 as id")
        .await
        .unwrap();
    transaction.execute("set local time zone 'Asia/Tokyo'").await.unwrap();
    transaction.commit().await.unwrap();
    drop(db.begin().await.unwrap());
    assert_eq!(process().await, first);
}

/// A proxy gives a server's session to a client, and sets it to what the client requested: a reset would undo that.
#[tokio::test(flavor = "multi_thread")]
async fn settings_made_by_a_proxy_for_its_client_are_preserved() {
    let primary = Postgres::start_with(&[("timezone", "Asia/Tokyo")]).await.unwrap();
    let proxy = PgBouncer::start("session", &[("shop", primary.addr())]).await.unwrap();
    let db = DatabaseOptions::new(proxy.url("shop")).connections(1).connect().await.unwrap();
    for _ in 0..3 {
        let query = sqlx::query_scalar::<_, String>("select current_setting('TimeZone')");
        assert_eq!(query.fetch_one(db.writer()).await.unwrap(), "UTC");
    }
}
