//! Replicas that lag, die, hide behind one name, come and go.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use sqlx::Connection;
use tidegate::{
    Cache, CacheLayer, Cached, Database, Listener, Memory, Policy, Triggers, ValuePolicy,
};
use tidegate_testing::Postgres;
use tokio::time::Instant;

use super::common::{eventually, fetch};
use super::world::{Node, TTL, connect, options, primary, proxy};

/// Waits on the server that it is called on, as long as somebody holds a lock there.
const WAIT: &str =
    "create function wait() returns void language sql as 'select pg_advisory_xact_lock(1)'";

/// A primary with two replicas that are known to be up, and a node.
async fn three(settings: &[(&str, &str)]) -> (Postgres, [Postgres; 2], Node) {
    let primary = primary(settings).await;
    let replicas = [primary.standby().await.unwrap(), primary.standby().await.unwrap()];
    let [one, two] = &replicas;
    let db = options(&primary).replica(one.url()).replica(two.url()).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    all_up(&node).await;
    (primary, replicas, node)
}

async fn all_up(node: &Node) {
    all_known(&node.db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_never_served_by_a_replica_that_lacks_its_write() {
    let (_primary, [late, good], node) = three(&[]).await;
    late.pause_replay().await.unwrap();
    let token = node.put(1, "eve").await;
    let mut ports = BTreeSet::new();
    let mut fetch = async || {
        let (body, _) = node.get_with("/plain/1", &token).await;
        let (name, port) = body.split_once(" from ").unwrap();
        assert_eq!(name, "eve");
        ports.insert(port.parse::<u16>().unwrap());
        assert!(!ports.contains(&late.port()));
        ports.contains(&good.port())
    };
    eventually("the one that has caught up is used", &mut fetch).await;
    for _ in 0..1000 {
        fetch().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_behind_is_skipped_and_cache_status_says_so() {
    let (primary, [one, two], node) = three(&[]).await;
    one.pause_replay().await.unwrap();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    eventually("the other replica serves it", async || {
        primary.psql("update users set name = name where id = 1").await.unwrap();
        node.get("/users/1").await.1.contains("from replica-2")
    })
    .await;
    two.pause_replay().await.unwrap();
    primary.psql("update users set name = 'eva' where id = 1").await.unwrap();
    let (mut body, mut status) = node.get("/users/1").await;
    eventually("the primary serves it", async || {
        if body != "eva" {
            (body, status) = node.get("/users/1").await;
        }
        body == "eva"
    })
    .await;
    assert!(status.contains("from primary, replicas-behind"), "{status}");
}

/// Nothing else is known of what a read must have that is not cached.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_past_max_lag_serves_no_reads() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let options = options(&primary).replica(replica.url()).max_lag(Duration::from_millis(500));
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    let served_by = async |server: &Postgres| {
        node.get("/plain/1").await.0.ends_with(&server.port().to_string())
    };
    eventually("the replica serves", async || served_by(&replica).await).await;
    replica.pause_replay().await.unwrap();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("the primary serves", async || served_by(&primary).await).await;
    assert!(node.get("/plain/1").await.0.starts_with("eve"));
    replica.resume_replay().await.unwrap();
    eventually("the replica serves again", async || served_by(&replica).await).await;
    // Nobody writes, and the last commit grows old: that makes no replica late.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        assert!(served_by(&replica).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_replicas_die() {
    let (_primary, [mut one, mut two], node) = three(&[]).await;
    let all_succeed = async |times: usize| {
        for _ in 0..times {
            assert!(node.get("/plain/1").await.0.starts_with("ada from "));
        }
    };
    all_succeed(50).await;
    one.kill().await.unwrap();
    all_succeed(50).await;
    two.kill().await.unwrap();
    all_succeed(50).await;
    let (_, status) = node.get("/users").await;
    assert!(status.contains("from primary, replicas-down"), "{status}");
    one.restart().await.unwrap();
    eventually("the replica serves again", async || {
        node.get("/plain/1").await.0.ends_with(&one.port().to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_replica_is_skipped_until_it_responds_again() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let patient = options(&primary).replica(replica.url()).wait(Duration::from_secs(2));
    let node = Node::start(&patient.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    all_up(&node).await;
    replica.pause().unwrap();
    eventually("it is known to be down", async || node.db.replicas()[0].reached.is_none()).await;
    for _ in 0..20 {
        assert!(node.get("/plain/1").await.0.ends_with(&primary.port().to_string()));
    }
    replica.resume().unwrap();
    eventually("it serves again", async || {
        node.get("/plain/1").await.0.ends_with(&replica.port().to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_continue_while_the_primary_is_down() {
    let (mut primary, _replicas, node) = three(&[]).await;
    node.warm(&["/users/1"]).await;
    primary.kill().await.unwrap();
    for _ in 0..20 {
        assert!(node.get("/plain/2").await.0.starts_with("bob from "));
        assert_eq!(node.get("/users/2").await.0, "bob");
        assert_eq!(node.get("/users/1").await.0, "ada");
    }
    primary.restart().await.unwrap();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    node.warm(&["/users/1"]).await;
}

/// A read of users after one of a table that nothing tracks, which is why the response is not stored.
async fn both(State(db): State<Database>) -> String {
    let plain = "select count(*)::text from plain";
    let plain: String = sqlx::query_scalar(plain).fetch_one(db.reader()).await.unwrap();
    let name = "select lower(name) from users where id = 1";
    let name: String = sqlx::query_scalar(name).fetch_one(db.reader()).await.unwrap();
    format!("{name} {plain}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_read_while_the_primary_is_down_reports_replica_behind() {
    const LATE: &str = "select upper(name) from users where id = 1";
    let (mut primary, [one, two], node) = three(&[]).await;
    primary.psql("create table plain (n int)").await.unwrap();
    for replica in [&one, &two] {
        let there = async || replica.psql("select from plain").await.is_ok();
        eventually("the replica has the table", there).await;
        replica.pause_replay().await.unwrap();
    }
    let values = ValuePolicy::ttl(TTL).max_staleness(TTL).build().unwrap();
    let queries = node.db.cached(&node.cache, values);
    let value = async move |sql: &'static str| {
        let name: (String,) = queries.fetch_one(sqlx::query(sql)).await.unwrap();
        name.0
    };
    let late = value.clone();
    // What the statement reads is known before the primary is gone.
    let known = node.db.cached(&node.cache, ValuePolicy::ttl(TTL).build().unwrap());
    known.fetch_all::<(String,)>(sqlx::query(LATE)).await.unwrap();
    let app = Router::new()
        .route("/early", get(async move || value("select name from users where id = 1").await))
        .route("/late", get(async move || late(LATE).await))
        .route("/both", get(both))
        .layer(
            CacheLayer::new(node.cache.clone()).route("/both", Policy::ttl(TTL).max_staleness(TTL)),
        )
        .with_state(node.db.clone());
    // So are those of this one: from now on it shows the change only when the node has seen it.
    fetch(&app, "/early").await;
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("the change is seen", async || fetch(&app, "/early").await.0 == "eve").await;
    primary.kill().await.unwrap();

    let (body, status) = fetch(&app, "/late").await;
    assert_eq!((&*body, status.contains("replica-behind")), ("ADA", true), "{status}");
    let (body, status) = fetch(&app, "/both").await;
    assert_eq!((&*body, status.contains("untracked-table")), ("ada 0", true), "{status}");
    assert!(status.contains("replica-behind"), "{status}");
    let (body, status) = fetch(&app, "/early").await;
    assert_eq!((&*body, status.contains("replica-behind")), ("eve", false), "{status}");
}

/// What the replica lacks is on the primary, which hangs: once that is known, no read waits for a connection to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_known_to_be_down_is_tried_last() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let options = options(&primary).replica(replica.url()).wait(Duration::from_mins(10));
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    all_up(&node).await;
    replica.pause_replay().await.unwrap();
    primary.psql("update users set name = 'eve'").await.unwrap();
    node.sees("/users/1", "eve").await;
    node.warm(&["/users"]).await;
    primary.psql("update users set name = 'eva'").await.unwrap();
    node.sees("/users", "eva eva").await;
    primary.pause().unwrap();
    let read = async || tokio::time::timeout(Duration::from_secs(5), node.get("/users/2")).await;
    eventually("a read without the primary", async || {
        read().await.is_ok_and(|(body, status)| body == "bob" && status.contains("replica-behind"))
    })
    .await;
    primary.resume().unwrap();
    eventually("the primary again", async || node.get("/users/2").await.0 == "eva").await;
}

/// The port and the process of the server that a read reaches. In no node, which gives up plans as it starts.
async fn reached(db: &Database) -> (i32, i32) {
    let sql = "select inet_server_port(), pg_backend_pid()";
    sqlx::query_as(sql).fetch_one(db.reader()).await.unwrap()
}

async fn all_known(db: &Database) {
    let known = async || db.replicas().iter().all(|replica| replica.reached.is_some());
    eventually("all replicas are up", known).await;
}

/// What is busy is not down: its connections are kept, so that reads do not all go to the primary at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_whose_connections_are_all_in_use_is_not_marked_down() {
    let primary = primary(&[]).await;
    primary.psql(WAIT).await.unwrap();
    let replica = primary.standby().await.unwrap();
    // It is not queried again, so that no slow response marks it down.
    let options = options(&primary).replica(replica.url()).sample_every(TTL);
    let options = options.connections(1).wait(Duration::from_millis(200));
    let db = options.connect().await.unwrap();
    all_known(&db).await;
    let before = reached(&db).await;
    let mut lock = connect(&replica).await;
    sqlx::query("select pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let reading = tokio::spawn({
        let db = db.clone();
        async move { sqlx::query("select wait()").execute(db.reader()).await }
    });
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    let waits = async || replica.psql(waiting).await.unwrap() == "1";
    eventually("the connection to the replica is in use", waits).await;
    for _ in 0..2 {
        assert_eq!(reached(&db).await.0, i32::from(primary.port()));
        assert!(db.replicas()[0].reached.is_some(), "it is up");
    }
    lock.close().await.unwrap();
    reading.await.unwrap().unwrap();
    assert_eq!(reached(&db).await, before, "the connection of before");
}

/// A standby cancels queries that stand in the way of replay.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_cancelled_by_replay_is_run_on_the_primary() {
    let primary = primary(&[("max_standby_streaming_delay", "0")]).await;
    let replica = primary.standby().await.unwrap();
    // It is not queried again: a replica that is marked down stays so.
    let options = options(&primary).replica(replica.url()).sample_every(TTL);
    let db = options.connect().await.unwrap();
    all_known(&db).await;
    // Without end on the replica: what ends it is what is tested.
    let rows =
        format!("case when inet_server_port() = {} then 2000000000 else 1 end", replica.port());
    let slow = format!("select count(*) from users, (select generate_series(1, {rows})) n");
    let reading = tokio::spawn({
        let db = db.clone();
        async move {
            sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(slow)).fetch_one(db.reader()).await
        }
    });
    let running = "select count(*) from pg_stat_activity where query like '%generate_series%'
        and state = 'active' and pid <> pg_backend_pid()";
    eventually("it runs on the replica", async || replica.psql(running).await.unwrap() == "1")
        .await;
    primary.psql("begin; lock table users in access exclusive mode; commit").await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap(), 2, "it was read on the primary");
    assert!(db.replicas()[0].reached.is_some(), "the replica is as good as before");
    let conflicts = "select sum(confl_lock) from pg_stat_database_conflicts";
    // The server may signal more than once before the query has ended, and counts each time.
    eventually("it was cancelled", async || replica.psql(conflicts).await.unwrap() != "0").await;
}

/// Behind a reader endpoint the next connection may be anyone's.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_name_shared_by_several_servers_is_checked_on_each_read() {
    let primary = primary(&[]).await;
    let (one, two) = (primary.standby().await.unwrap(), primary.standby().await.unwrap());
    let (endpoint, url) = proxy(&one).await;
    let db = options(&primary).replica(url).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    all_up(&node).await;
    node.get("/plain/1").await;
    endpoint.retarget(two.addr());
    eventually("a second server is noticed", async || {
        let many = (0..8).map(|_| node.get("/plain/1"));
        futures_util::future::join_all(many).await;
        node.db.replicas()[0].several
    })
    .await;
    one.pause_replay().await.unwrap();
    for round in 0..50 {
        let name = format!("user {round}");
        let token = node.put(1, &name).await;
        let (body, _) = node.get_with("/plain/1", &token).await;
        assert!(body.starts_with(&format!("{name} from ")), "round {round}: {body}");
        node.sees("/users/1", &name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_can_be_added_and_removed_during_reads() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let node = Node::alone(&primary).await;
    let reads = tokio::spawn({
        let app = node.app.clone();
        async move {
            let mut replicas = 0;
            while replicas < 100 {
                let (body, _) = super::common::fetch(&app, "/plain/1").await;
                assert!(body.starts_with("ada from "), "{body}");
                replicas += usize::from(!body.ends_with(&primary.port().to_string()));
            }
            drop(primary);
        }
    });
    while !reads.is_finished() {
        let name = node.db.add_replica(&replica.url()).await.unwrap();
        assert_eq!(&*name, "replica-1");
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(node.db.remove_replica(&name) && !node.db.remove_replica(&name));
    }
    reads.await.unwrap();
}

/// It fails after it was taken out, which is nothing to the primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_read_on_a_removed_replica_closes_no_connection_to_the_primary() {
    let primary = primary(&[]).await;
    primary.psql(WAIT).await.unwrap();
    let mut replica = primary.standby().await.unwrap();
    let options = options(&primary).replica(replica.url()).connections(1);
    let db = options.connect().await.unwrap();
    all_known(&db).await;
    // A write would keep the read from the replica.
    let on_primary = async || {
        let mut transaction = db.begin_read_only().await.unwrap();
        let process = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        process.fetch_one(&mut *transaction).await.unwrap()
    };
    let before = on_primary().await;
    let mut lock = connect(&replica).await;
    sqlx::query("select pg_advisory_lock(1)").execute(&mut lock).await.unwrap();
    let reading = tokio::spawn({
        let db = db.clone();
        async move { sqlx::query("select wait()").execute(db.reader()).await }
    });
    let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
    let waits = async || replica.psql(waiting).await.unwrap() == "1";
    eventually("it runs on the replica", waits).await;
    assert!(db.remove_replica("replica-1"));
    replica.kill().await.unwrap();
    reading.await.unwrap().unwrap();
    assert_eq!(on_primary().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_added_concurrently_get_different_names() {
    let primary = primary(&[]).await;
    let (one, two) = (primary.standby().await.unwrap(), primary.standby().await.unwrap());
    let db = options(&primary).connect().await.unwrap();
    let (one, two) = (one.url(), two.url());
    let (one, two) = tokio::join!(db.add_replica(&one), db.add_replica(&two));
    let names = BTreeSet::from([one.unwrap(), two.unwrap()]);
    assert_eq!(names, BTreeSet::from(["replica-1".into(), "replica-2".into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn discovered_replicas_are_added_and_vanished_ones_removed() {
    let (primary, [one, two], node) = three(&[]).await;
    let found = Arc::new(Mutex::new(Ok(vec![two.url(), "postgres://nobody@127.0.0.1:1/x".into()])));
    let calls = Arc::new(AtomicUsize::new(0));
    let discovery = node.db.discover_replicas(Duration::from_millis(20), {
        let (found, calls) = (found.clone(), calls.clone());
        move || {
            calls.fetch_add(1, Ordering::SeqCst);
            let found: Result<Vec<String>, String> = found.lock().unwrap().clone();
            async move { found }
        }
    });
    let names = || -> Vec<String> {
        node.db.replicas().iter().map(|replica| replica.name.to_string()).collect()
    };
    let used = async |wanted: &[&str]| {
        eventually(&format!("{wanted:?} are used"), async || names() == wanted).await;
    };
    used(&["replica-2"]).await;
    *found.lock().unwrap() = Err("the registry is down".into());
    let failed = calls.load(Ordering::SeqCst);
    // The third call begins after the second result was used.
    eventually("discovery has failed", async || calls.load(Ordering::SeqCst) >= failed + 3).await;
    assert_eq!(names(), ["replica-2"]);
    let three = primary.standby().await.unwrap();
    *found.lock().unwrap() = Ok(vec![two.url(), three.url()]);
    used(&["replica-2", "replica-1"]).await;
    all_up(&node).await;
    eventually("the new one is read", async || {
        node.get("/plain/1").await.0.ends_with(&three.port().to_string())
    })
    .await;
    *found.lock().unwrap() = Ok(Vec::new());
    used(&[]).await;
    assert!(node.get("/plain/1").await.0.ends_with(&primary.port().to_string()));
    drop(discovery);
    *found.lock().unwrap() = Ok(vec![one.url()]);
    eventually("the task has ended", async || Arc::strong_count(&found) == 1).await;
    assert!(names().is_empty());
}

/// The lookup of what a statement reads is in progress on the primary when that stops; the replica can look it up, and has
/// the rows.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_statement_is_read_from_a_replica_while_the_primary_hangs() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let options = options(&primary).replica(replica.url()).wait(Duration::from_mins(10));
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    all_up(&node).await;
    node.warm(&["/users/1"]).await;
    primary.pause().unwrap();
    let values = ValuePolicy::ttl(TTL).build().unwrap();
    let queries = node.db.cached(&node.cache, values);
    let read = async move || {
        let query = sqlx::query("select string_agg(name, ' ' order by id) from users");
        queries.fetch_one::<(String,)>(query).await.unwrap().0
    };
    let first = tokio::spawn({
        let read = read.clone();
        async move { read().await }
    });
    let is_lost = async || node.db.status().iter().any(|server| server.reached.is_none());
    eventually("it is known that the primary is down", is_lost).await;
    eventually("a read without the primary", async || {
        let read = tokio::time::timeout(Duration::from_secs(5), read()).await;
        read.is_ok_and(|names| names == "ada bob")
    })
    .await;
    assert_eq!(first.await.unwrap(), "ada bob");
    primary.resume().unwrap();
}

/// What a statement depends on may be unknown: it is read by an operator that reads a table unseen, or it can't be looked
/// up. Its response is not stored, and promises as much as any other of its route.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_with_unknown_dependencies_uses_a_server_with_all_known_changes() {
    let (primary, replicas, node) = three(&[]).await;
    primary
        .psql(
            "create function first() returns text stable language plpgsql as $$ begin
        return (select name from users where id = 1); end $$",
        )
        .await
        .unwrap();
    let layer =
        CacheLayer::new(node.cache.clone()).route("/", Policy::ttl(TTL)).validate().unwrap();
    let first = async |State(db): State<Database>| -> String {
        sqlx::query_scalar("select first()").fetch_one(db.reader()).await.unwrap()
    };
    let app = Router::new().route("/", get(first)).layer(layer).with_state(node.db.clone());
    eventually("replicas serve it", async || fetch(&app, "/").await.1.contains("from replica"))
        .await;
    for replica in &replicas {
        replica.pause_replay().await.unwrap();
    }
    for name in ["eve", "eva", "eve"] {
        primary.psql(&format!("update users set name = '{name}' where id = 1")).await.unwrap();
        node.sees("/users/1", name).await;
        let (body, status) = fetch(&app, "/").await;
        assert_eq!(body, name, "{status}");
    }
}

/// A table, and one that another search path finds by the same name.
const TWO_TABLES: &str = "create schema away; create table away.prices (v text);
    create table prices (v text); insert into away.prices values ('away'); insert into prices values ('home')";

/// What a statement on `prices` returns by the cache, never from memory, until the replica has served it ten times.
async fn on_the_replica(
    db: &Database,
    cached: &Cached,
    sql: impl Fn(usize) -> String,
) -> Vec<String> {
    let (mut found, before) = (Vec::new(), db.replicas()[0].statements);
    for n in 0.. {
        let sql = sqlx::AssertSqlSafe(sql(n));
        found.push(cached.fetch_one::<(String,)>(sqlx::query(sql)).await.unwrap().0);
        if db.replicas()[0].statements >= before + 10 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    found
}

/// The replica has not replayed the change when a read tries it, and opens a connection by the old settings.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_opened_before_a_replica_replayed_a_setting_is_not_used_after_it() {
    let primary = primary(&[]).await;
    primary.psql(TWO_TABLES).await.unwrap();
    let tables = Triggers::new().table("prices").table("away.prices");
    tables.install(&mut connect(&primary).await).await.unwrap();
    let replica = primary.standby().await.unwrap();
    let db = options(&primary).replica(replica.url()).connections(1).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let cached = db.cached(&cache, ValuePolicy::ttl(TTL).build().unwrap());
    let sql = |n| format!("select v from prices /* {n} */");
    assert_eq!(on_the_replica(&db, &cached, sql).await.pop().unwrap(), "home");
    replica.pause_replay().await.unwrap();
    primary.psql("alter role postgres set search_path = away, public").await.unwrap();
    let mut round = 1000;
    let knows = async || {
        round += 1;
        let sql = sqlx::AssertSqlSafe(sql(round));
        cached.fetch_one::<(String,)>(sqlx::query(sql)).await.unwrap().0 == "away"
    };
    eventually("the node knows", knows).await;
    replica.resume_replay().await.unwrap();
    let found = on_the_replica(&db, &cached, |n| sql(n + 5000)).await;
    assert!(found.iter().all(|found| found == "away"), "{found:?}");
}

/// As above, but what is old is the meaning of a statement that was prepared there.
#[tokio::test(flavor = "multi_thread")]
async fn a_statement_prepared_before_a_replica_replayed_a_change_is_prepared_again() {
    let primary = primary(&[]).await;
    let before = "alter role postgres set search_path = away, public; create schema away;
        create table prices (v text); insert into prices values ('home')";
    primary.psql(before).await.unwrap();
    Triggers::new().table("prices").install(&mut connect(&primary).await).await.unwrap();
    let replica = primary.standby().await.unwrap();
    let options = options(&primary).replica(replica.url()).connections(1);
    let db = options.max_lag(Duration::from_hours(1)).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = ValuePolicy::ttl(Duration::from_millis(1)).early_refresh(0.0).build().unwrap();
    let cached = db.cached(&cache, policy);
    let sql = |_| "select v from prices".to_owned();
    assert_eq!(on_the_replica(&db, &cached, sql).await.pop().unwrap(), "home");
    replica.pause_replay().await.unwrap();
    let change = "create table away.prices (v text); insert into away.prices values ('away')";
    primary.psql(change).await.unwrap();
    Triggers::new().table("away.prices").install(&mut connect(&primary).await).await.unwrap();
    let knows = async || {
        cached.fetch_one::<(String,)>(sqlx::query("select v from prices")).await.unwrap().0
            == "away"
    };
    eventually("the node knows", knows).await;
    for _ in 0..3 {
        let old = sqlx::query_scalar::<_, String>("select v from prices").fetch_one(db.reader());
        assert_eq!(old.await.unwrap(), "home", "a read that no cache is for may be late");
    }
    replica.resume_replay().await.unwrap();
    let found = on_the_replica(&db, &cached, sql).await;
    assert!(found.iter().all(|found| found == "away"), "{found:?}");
}
