//! Transactions on the primary: those whose statements the cache does not see, and those for reads, which it sees.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy, Record, Sessions};

use super::common::{eventually, fetch, send};
use super::world::{TTL, options, primary};

const NAME: &str = "select name from users where id = 1";

const UPDATE: &str = "update users set name = 'eve' where id = 1";

async fn work(State(db): State<Database>, Path(how): Path<String>) -> String {
    let begun = if how == "read-only" { db.begin_read_only().await } else { db.begin().await };
    let mut transaction = begun.unwrap();
    let name = sqlx::query_scalar(NAME).fetch_one(&mut *transaction).await.unwrap();
    if ["written", "rolled-back", "dropped"].contains(&&*how) {
        sqlx::query(UPDATE).execute(&mut *transaction).await.unwrap();
    }
    if how == "by-text" {
        sqlx::raw_sql(UPDATE).execute(&mut *transaction).await.unwrap();
        sqlx::raw_sql("commit").execute(&mut *transaction).await.unwrap();
    }
    match &*how {
        "rolled-back" => transaction.rollback().await.unwrap(),
        "dropped" => drop(transaction),
        _ => transaction.commit().await.unwrap(),
    }
    name
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_counts_as_a_write_only_if_it_has_committed_one() {
    let primary = primary(&[]).await;
    let db = options(&primary).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache)
        .route("/cached/{how}", Policy::ttl(TTL))
        .sessions(Sessions::new("the same on every node").unwrap())
        .validate()
        .unwrap();
    let app = Router::new().route("/cached/{how}", get(work)).route("/plain/{how}", get(work));
    let app = app.layer(layer).with_state(db.clone());
    for how in ["read-only", "read", "rolled-back", "dropped", "written", "by-text"] {
        let get = |uri: String| Request::get(uri).body(Body::empty()).unwrap();
        let has_written = ["written", "by-text"].contains(&how);
        for route in ["plain", "cached"] {
            let response = send(&app, get(format!("/{route}/{how}"))).await;
            let token = response.headers().contains_key("tidegate-position");
            assert_eq!(token, has_written, "{route} {how}");
            if route == "cached" {
                let status = response.headers()["cache-status"].to_str().unwrap();
                assert!(status.contains("unnoted-reads"), "{how}: {status}");
            }
        }
    }
    let mut transaction = db.begin_read_only().await.unwrap();
    let update = sqlx::query(UPDATE).execute(&mut *transaction).await;
    assert!(update.unwrap_err().to_string().contains("read-only"));
}

/// With a replica that replays nothing.
#[tokio::test(flavor = "multi_thread")]
async fn reads_see_a_transaction_that_has_committed_and_use_replicas_after_one_that_only_read() {
    let primary = primary(&[]).await;
    let standby = primary.standby().await.unwrap();
    standby.psql("select pg_wal_replay_pause()").await.unwrap();
    let db = options(&primary).replica(standby.url()).connect().await.unwrap();
    let name = async || -> (String, bool) {
        let sql = "select name, pg_is_in_recovery() from users where id = 1";
        sqlx::query_as(sql).fetch_one(db.reader()).await.unwrap()
    };
    let work = async |sql: &str| {
        let mut transaction = db.begin().await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(sql.to_owned())).execute(&mut *transaction).await.unwrap();
        assert!(!name().await.1, "while it is open, the primary is read");
        transaction.commit().await.unwrap();
        name().await
    };
    assert_eq!(Record::detached(work(NAME)).await, ("ada".to_owned(), true));
    assert_eq!(Record::detached(work(UPDATE)).await, ("eve".to_owned(), false));
    assert_eq!(name().await, ("ada".to_owned(), true), "outside the scope");
    assert_eq!(work(UPDATE).await, ("eve".to_owned(), false));
}

/// The names of both users, by two reads of one transaction.
async fn both(db: &Database) -> Result<String, sqlx::Error> {
    let mut snapshot = db.read_transaction().await?;
    let name = "select name from users where id = $1";
    let one: String = sqlx::query_scalar(name).bind(1).fetch_one(&mut snapshot).await?;
    let two: String = sqlx::query_scalar(name).bind(2).fetch_one(&mut snapshot).await?;
    Ok(format!("{one} {two}"))
}

#[tokio::test]
async fn a_response_depends_on_the_rows_that_a_read_transaction_reads() {
    let server = primary(&[]).await;
    server.psql("insert into users values (3, 'cid')").await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let app = Router::new()
        .route("/", get(async |State(db): State<Database>| both(&db).await.unwrap()))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state(db);
    eventually("a hit", async || fetch(&app, "/").await.1.contains("hit")).await;
    server.psql("update users set name = 'dan' where id = 3").await.unwrap();
    server.psql("update users set name = 'eve' where id = 2").await.unwrap();
    eventually("the new name", async || fetch(&app, "/").await.0 == "ada eve").await;
}

