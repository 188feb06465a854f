//! How connections are opened: options, pools, hooks, and credentials that change.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tidegate::{
    Cache, Database, DatabaseError, DatabaseOptions, Listener, Memory, ServerOptions, Triggers,
    ValuePolicy,
};
use tidegate_testing::Postgres;
use tokio::sync::Mutex;

use super::common::eventually;
use super::world::{TTL, connect, options, primary};

fn options_of(server: &Postgres) -> PgConnectOptions {
    server.url().parse().unwrap()
}

async fn name(db: &Database) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("select name from users where id = 1").fetch_one(db.reader()).await
}

#[tokio::test]
async fn a_server_can_be_given_by_the_options_of_sqlx() {
    let server = primary(&[]).await;
    let standby = server.standby().await.unwrap();
    let replica = ServerOptions::from(options_of(&standby)).connections(3);
    let db = DatabaseOptions::new(options_of(&server))
        .replica(replica)
        .connections(2)
        .connect()
        .await
        .unwrap();
    assert_eq!(name(&db).await.unwrap(), "ada");
    assert_eq!(db.primary().options().get_max_connections(), 2);
    assert_eq!(db.replicas()[0].max_connections, 3);
}

#[tokio::test]
async fn a_statement_ends_after_its_time_limit() {
    let server = primary(&[]).await;
    let db = options(&server).statement_timeout(Duration::from_millis(50)).connect().await.unwrap();
    let slow = sqlx::query("select pg_sleep(60)").execute(db.reader()).await.unwrap_err();
    assert_eq!(slow.as_database_error().unwrap().code().unwrap(), "57014");
}

/// Requires a password of the role `app`.
async fn with_password(server: &Postgres) {
    server
        .psql(
            "create role app login password 'first' in role pg_read_all_data;
             grant pg_read_all_stats to app",
        )
        .await
        .unwrap();
    server.add_access_rules("host all app all scram-sha-256").await.unwrap();
}

fn app(server: &Postgres) -> PgConnectOptions {
    options_of(server).username("app")
}

#[tokio::test]
async fn reads_continue_while_the_password_is_rotated() {
    const ROTATIONS: usize = 20;
    let server = primary(&[]).await;
    with_password(&server).await;
    let vault = Arc::new(Mutex::new("first".to_owned()));
    let issued = Arc::new(AtomicUsize::new(0));
    let db = DatabaseOptions::new(app(&server))
        // Each read opens a connection.
        .max_lifetime(Duration::from_millis(1))
        .credentials({
            let (vault, issued) = (vault.clone(), issued.clone());
            move |options| {
                let (vault, issued) = (vault.clone(), issued.clone());
                async move {
                    issued.fetch_add(1, Ordering::SeqCst);
                    Ok::<_, io::Error>(options.password(&vault.lock().await))
                }
            }
        })
        .connect()
        .await
        .unwrap();
    for number in 0..ROTATIONS {
        let mut secret = vault.lock().await;
        *secret = format!("password {number}");
        server.psql(&format!("alter role app password '{secret}'")).await.unwrap();
        drop(secret);
        for read in join_all((0..5).map(|_| name(&db))).await {
            assert_eq!(read.unwrap(), "ada");
        }
    }
    // Concurrent rejections share the new password.
    let issued = issued.load(Ordering::SeqCst);
    assert!((ROTATIONS..3 * ROTATIONS).contains(&issued), "{issued}");
}

#[tokio::test]
async fn the_listener_and_transactions_get_new_credentials() {
    let server = primary(&[]).await;
    with_password(&server).await;
    let mut owner = connect(&server).await;
    Triggers::grant(&mut owner, "app").await.unwrap();
    let vault = Arc::new(Mutex::new("first".to_owned()));
    let secret = vault.clone();
    let db = DatabaseOptions::new(app(&server))
        .credentials(move |options| {
            let secret = secret.clone();
            async move { Ok::<_, io::Error>(options.password(&secret.lock().await)) }
        })
        .connect()
        .await
        .unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    let _listener = Listener::spawn(&db, &cache).await.unwrap();
    *vault.lock().await = "second".to_owned();
    server.psql("alter role app password 'second'").await.unwrap();
    // Everyone has to connect again.
    server
        .psql(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where usename = 'app' and pid <> pg_backend_pid()",
        )
        .await
        .unwrap();
    let policy = ValuePolicy::ttl(TTL).build().unwrap();
    tidegate_testing::eventually("the cache is followed again", async || {
        let query = "select name from users where id = 1";
        let cached = db.cached(&cache, policy.clone());
        cached.fetch_one::<(String,)>(sqlx::query(query)).await.unwrap();
        cache.counters().hit_ratio() > 0.0
    })
    .await
    .unwrap();
    let mut transaction = db.begin_read_only().await.unwrap();
    let name: String = sqlx::query_scalar("select name from users where id = 1")
        .fetch_one(&mut **transaction.as_sqlx())
        .await
        .unwrap();
    assert_eq!(name, "ada");
}

