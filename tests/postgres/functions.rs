//! Functions that write, called through the reader, whose text shows no write.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::routing::{get, post};
use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Key, Listener, Memory, Outcome, Policy, Record,
    Tier, Triggers, ValuePolicy,
};
use tidegate_testing::Postgres;

use super::common::{self, eventually, fetch, send};
use super::world::{TTL, connect, options, primary, proxy};

const ORDERS: &str = "create table orders (id serial, item text);
    create function current_stock(int) returns int stable language sql as 'select 7';
    create function place_order(item text) returns int language sql
    as 'insert into orders (item) values (item) returning id'";

const PLACE_ORDER: &str = "select place_order('tea') as id";

async fn shop() -> Postgres {
    let primary = primary(&[]).await;
    primary.psql(ORDERS).await.unwrap();
    primary
}

async fn orders(primary: &Postgres) -> String {
    primary.psql("select count(*) from orders").await.unwrap()
}

/// The order is in the log when the connection breaks, and commits. More than once, since it depends on the moment
/// whether the proxy lets the next connection through.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_writes_is_not_called_again_when_its_connection_breaks() {
    let primary = shop().await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let hanging = async |statement: &str| {
        let of = format!(
            "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query ~ '{statement}'"
        );
        primary.psql(&of).await.unwrap()
    };
    let waiting = async || hanging("place_order").await;
    for round in 1..=5 {
        let nobody =
            "alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()";
        primary.psql(nobody).await.unwrap();
        // The server knows the setting a moment later. Until then, commits wait for nobody.
        let hangs = async || {
            let mut probe = connect(&primary).await;
            let written = "select pg_logical_emit_message(true, '', '')";
            tokio::spawn(async move { probe.execute(written).await.map(drop) });
            tokio::time::sleep(Duration::from_millis(20)).await;
            hanging("emit_message").await != "0"
        };
        eventually("commits hang", hangs).await;
        eventually("a connection is up", async || reads(&db).await).await;
        let db = db.clone();
        let call =
            tokio::spawn(async move { sqlx::query(PLACE_ORDER).fetch_one(db.reader()).await });
        eventually("the commit hangs", async || waiting().await == "1").await;
        line.cut();
        line.heal().await.unwrap();
        let is_over = async || call.is_finished() || waiting().await == "2";
        eventually("it fails, or is sent again", is_over).await;
        let reset = "alter system reset synchronous_standby_names; select pg_reload_conf()";
        primary.psql(reset).await.unwrap();
        let outcome = call.await.unwrap();
        eventually("all have committed", async || waiting().await == "0").await;
        assert_eq!(orders(&primary).await, round.to_string());
        assert!(matches!(outcome, Err(sqlx::Error::Io(_))), "what broke it: {outcome:?}");
    }
}

async fn reads(db: &Database) -> bool {
    sqlx::query("select 1").execute(db.reader()).await.is_ok()
}

async fn read(db: &Database, sql: &'static str) -> i32 {
    sqlx::query(sql).fetch_one(db.reader()).await.unwrap().get(0)
}

/// The connection died in the pool. Nothing shows whether the statement ran, and it may as well run again.
#[tokio::test(flavor = "multi_thread")]
async fn reads_are_retried_when_their_connection_breaks_whatever_they_call() {
    let primary = shop().await;
    let db = options(&primary).connect().await.unwrap();
    for sql in [
        "select id from users where id = 1",
        "select id from users where id = 1 order by random()",
        "select (select count(*)::int from orders) + 1",
    ] {
        assert_eq!(read(&db, sql).await, 1);
        let kill = "select count(pg_terminate_backend(pid, 10000)) from pg_stat_activity
            where application_name = 'tidegate'";
        assert_ne!(primary.psql(kill).await.unwrap(), "0");
        assert_eq!(read(&db, sql).await, 1);
    }
}

/// The replica is down during the call, and serves again without the order.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_writes_on_the_primary_counts_as_a_write() {
    let primary = shop().await;
    let replica = primary.standby().await.unwrap();
    let options = options(&primary).replica(replica.url()).max_lag(Duration::from_mins(10));
    let db = options.connect().await.unwrap();
    let is_up = || db.replicas()[0].reached.is_some();
    let count = "select count(*)::int from orders";
    for in_scope in [true, false] {
        replica.pause_replay().await.unwrap();
        let work = async {
            replica.pause().unwrap();
            eventually("the replica is down", async || !is_up()).await;
            let before = read(&db, count).await;
            read(&db, PLACE_ORDER).await;
            replica.resume().unwrap();
            eventually("the replica is up", async || is_up()).await;
            assert_eq!(read(&db, count).await, before + 1, "in a scope: {in_scope}");
        };
        match in_scope {
            true => Record::detached(work).await,
            false => work.await,
        }
        replica.resume_replay().await.unwrap();
    }
}

