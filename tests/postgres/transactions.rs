//! Transactions on the primary, whose statements the cache does not see.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy, Record, Sessions};

use super::common::send;
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
