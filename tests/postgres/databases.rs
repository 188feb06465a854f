//! Several `Database`s, and several caches, in one process.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request};
use axum::routing::get;
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Event, Key, Listener, Memory, Record, Sessions,
    ValuePolicy,
};
use tidegate_testing::Postgres;
use tokio::time::Instant;

use super::common::{eventually, read, send, values};
use super::world::{TTL, caught_up, options, primary, proxy};

fn memory() -> Memory {
    Memory::new(16 << 20)
}

async fn cached(db: &Database, cache: &Cache) -> String {
    let sql = "select name from users where id = 1";
    db.cached(cache, values()).fetch_one::<(String,)>(sql).await.unwrap().0
}

async fn rename(db: &Database, name: &str) {
    let query = sqlx::query("update users set name = $1 where id = 1").bind(name.to_owned());
    query.execute(db.writer()).await.unwrap();
}

fn counted(cache: &Cache) -> (u64, u64) {
    (cache.counters().event(Event::Stored), cache.counters().event(Event::NotStored))
}

#[tokio::test]
async fn a_write_through_another_database_is_seen_by_cached_reads() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let other = options(&server).connect().await.unwrap();
    let cache = Cache::new(memory());
    let listener = Listener::spawn(&db, &cache).await.unwrap();
    assert_eq!(cached(&db, &cache).await, "ada");
    assert_eq!(counted(&cache), (1, 0));
    // From here on, no change reaches the cache.
    listener.stop();
    rename(&other, "eve").await;
    assert_eq!(cached(&db, &cache).await, "eve", "in no scope");
    let write_and_read = async {
        rename(&other, "dan").await;
        cached(&db, &cache).await
    };
    assert_eq!(Record::detached(write_and_read).await, "dan", "in one scope");
}

/// On a hit, its position can't be compared with those of the reads.
#[tokio::test]
async fn a_value_of_a_cache_without_a_log_prevents_storing_whether_loaded_or_found() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let (cache, plain) = (Cache::new(memory()), Cache::new(memory()));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).tag("word").build().unwrap();
    let key = Key::new("inner").finish();
    for name in ["loaded", "found"] {
        let load = async || {
            let sql = "select name from users where id = 1";
            let user: String = sqlx::query_scalar(sql).fetch_one(db.reader()).await.unwrap();
            let word = async || Ok::<_, ()>("word".to_owned());
            Ok::<_, ()>(user + &plain.get_or_load(&key, &policy, word).await.unwrap())
        };
        let outer = Key::new("outer").part(name).finish();
        assert_eq!(cache.get_or_load(&outer, &values(), load).await.unwrap(), "adaword");
    }
    assert_eq!((counted(&cache), counted(&plain)), ((0, 2), (1, 0)));
}

/// A standby, and a database that reads by it.
async fn with_replica(primary: &Postgres, database: &str) -> (Postgres, Database) {
    let replica = primary.standby().await.unwrap();
    let options = DatabaseOptions::new(primary.url_of(database));
    let db = options.replica(replica.url_of(database)).connect().await.unwrap();
    let up = async || db.replicas().iter().all(|replica| replica.reached.is_some());
    eventually("the replica is up", up).await;
    (replica, db)
}

async fn name(db: &Database) -> String {
    let sql = "select name from users where id = 1";
    sqlx::query_scalar(sql).fetch_one(db.reader()).await.unwrap()
}

/// The token's position is of the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_write_to_a_database_other_than_its_layers() {
    let server = primary(&[]).await;
    let other = server.create_database("other").await.unwrap();
    let users =
        "create table users (id int primary key, name text); insert into users values (1, 'ada')";
    server.psql_at(&other, users).await.unwrap();
    let (replica, other) = with_replica(&server, "other").await;
    replica.pause_replay().await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(memory());
    Listener::spawn(&db, &cache).await.unwrap();
    let read_other = {
        let db = other.clone();
        async move || name(&db).await
    };
    let write_other = async move |name: String| rename(&other, &name).await;
    let app = Router::new()
        .route("/name", get(read_other).post(write_other))
        .layer(CacheLayer::new(cache).sessions(Sessions::new([7; 32]).unwrap()));
    let get = async |token: Option<&HeaderValue>| {
        let mut request = Request::get("/name").body(Body::empty()).unwrap();
        if let Some(token) = token {
            request.headers_mut().insert("tidegate-position", token.clone());
        }
        read(send(&app, request).await).await.0
    };
    let write = Request::post("/name").body(Body::from("eve")).unwrap();
    let response = send(&app, write).await;
    assert_eq!(get(None).await, "ada", "others read by the replica");
    assert_eq!(get(Some(&response.headers()["tidegate-position"])).await, "eve");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_outside_any_scope_is_seen_by_a_database_connected_later() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let replica = server.standby().await.unwrap();
    replica.pause_replay().await.unwrap();
    rename(&db, "eve").await;
    drop(db);
    let db = options(&server).replica(replica.url()).connect().await.unwrap();
    let up = async || db.replicas().iter().all(|replica| replica.reached.is_some());
    eventually("the replica is up", up).await;
    assert_eq!(name(&db).await, "eve");
}

/// It may still write when its `Database` is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_outside_any_scope_is_seen_even_if_its_database_was_dropped() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let mut transaction = db.begin().await.unwrap();
    drop(db);
    let (replica, db) = with_replica(&server, "postgres").await;
    Listener::spawn(&db, &Cache::new(memory())).await.unwrap();
    // Longer than a pool that was handed out counts as in use, each read may find that no write is in progress any more.
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(1500) {
        assert_eq!(name(&db).await, "ada");
        assert_eq!(db.replicas()[0].statements, 0, "the transaction may write at any time");
    }
    // Any position observed so far is at or before this one, which the replica has.
    caught_up(&server, &replica).await;
    replica.pause_replay().await.unwrap();
    let sql = "update users set name = 'eve' where id = 1";
    sqlx::query(sql).execute(&mut *transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(name(&db).await, "eve");
}

/// Nobody can cancel what goes on in the background: it has an end, and its connection comes back.
#[tokio::test(flavor = "multi_thread")]
async fn an_invalidation_on_a_hung_primary_fails_and_releases_its_connection() {
    let server = primary(&[]).await;
    let (proxy, url) = proxy(&server).await;
    let db = DatabaseOptions::new(url).connections(1).connect().await.unwrap();
    db.invalidate(["a"]).await.unwrap();
    eventually("its connection is back", async || db.primary().num_idle() == 1).await;
    // The current connections never receive anything again; new ones do.
    proxy.strand();
    let error = tokio::time::timeout(Duration::from_mins(1), db.invalidate(["b"])).await;
    error.expect("it has an end").unwrap_err();
    eventually("its connection is back", async || db.invalidate(["c"]).await.is_ok()).await;
    let logged = "select count(*) from tidegate.log where tags @> '{c}'";
    assert_ne!(server.psql(logged).await.unwrap(), "0");
}