#[tokio::test]
async fn unavailable_credentials_are_named_as_the_cause() {
    let server = primary(&[]).await;
    let issue = |_| async { Err::<PgConnectOptions, _>(io::Error::other("the vault is sealed")) };
    let failed = options(&server).credentials(issue).connect().await.unwrap_err();
    assert!(failed.to_string().contains("the vault is sealed"), "{failed}");
}

#[tokio::test]
async fn an_error_names_its_cause_once() {
    let server = Postgres::start().await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let without_schema = Listener::spawn(&db, &Cache::new(Memory::new(1 << 20))).await.unwrap_err();
    let unreachable = DatabaseOptions::new("postgres://app@127.0.0.1:1/shop").connect().await;
    for error in [without_schema, unreachable.unwrap_err()] {
        let text = error.to_string();
        let first: &dyn std::error::Error = &error;
        for cause in std::iter::successors(first.source(), |cause| cause.source()) {
            assert!(!text.contains(&cause.to_string()), "{text}");
        }
        assert!(text.contains("not exist") || text.contains("refused"), "{text}");
    }
}

/// Options under which `items` is the table of a schema.
fn in_schema(server: &Postgres, schema: &'static str) -> DatabaseOptions {
    options(server).connections(1).after_connect(move |conn| {
        Box::pin(async move {
            let set = format!("set search_path to {schema}");
            sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(conn).await?;
            Ok(())
        })
    })
}

async fn with_schemas() -> Postgres {
    let server = primary(&[]).await;
    server
        .psql(
            "create schema one; create table one.items (v int); insert into one.items values (1);
             create schema two; create table two.items (v int); insert into two.items values (2)",
        )
        .await
        .unwrap();
    let mut owner = connect(&server).await;
    let triggers = Triggers::new().table("one.items").table("two.items");
    triggers.install(&mut owner).await.unwrap();
    server
}

async fn item(db: &Database) -> i32 {
    sqlx::query_scalar("select v from items").fetch_one(db.reader()).await.unwrap()
}

#[tokio::test]
async fn sessions_are_prepared_again_after_a_statement_has_changed_them() {
    let server = with_schemas().await;
    let db = in_schema(&server, "one").connect().await.unwrap();
    assert_eq!(item(&db).await, 1);
    sqlx::query("set search_path to two").execute(db.writer()).await.unwrap();
    assert_eq!(item(&db).await, 1);
    sqlx::query("reset search_path").execute(db.writer()).await.unwrap();
    assert_eq!(item(&db).await, 1);
    let pooled = sqlx::query("set search_path to two").execute(db.primary()).await;
    pooled.unwrap();
    assert_eq!(item(&db).await, 1);
}

#[tokio::test]
async fn cached_queries_of_differently_prepared_sessions_share_nothing() {
    let server = with_schemas().await;
    let (one, two) = (in_schema(&server, "one"), in_schema(&server, "two"));
    let (one, two) = (one.connect().await.unwrap(), two.connect().await.unwrap());
    let cache = Cache::new(Memory::new(1 << 20));
    let _listener = Listener::spawn(&one, &cache).await.unwrap();
    let policy = ValuePolicy::ttl(TTL).build().unwrap();
    for (db, v) in [(&one, 1), (&two, 2), (&one, 1), (&two, 2)] {
        let cached = db.cached(&cache, policy.clone());
        let found: (i32,) = cached.fetch_one(sqlx::query("select v from items")).await.unwrap();
        assert_eq!(found, (v,));
    }
}

#[tokio::test]
async fn cached_queries_of_users_that_only_the_credentials_name_share_nothing() {
    let server = primary(&[]).await;
    server
        .psql(
            "create role one login superuser; create schema authorization one;
             create table one.items (v int); insert into one.items values (1);
             create role two login superuser; create schema authorization two;
             create table two.items (v int); insert into two.items values (2)",
        )
        .await
        .unwrap();
    let triggers = Triggers::new().table("one.items").table("two.items");
    triggers.install(&mut connect(&server).await).await.unwrap();
    let as_user = async |user: &'static str| {
        let issue = move |options: PgConnectOptions| async move {
            Ok::<_, io::Error>(options.username(user))
        };
        options(&server).credentials(issue).connect().await.unwrap()
    };
    let (one, two) = (as_user("one").await, as_user("two").await);
    let cache = Cache::new(Memory::new(1 << 20));
    let _listener = Listener::spawn(&one, &cache).await.unwrap();
    let policy = ValuePolicy::ttl(TTL).build().unwrap();
    for (db, v) in [(&one, 1), (&two, 2)] {
        let cached = db.cached(&cache, policy.clone());
        let found: (i32,) = cached.fetch_one(sqlx::query("select v from items")).await.unwrap();
        assert_eq!(found, (v,));
    }
}