/// Nothing refuses the call or shows that it writes, and the node does not learn of the order.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_after_a_function_that_may_write_sees_its_write() {
    let primary = shop().await;
    let mut conn = PgConnection::connect(&primary.url()).await.unwrap();
    Triggers::new().table("orders").install(&mut conn).await.unwrap();
    let (line, listen) = proxy(&primary).await;
    let db = options(&primary).listen_url(listen).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    // What a lookup waits for in vain while the node receives nothing.
    let policy = ValuePolicy::ttl(TTL).early_refresh(0.0).max_staleness(Duration::from_secs(2));
    let cached = db.cached(&cache, policy.build().unwrap());
    let count = async || {
        let query = sqlx::query("select count(*) from orders");
        cached.fetch_one::<(i64,)>(query).await.unwrap().0
    };
    // Of each statement but the first, something else is found first that keeps its result from being cached.
    for place_order in [
        PLACE_ORDER,
        "select place_order(current_user::text)",
        "select place_order(current_stock(1)::text)",
        "select place_order(clock_timestamp()::text)",
        "select place_order('pg_class'::regclass::text)",
    ] {
        // The second time, the statement is known.
        let scopes =
            if place_order == PLACE_ORDER { vec![true, true, false] } else { vec![true, true] };
        for in_scope in scopes {
            let work = async {
                eventually("the node is up to date", async || is_hit(&cache, &count).await).await;
                line.freeze();
                let before = count().await;
                read(&db, place_order).await;
                assert_eq!(count().await, before + 1, "{place_order}, in a scope: {in_scope}");
            };
            match in_scope {
                true => Record::detached(work).await,
                false => work.await,
            }
            line.heal().await.unwrap();
        }
    }
}

/// Whether a count is served from the cache.
async fn is_hit(cache: &Cache, count: &impl AsyncFn() -> i64) -> bool {
    let hits = || cache.counters().outcome(Outcome::Hit(Tier::Memory));
    let before = hits();
    count().await;
    hits() > before
}

/// A replica is there to refuse the call, but the reads of a POST go to the primary.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_post_a_lookup_after_a_loader_that_may_write_sees_its_write() {
    let primary = shop().await;
    let replica = primary.standby().await.unwrap();
    let mut conn = PgConnection::connect(&primary.url()).await.unwrap();
    Triggers::new().table("orders").install(&mut conn).await.unwrap();
    let (line, listen) = proxy(&primary).await;
    let db = options(&primary).replica(replica.url()).listen_url(listen).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let order = async |State((db, cache)): State<(Database, Cache)>| {
        let policy = || {
            let policy = ValuePolicy::ttl(TTL).early_refresh(0.0);
            policy.max_staleness(Duration::from_secs(2)).build().unwrap()
        };
        let cached = db.cached(&cache, policy());
        let count = async || {
            let query = sqlx::query("select count(*) from orders");
            cached.fetch_one::<(i64,)>(query).await.unwrap().0
        };
        let before = count().await;
        let load = async || Ok::<_, sqlx::Error>(read(&db, PLACE_ORDER).await);
        let key = Key::new("an order").finish();
        cache.get_or_load(&key, &policy(), load).await.unwrap();
        (count().await - before).to_string()
    };
    let layer = CacheLayer::new(cache.clone());
    let app = Router::new().route("/", post(order)).layer(layer).with_state((db, cache));
    line.freeze();
    for _ in 0..2 {
        let request = Request::post("/").body(Body::empty()).unwrap();
        assert_eq!(common::read(send(&app, request).await).await.0, "1");
    }
}

/// A node behind a proxy to the primary, with a replica; each path has a policy.
async fn behind_a_policy(url: String, replica: &Postgres) -> (Database, Router) {
    let db = DatabaseOptions::new(url).replica(replica.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = Policy::ttl(TTL);
    let layer = CacheLayer::new(cache).route("/port", policy.clone()).route("/order", policy);
    let port = async |State(db): State<Database>| {
        read(&db, "select inet_server_port() from users where random() >= 0 limit 1")
            .await
            .to_string()
    };
    let order = async |State(db): State<Database>| {
        let before = read(&db, "select count(*)::int from orders").await;
        read(&db, PLACE_ORDER).await;
        (read(&db, "select count(*)::int from orders").await - before).to_string()
    };
    let app = Router::new().route("/port", get(port)).route("/order", get(order));
    let app = app.layer(layer).with_state(db.clone());
    eventually("the replica is up", async || db.replicas()[0].reached.is_some()).await;
    (db, app)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volatile_read_under_a_policy_is_served_by_a_replica() {
    let primary = shop().await;
    let replica = primary.standby().await.unwrap();
    let (line, url) = proxy(&primary).await;
    let (_db, app) = behind_a_policy(url, &replica).await;
    let port = replica.port().to_string();
    eventually("the replica serves it", async || fetch(&app, "/port").await.0 == port).await;
    line.cut();
    for _ in 0..3 {
        assert_eq!(fetch(&app, "/port").await.0, port, "while the primary is down");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_called_under_a_policy_writes_once_and_its_write_is_seen() {
    let primary = shop().await;
    let replica = primary.standby().await.unwrap();
    let (_db, app) = behind_a_policy(primary.url(), &replica).await;
    for round in 1..=3 {
        assert_eq!(fetch(&app, "/order").await.0, "1");
        assert_eq!(orders(&primary).await, round.to_string());
    }
}
