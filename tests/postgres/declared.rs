//! Reads that another driver runs. Here that is a connection of sqlx's own.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use sqlx::{Connection, Executor, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DeclareError, DeclaredRead, Listener, Memory, Policy, Record,
    ValuePolicy,
};
use tidegate_testing::Postgres;
use tokio::sync::Mutex;

use super::common::{eventually, fetch};
use super::world::{TTL, connect, options, primary, proxy};

const NAME: &str = "select name from users where id = $1";

async fn position(conn: &mut PgConnection) -> String {
    sqlx::query_scalar(Database::POSITION).fetch_one(conn).await.unwrap()
}

async fn declare(
    db: &Database,
    conn: &mut PgConnection,
    id: i32,
) -> Result<DeclaredRead, DeclareError> {
    db.declare_read(&position(conn).await, sqlx::query(NAME).bind(id)).await
}

async fn read(conn: &mut PgConnection, id: i32) -> String {
    sqlx::query_scalar(NAME).bind(id).fetch_one(conn).await.unwrap()
}

type Other = Arc<Mutex<PgConnection>>;

/// A declared read that has not ended.
type Open = Arc<Mutex<Option<DeclaredRead>>>;

async fn user(State((db, other)): State<(Database, Other)>, Path(id): Path<i32>) -> String {
    let mut conn = other.lock().await;
    let declared = declare(&db, &mut conn, id).await;
    let name = read(&mut conn, id).await;
    declared.unwrap().end();
    name
}

async fn service(db: &Database, other: PgConnection) -> (Cache, Router) {
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache.clone()).route("/users/{id}", Policy::ttl(TTL));
    let app = Router::new()
        .route("/users/{id}", get(user))
        .layer(layer)
        .with_state((db.clone(), Arc::new(Mutex::new(other))));
    (cache, app)
}

#[tokio::test]
async fn a_response_depends_on_the_rows_of_a_declared_read() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let (_cache, app) = service(&db, connect(&server).await).await;
    for id in ["/users/1", "/users/2"] {
        eventually(id, async || fetch(&app, id).await.1.contains("hit")).await;
    }
    server.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("the new name", async || fetch(&app, "/users/1").await.0 == "eve").await;
    let (body, status) = fetch(&app, "/users/2").await;
    assert!(body == "bob" && status.contains("hit"), "{body} {status}");
}

#[tokio::test]
async fn a_replica_that_lacks_a_change_is_refused_for_a_declared_read() {
    let server = primary(&[]).await;
    let standby = server.standby().await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let (mut of_standby, mut of_primary) = (connect(&standby).await, connect(&server).await);
    let policy = ValuePolicy::ttl(TTL).build().unwrap();
    let name = async |key: &str, conn: &mut PgConnection| {
        let load = async || {
            let declared = declare(&db, conn, 1).await?;
            let name = read(conn, 1).await;
            declared.end();
            Ok(name)
        };
        let key = tidegate::Key::new("declared").part(key).finish();
        cache.get_or_load(&key, &policy, load).await
    };
    eventually("the standby serves", async || name("a", &mut of_standby).await.is_ok()).await;
    standby.pause_replay().await.unwrap();
    server.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("the node knows of the change", async || {
        matches!(name("b", &mut of_standby).await, Err(DeclareError::Behind))
    })
    .await;
    assert_eq!(name("b", &mut of_primary).await.unwrap(), "eve");
}

#[tokio::test]
async fn a_declared_read_sees_the_writes_of_its_scope() {
    let server = primary(&[]).await;
    let standby = server.standby().await.unwrap();
    let db = options(&server).replica(standby.url()).connect().await.unwrap();
    let (mut of_standby, mut of_primary) = (connect(&standby).await, connect(&server).await);
    standby.pause_replay().await.unwrap();
    Record::detached(async {
        declare(&db, &mut of_standby, 1).await.unwrap().end();
        of_primary.execute("update users set name = 'eve' where id = 1").await.unwrap();
        db.wrote();
        let refused = declare(&db, &mut of_standby, 1).await;
        assert!(matches!(refused, Err(DeclareError::Behind)), "{refused:?}");
        declare(&db, &mut of_primary, 1).await.unwrap().end();
    })
    .await;
}