#[tokio::test]
async fn unavailable_credentials_are_not_requested_by_each_read() {
    let server = primary(&[]).await;
    with_password(&server).await;
    let requests = Arc::new(AtomicUsize::new(0));
    let count = requests.clone();
    let db = DatabaseOptions::new(app(&server))
        .max_lifetime(Duration::from_millis(1))
        .credentials(move |options| {
            let first = count.fetch_add(1, Ordering::SeqCst) == 0;
            async move {
                match first {
                    true => Ok(options.password("first")),
                    // It hangs.
                    false => std::future::pending::<io::Result<_>>().await,
                }
            }
        })
        .connect()
        .await
        .unwrap();
    assert_eq!(name(&db).await.unwrap(), "ada");
    server.psql("alter role app password 'second'").await.unwrap();
    // Each would be rejected, and all of them wait for one that hangs.
    let reads = join_all((0..10).map(|_| name(&db))).await;
    assert!(reads.iter().all(Result::is_err), "{reads:?}");
    // The tasks that keep the credentials of the pool and the listener current, and one for the rejected connections.
    assert!(requests.load(Ordering::SeqCst) <= 5, "{requests:?}");
}

#[tokio::test]
async fn a_database_takes_its_servers_from_existing_pools() {
    let server = primary(&[]).await;
    let standby = server.standby().await.unwrap();
    let pool = async |server: &Postgres, most| {
        let pool = PgPoolOptions::new().max_connections(most).min_connections(1);
        pool.connect_with(options_of(server)).await.unwrap()
    };
    let (first, second) = (pool(&server, 3).await, pool(&standby, 4).await);
    let db = Database::from_pools(&first, [&second]).await.unwrap();
    assert_eq!(name(&db).await.unwrap(), "ada");
    assert_eq!(db.primary().options().get_max_connections(), 3);
    assert_eq!(db.primary().options().get_min_connections(), 1);
    assert_eq!(db.replicas()[0].max_connections, 4);
    let smaller = DatabaseOptions::from_pools(&first, []).connections(2).connect().await.unwrap();
    assert_eq!(smaller.primary().options().get_max_connections(), 2);
}

#[tokio::test]
async fn the_least_number_of_connections_is_opened_at_the_start() {
    let server = primary(&[]).await;
    let db = options(&server).min_connections(3).connect().await.unwrap();
    assert_eq!(db.primary().size(), 3);
}

#[tokio::test]
async fn a_pool_whose_hook_changes_sessions_is_refused_until_the_hook_is_given() {
    let server = with_schemas().await;
    let pool = PgPoolOptions::new().after_connect(|conn, _| {
        Box::pin(async move {
            sqlx::raw_sql("set search_path to one").execute(conn).await?;
            Ok(())
        })
    });
    let pool = pool.connect_with(options_of(&server)).await.unwrap();
    let refused = Database::from_pools(&pool, []).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::Session(..)), "{refused}");
    let text = refused.to_string();
    assert!(text.contains("search_path") && text.contains("after_connect"), "{text}");
    let options = DatabaseOptions::from_pools(&pool, []).after_connect(|conn| {
        Box::pin(async move {
            sqlx::raw_sql("set search_path to one").execute(conn).await?;
            Ok(())
        })
    });
    assert_eq!(item(&options.connect().await.unwrap()).await, 1);
}

#[tokio::test]
async fn a_closed_database_leaves_no_connection_behind() {
    let server = primary(&[]).await;
    let url = server.create_database("shop").await.unwrap();
    server.psql_at(&url, super::world::SETUP).await.unwrap();
    let mut owner = sqlx::PgConnection::connect(&url).await.unwrap();
    Triggers::new().table("users").install(&mut owner).await.unwrap();
    owner.close().await.unwrap();
    let pool = PgPoolOptions::new().connect(&url).await.unwrap();
    let db = Database::from_pools(&pool, []).await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    let _listener = Listener::spawn(&db, &cache).await.unwrap();
    assert_eq!(name(&db).await.unwrap(), "ada");
    pool.close().await;
    let discovery = db
        .discover_replicas(Duration::from_millis(10), || async { Ok::<_, io::Error>(Vec::new()) });
    db.close().await;
    assert!(db.add_replica(url.as_str()).await.is_err());
    drop(discovery);
    // Without `force`, as `#[sqlx::test]` does.
    server.psql("drop database shop").await.unwrap();
    assert!(name(&db).await.is_err());
}

/// What another service leaves: the node can do with fewer connections than it would like to look at.
#[tokio::test]
async fn a_node_starts_with_two_free_connections_or_one_behind_a_declared_proxy() {
    let server = primary(&[]).await;
    server.psql("create role app login in role pg_read_all_data").await.unwrap();
    let options = || DatabaseOptions::new(app(&server)).connections(1);
    for (limit, options) in [(2, options()), (1, options().pooled())] {
        server.psql(&format!("alter role app connection limit {limit}")).await.unwrap();
        let db = options.connect().await.unwrap();
        // Its monitor holds one, and its pool opens another.
        server.psql("alter role app connection limit 10").await.unwrap();
        eventually("it is read", async || name(&db).await.is_ok_and(|name| name == "ada")).await;
        db.close().await;
        let open = "select count(*) from pg_stat_activity where usename = 'app'";
        eventually("closed", async || server.psql(open).await.unwrap() == "0").await;
    }
}