#[tokio::test]
async fn the_reads_of_a_read_transaction_see_one_snapshot_and_cannot_write() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let mut snapshot = db.read_transaction().await.unwrap();
    server.psql("update users set name = 'eve'").await.unwrap();
    let names = "select name from users order by id";
    let read: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut snapshot).await.unwrap();
    assert_eq!(read, ["ada", "bob"]);
    let write = "update users set name = 'mallory'";
    let refused = sqlx::query(write).execute(&mut snapshot).await.unwrap_err();
    assert_eq!(refused.as_database_error().unwrap().code().unwrap(), "25006");
    drop(snapshot);
    let mut snapshot = db.read_transaction().await.unwrap();
    let read: Vec<String> = sqlx::query_scalar(names).fetch_all(&mut snapshot).await.unwrap();
    assert_eq!(read, ["eve", "eve"]);
}

#[tokio::test]
async fn a_value_computed_from_a_snapshot_older_than_a_change_is_not_served_after_it() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = tidegate::ValuePolicy::ttl(TTL).build().unwrap();
    let key = tidegate::Key::new("snapshot").finish();
    let load = async || {
        let mut snapshot = db.read_transaction().await?;
        // The snapshot is taken; the change comes before the read.
        server.psql("update users set name = 'eve' where id = 1").await.unwrap();
        let name = "select name from users where id = 1";
        sqlx::query_scalar::<_, String>(name).fetch_one(&mut snapshot).await
    };
    assert_eq!(cache.get_or_load(&key, &policy, load).await.unwrap(), "ada");
    let load = async || {
        let name = "select name from users where id = 1";
        sqlx::query_scalar::<_, String>(name).fetch_one(db.reader()).await
    };
    eventually("the new name", async || {
        cache.get_or_load(&key, &policy, load).await.unwrap() == "eve"
    })
    .await;
}

#[tokio::test]
async fn nothing_is_stored_that_is_read_after_a_setting_of_a_read_transaction() {
    let server = primary(&[]).await;
    server
        .psql("create schema shop; create table shop.users (id int, name text); insert into shop.users values (1, 'mallory')")
        .await
        .unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = tidegate::ValuePolicy::ttl(TTL).build().unwrap();
    let value = async |name: &str, inner: &str, snapshot: &mut tidegate::ReadTransaction| {
        let key = tidegate::Key::new("inner").part(name).finish();
        let load = async || {
            sqlx::query_scalar::<_, String>(sqlx::AssertSqlSafe(inner.to_owned()))
                .fetch_one(snapshot)
                .await
        };
        cache.get_or_load(&key, &policy, load).await.unwrap()
    };
    let outer = async || {
        let mut snapshot = db.read_transaction().await?;
        assert_eq!(value("before", NAME, &mut snapshot).await, "ada");
        sqlx::query("set local search_path to shop").execute(&mut snapshot).await?;
        assert_eq!(value("after", NAME, &mut snapshot).await, "mallory");
        Ok::<_, sqlx::Error>(())
    };
    cache.get_or_load(&tidegate::Key::new("outer").finish(), &policy, outer).await.unwrap();
    assert_eq!(cache.counters().event(tidegate::Event::Stored), 1);
    let mut other = db.read_transaction().await.unwrap();
    assert_eq!(value("after", NAME, &mut other).await, "ada");
}

#[tokio::test]
async fn a_response_that_uses_a_read_transaction_of_another_scope_says_why_it_is_not_stored() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let outside = Record::detached(db.read_transaction()).await.unwrap();
    let outside = std::sync::Arc::new(tokio::sync::Mutex::new(outside));
    let handler = async move || {
        let query = sqlx::query_scalar::<_, String>(NAME);
        query.fetch_one(&mut *outside.lock().await).await.unwrap()
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)));
    let (body, status) = fetch(&app, "/").await;
    assert!(body == "ada" && status.contains("unnoted-reads"), "{status}");
}

#[tokio::test]
async fn a_failed_read_of_a_read_transaction_prevents_storing() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let handler = async |State(db): State<Database>| {
        let mut snapshot = db.read_transaction().await.unwrap();
        let name = "select name from users where id = 1";
        let name: String = sqlx::query_scalar(name).fetch_one(&mut snapshot).await.unwrap();
        let failed = sqlx::query("select 1 / (id - 1) from users").execute(&mut snapshot).await;
        assert!(failed.is_err());
        name
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state(db);
    let status = fetch(&app, "/").await.1;
    assert!(status.contains("read-failed"), "{status}");
}