#[tokio::test]
async fn a_declared_read_that_calls_a_writing_function_counts_as_a_write() {
    let server = primary(&[]).await;
    server
        .psql(
            "create function rename() returns int volatile language sql
                as $$ update users set name = 'eve' where id = 1 returning id $$",
        )
        .await
        .unwrap();
    let standby = server.standby().await.unwrap();
    let db = options(&server).replica(standby.url()).connect().await.unwrap();
    let (mut of_standby, mut of_primary) = (connect(&standby).await, connect(&server).await);
    for ends in [true, false] {
        server.psql("update users set name = 'ada' where id = 1").await.unwrap();
        eventually("replayed", async || read(&mut of_standby, 1).await == "ada").await;
        standby.pause_replay().await.unwrap();
        Record::detached(async {
            let at = position(&mut of_primary).await;
            let declared = db.declare_read(&at, sqlx::query("select rename()")).await.unwrap();
            of_primary.execute("select rename()").await.unwrap();
            if ends {
                declared.end();
            }
            let query = sqlx::query_scalar::<_, String>(NAME).bind(1);
            assert_eq!(query.fetch_one(db.reader()).await.unwrap(), "eve", "{ends}");
        })
        .await;
        standby.resume_replay().await.unwrap();
    }
}

#[tokio::test]
async fn an_old_primary_is_refused_to_a_scope_that_wrote_on_the_new_one() {
    let server = primary(&[]).await;
    let standby = server.standby().await.unwrap();
    let (proxy, url) = proxy(&server).await;
    let db = tidegate::DatabaseOptions::new(url).connect().await.unwrap();
    let mut old = connect(&server).await;
    standby.promote().await.unwrap();
    proxy.retarget(standby.addr());
    proxy.cut();
    proxy.heal().await.unwrap();
    Record::detached(async {
        let update = "update users set name = 'eve' where id = 1";
        eventually("a write on the new primary", async || {
            sqlx::query(update).execute(db.writer()).await.is_ok()
                && read(&mut connect(&standby).await, 1).await == "eve"
        })
        .await;
        // Observes the position of the write.
        sqlx::query(NAME).bind(1).execute(db.reader()).await.unwrap();
        let refused = declare(&db, &mut old, 1).await;
        assert!(matches!(refused, Err(DeclareError::Behind)), "{refused:?}");
        declare(&db, &mut connect(&standby).await, 1).await.unwrap().end();
    })
    .await;
}

#[tokio::test]
async fn a_declared_read_that_does_not_end_is_not_stored() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let other = Arc::new(Mutex::new(connect(&server).await));
    let handler = async |State((db, other)): State<(Database, Other)>| {
        drop(declare(&db, &mut *other.lock().await, 1).await.unwrap());
        "nobody"
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state((db, other));
    let status = fetch(&app, "/").await.1;
    assert!(status.contains("read-failed"), "{status}");
}

#[tokio::test]
async fn a_response_that_is_complete_before_its_declared_read_ends_is_not_stored() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();

    let (other, open) = (Arc::new(Mutex::new(connect(&server).await)), Open::default());
    let handler = async |State((db, other, open)): State<(Database, Other, Open)>| {
        let mut conn = other.lock().await;
        *open.lock().await = Some(declare(&db, &mut conn, 1).await.unwrap());
        read(&mut conn, 1).await
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state((db, other, open));
    let status = fetch(&app, "/").await.1;
    assert!(status.contains("read-failed"), "{status}");
}

#[tokio::test]
async fn a_read_that_could_not_be_declared_is_not_stored() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let mut other = connect(&server).await;
    other.execute("set row_security to off").await.unwrap();
    let handler = async |State((db, other)): State<(Database, Other)>| {
        let mut conn = other.lock().await;
        assert!(declare(&db, &mut conn, 1).await.is_err());
        let query = sqlx::query_scalar::<_, String>(NAME).bind(2);
        read(&mut conn, 1).await + &query.fetch_one(db.reader()).await.unwrap()
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state((db, Arc::new(Mutex::new(other))));
    let status = fetch(&app, "/").await.1;
    assert!(status.contains("unnoted-reads"), "{status}");
}

#[tokio::test]
async fn a_session_from_before_its_role_was_given_another_search_path_is_refused() {
    let server = primary(&[]).await;
    server.psql("create schema shop; create table shop.users (id int, name text)").await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let (mut old, policy) = (connect(&server).await, ValuePolicy::ttl(TTL).build().unwrap());
    let declared = async |conn: &mut PgConnection| {
        let key = tidegate::Key::new("declared").part(fastrand::u64(..).to_string()).finish();
        let load = async || declare(&db, conn, 1).await.map(DeclaredRead::end);
        cache.get_or_load(&key, &policy, load).await
    };
    declared(&mut old).await.unwrap();
    server.psql("alter role postgres set search_path to shop").await.unwrap();
    eventually("the node knows of the change", async || {
        matches!(declared(&mut old).await, Err(DeclareError::OtherSession))
    })
    .await;
    declared(&mut connect(&server).await).await.unwrap();
}

#[tokio::test]
async fn a_declared_read_of_an_untracked_table_is_not_stored() {
    let server = primary(&[]).await;
    server.psql("create table items (id int); insert into items values (1)").await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let other = Arc::new(Mutex::new(connect(&server).await));
    let handler = async |State((db, other)): State<(Database, Other)>| {
        let position = position(&mut *other.lock().await).await;
        let statement = sqlx::query("select id from items");
        db.declare_read(&position, statement).await.unwrap().end();
        "1"
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state((db, other));
    let status = fetch(&app, "/").await.1;
    assert!(status.contains("untracked-table"), "{status}");
}

#[tokio::test]
async fn a_connection_with_other_session_settings_is_refused() {
    let server = primary(&[]).await;
    server
        .psql(
            "create schema shop; create table shop.users (id int, name text);
             create role app login superuser",
        )
        .await
        .unwrap();
    let db = options(&server).connect().await.unwrap();
    for change in [
        "set search_path to shop",
        "create temporary table users (id int, name text)",
        "set role app",
        "set row_security to off",
        "set standard_conforming_strings to off",
    ] {
        let mut conn = connect(&server).await;
        declare(&db, &mut conn, 1).await.unwrap().end();
        conn.execute(change).await.unwrap();
        let refused = declare(&db, &mut conn, 1).await;
        assert!(matches!(refused, Err(DeclareError::OtherSession)), "{change}: {refused:?}");
    }
    let url = server.create_database("other").await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    let refused = declare(&db, &mut conn, 1).await;
    assert!(matches!(refused, Err(DeclareError::OtherDatabase)), "{refused:?}");
}

#[tokio::test]
async fn a_transaction_with_its_own_snapshot_or_writes_is_refused() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let mut conn = connect(&server).await;
    conn.execute("begin isolation level repeatable read").await.unwrap();
    let refused = declare(&db, &mut conn, 1).await;
    assert!(matches!(refused, Err(DeclareError::Isolation)), "{refused:?}");
    conn.execute("rollback; begin").await.unwrap();
    declare(&db, &mut conn, 1).await.unwrap().end();
    conn.execute("update users set name = 'eve'").await.unwrap();
    let refused = declare(&db, &mut conn, 1).await;
    assert!(matches!(refused, Err(DeclareError::Wrote)), "{refused:?}");
    conn.execute("rollback").await.unwrap();
    let at = position(&mut conn).await;
    let refused = db.declare_read(&at, sqlx::query("update users set name = 'eve'")).await;
    assert!(matches!(refused, Err(DeclareError::NotARead)), "{refused:?}");
    for (statement, given) in [
        (sqlx::query(NAME), 0),
        (sqlx::query("select $1::int, '$2', $$ $3 $$ from users where id = $2").bind(1), 1),
        (sqlx::query("select 1 from users").bind(1), 1),
    ] {
        let refused = db.declare_read(&at, statement).await;
        let is_refused =
            matches!(refused, Err(DeclareError::Arguments { given: it, .. }) if it == given);
        assert!(is_refused, "{refused:?}");
    }
    let refused = db.declare_read("0/3000148", sqlx::query(NAME).bind(1)).await;
    assert!(matches!(refused, Err(DeclareError::Position(_))), "{refused:?}");
}

#[tokio::test]
async fn a_declared_read_outside_any_scope_counts_until_it_ends() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let (cache, app) = service(&db, connect(&server).await).await;
    let mut conn = connect(&server).await;
    let declared = declare(&db, &mut conn, 2).await.unwrap();
    let ended = async {
        let policy = ValuePolicy::ttl(TTL).build().unwrap();
        let key = tidegate::Key::new("beside").finish();
        let load = async || {
            declared.end();
            let query = sqlx::query_scalar::<_, String>(NAME).bind(1);
            query.fetch_one(db.reader()).await
        };
        cache.get_or_load(&key, &policy, load).await.unwrap()
    };
    assert_eq!(ended.await, "ada");
    assert_eq!(cache.counters().event(tidegate::Event::UnscopedRead), 1);
    let status = fetch(&app, "/users/1").await.1;
    assert!(status.contains("stored"), "{status}");
}

#[tokio::test]
async fn the_position_is_found_whatever_the_search_path_lists_first() {
    let server: Postgres = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    server
        .psql("create schema trap; create function trap.concat_ws(text, variadic text[]) returns text language sql as $$ select 'trapped' $$")
        .await
        .unwrap();
    let mut conn = connect(&server).await;
    conn.execute("set search_path to trap, pg_catalog, public").await.unwrap();
    let refused = declare(&db, &mut conn, 1).await;
    assert!(matches!(refused, Err(DeclareError::OtherSession)), "{refused:?}");
}
