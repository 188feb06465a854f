use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tidegate_testing::{FaultProxy, Postgres, eventually};

use super::*;
use crate::cache::{Cache, LookupOptions, Needs, Policy};
use crate::entry::{Epoch, Tag};
use crate::postgres::attempt::{SkipReason, open};
use crate::postgres::deadline::is_late;
use crate::postgres::dependencies::DependencySource;
use crate::postgres::lookup::{dependencies, learn_later};
use crate::postgres::route_plan::Candidate;
use crate::postgres::server::Server;
use crate::{DatabaseOptions, Listener, Memory, Triggers};

/// A first candidate may fail, or a plan be outdated, so a server may be opened long after the plan was made: by then
/// the node may follow the database past the change.
#[tokio::test]
async fn a_read_planned_before_a_schema_change_is_not_stored() {
    let server = server_with_view().await;
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.expect("listener");
    let policy = Policy::ttl(Duration::from_mins(1));
    for is_changed in [false, true] {
        let record = cache.record(Some(&policy), LookupOptions::default());
        let read = async {
            let statement = RepeatableStatement::take("select v from v").expect("a statement");
            let plan = RoutePlan::for_statement(&db, &statement, false).await;
            if is_changed {
                server.psql("create or replace view v as select v from b").await.expect("view");
                let known = async || db.inner.known.get("select v from v").is_none();
                eventually("the change is known", known).await.expect("known");
            }
            let opened = open(&db, &Candidate::Primary, &plan).await;
            let opened = opened.unwrap_or_else(|_| panic!("the primary is up"));
            note(&plan, &opened.server, &opened.proof);
        };
        record.scope(read).await;
        let uncacheable = record.basis().err().map(|uncacheable| uncacheable.to_string());
        assert_eq!(uncacheable.is_some(), is_changed, "{uncacheable:?}");
    }
}

async fn server_with_view() -> Postgres {
    let server = Postgres::start().await.expect("Postgres");
    let setup =
        "create table a (v text); create table b (v text); create view v as select v from a";
    server.psql(setup).await.expect("schema");
    let mut conn = PgConnection::connect(&server.url()).await.expect("connection");
    Triggers::new().table("a").table("b").install(&mut conn).await.expect("triggers");
    server
}

/// A node that receives nothing from now on, with its database, primary and replica.
struct Deaf {
    cache: Cache,
    db: Database,
    replica: Arc<Server>,
    primary: Postgres,
    standby: Postgres,
}

impl Deaf {
    async fn start() -> Self {
        let primary = server_with_view().await;
        let standby = primary.standby().await.expect("standby");
        let line = FaultProxy::start(primary.addr()).await.expect("proxy");
        let listen = format!("postgres://postgres@{}/postgres", line.addr());
        let options = DatabaseOptions::new(primary.url()).listen_url(listen).replica(standby.url());
        let db = options.connect().await.expect("database");
        let cache = Cache::new(Memory::new(1 << 20));
        Listener::spawn(&db, &cache).await.expect("listener");
        let is_up = async || db.servers().iter().any(|server| server.at().is_some());
        eventually("the replica is up", is_up).await.expect("up");
        line.freeze();
        let replica = db.servers()[0].clone();
        Self { cache, db, replica, primary, standby }
    }

    async fn standby_has(&self, position: &str) {
        let sql = format!("select pg_last_wal_replay_lsn() >= '{position}'");
        let replayed = async || self.standby.psql(&sql).await.is_ok_and(|said| said == "t");
        eventually("the standby has replayed it", replayed).await.expect("replayed");
    }
}

const VIEW: &str = "create or replace view v as select v from b";

#[tokio::test]
async fn a_replica_ahead_of_the_node_proves_no_more_than_the_node_knew() {
    let node = Deaf::start().await;
    let before = node.primary.psql("select pg_current_wal_insert_lsn()").await.expect("position");
    let record =
        node.cache.record(Some(&Policy::ttl(Duration::from_mins(1))), LookupOptions::default());
    let read = async {
        let statement = RepeatableStatement::take("select v from v").expect("a statement");
        let plan = RoutePlan::for_statement(&node.db, &statement, false).await;
        node.primary.psql(VIEW).await.expect("view");
        let after = node.primary.psql("select pg_current_wal_flush_lsn()").await;
        node.standby_has(&after.expect("position")).await;
        let candidate = Candidate::Replica(node.replica.clone());
        let opened = open(&node.db, &candidate, &plan).await;
        let opened = opened.unwrap_or_else(|_| panic!("the replica is far enough"));
        note(&plan, &opened.server, &opened.proof);
    };
    record.scope(read).await;
    let as_of = record.basis().expect("a position").basis.position;
    let before = crate::postgres::lsn::read(&before).expect("a position");
    assert!(as_of < before, "{as_of:?} is past {before:?}, and the view has changed since");
}

#[tokio::test]
async fn a_replica_that_lacks_the_schema_a_statement_was_analyzed_in_is_skipped() {
    let node = Deaf::start().await;
    node.standby.psql("select pg_wal_replay_pause()").await.expect("pause");
    let paused = async || {
        let state = node.standby.psql("select pg_get_wal_replay_pause_state()").await;
        state.is_ok_and(|state| state == "paused")
    };
    eventually("replay is paused", paused).await.expect("paused");
    node.primary.psql(VIEW).await.expect("view");
    let record =
        node.cache.record(Some(&Policy::ttl(Duration::from_mins(1))), LookupOptions::default());
    let read = async {
        let statement = RepeatableStatement::take("select v from v").expect("a statement");
        let plan = RoutePlan::for_statement(&node.db, &statement, false).await;
        let candidate = Candidate::Replica(node.replica.clone());
        matches!(open(&node.db, &candidate, &plan).await, Err(SkipReason::Behind))
    };
    assert!(record.scope(read).await);
}

/// If a server's last known position is too low for a read, its current position is queried first.
#[tokio::test]
async fn a_server_that_hangs_while_its_position_is_queried_is_abandoned() {
    let primary = server_with_view().await;
    let standby = primary.standby().await.expect("standby");
    let name = FaultProxy::start(standby.addr()).await.expect("proxy");
    let url = format!("postgres://postgres@{}/postgres", name.addr());
    let options = DatabaseOptions::new(primary.url()).replica(url).connections(1);
    let db = options.connect().await.expect("database");
    let replica = db.servers()[0].clone();
    drop(replica.acquire().await.expect("a connection"));
    let is_back = async || replica.pool().num_idle() == 1;
    eventually("it is in the pool", is_back).await.expect("idle");
    let statement = RepeatableStatement::take("select v from v").expect("a statement");
    let mut plan = RoutePlan::for_statement(&db, &statement, false).await;
    plan.needs = crate::entry::Position::new(u64::MAX);
    name.freeze();
    let candidate = Candidate::Replica(replica.clone());
    let opening = tokio::time::timeout(Duration::from_mins(1), open(&db, &candidate, &plan));
    let opened = opening.await.expect("it is abandoned");
    assert!(matches!(opened, Err(SkipReason::Failed(error)) if is_late(&error)));
    name.heal().await.expect("healed");
    let closed = async || replica.acquire().await.is_ok() && replica.pool().size() == 1;
    eventually("its place in the pool is free", closed).await.expect("free");
}

/// What was written to the new primary may be past any position of the old one.
#[tokio::test]
async fn no_position_is_observed_on_an_old_primary() {
    let old = server_with_view().await;
    let new = old.standby().await.expect("standby");
    let name = FaultProxy::start(old.addr()).await.expect("proxy");
    let url = format!("postgres://postgres@{}/postgres", name.addr());
    let db = DatabaseOptions::new(url).connect().await.expect("database");
    let of_old = db.observe().await.expect("a position").epoch;
    new.promote().await.expect("promoted");
    name.retarget(new.addr());
    // Each is busy, so that the next one is another connection.
    let first = db
        .inner
        .primary
        .acquire()
        .await
        .expect("the old primary, before it is known that there are two");
    let to_new = db.inner.primary.acquire().await.expect("the new primary");
    name.retarget(old.addr());
    let to_old = db.inner.primary.acquire().await.expect("the old primary again");
    drop(to_old);
    assert!(db.observe().await.is_err(), "only the old primary can be queried");
    drop((first, to_new));
    name.retarget(new.addr());
    let observed = async || db.observe().await.is_ok_and(|at| at.epoch != of_old);
    eventually("the new primary is queried", observed).await.expect("queried");
}

/// A standby may have an older schema than the one that the node knows of.
#[tokio::test]
async fn a_read_analyzed_on_a_standby_is_not_stored() {
    let server = server_with_view().await;
    let standby = server.standby().await.expect("standby");
    let name = FaultProxy::start(server.addr()).await.expect("proxy");
    let url = format!("postgres://postgres@{}/postgres", name.addr());
    let options = DatabaseOptions::new(url).listen_url(server.url()).replica(standby.url());
    let db = options.connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.expect("listener");
    let is_up = async || db.servers().iter().any(|server| server.at().is_some());
    eventually("the replica is up", is_up).await.expect("up");
    let policy = Policy::ttl(Duration::from_mins(1));
    let read = async || {
        let record = cache.record(Some(&policy), LookupOptions::default());
        let read = async {
            let statement = RepeatableStatement::take("select v from v").expect("a statement");
            RoutePlan::for_statement(&db, &statement, false).await;
        };
        record.scope(read).await;
        let found = db.inner.known.get("select v from v").map(|found| found.source);
        (record.can_be_stored().is_err(), found)
    };
    name.cut();
    let (uncacheable, source) = read().await;
    assert!(uncacheable && source == Some(DependencySource::Standby), "{uncacheable} {source:?}");
    name.heal().await.expect("healed");
    let queried_again =
        async || matches!(read().await, (false, Some(DependencySource::Primary(..))));
    eventually("the primary is queried", queried_again).await.expect("queried");
}

/// A write is visible in the text, or declared by `writer`: neither requires the catalogue.
#[tokio::test]
async fn a_write_is_recorded_even_if_the_catalog_cannot_be_queried() {
    let server = server_with_view().await;
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.expect("listener");
    let policy = Policy::ttl(Duration::from_mins(1));
    for (sql, writer, may_write) in [
        ("insert into a values ('1')", false, true),
        ("select length(v) from v", true, true),
        ("select length(v) from v", false, false),
    ] {
        db.inner.known.rest();
        let record = cache.record(Some(&policy), LookupOptions::default());
        let plan = async {
            let statement = RepeatableStatement::take(sql).expect("a statement");
            RoutePlan::for_statement(&db, &statement, writer).await
        };
        let plan = record.scope(plan).await;
        assert_eq!((plan.may_write, record.has_written()), (may_write, may_write), "{sql}");
    }
}

/// Otherwise each request that waits for the same lookup would wait as long again.
#[tokio::test]
async fn a_lookup_that_gets_no_connection_in_time_pauses_further_lookups() {
    let server = server_with_view().await;
    let options = DatabaseOptions::new(server.url()).connections(1).wait(Duration::from_millis(50));
    let db = options.connect().await.expect("database");
    // On a busy machine, no connection may be ready in time at first.
    let taken = loop {
        match db.inner.primary.acquire().await {
            Ok(taken) => break taken,
            Err(sqlx::Error::PoolTimedOut) => {}
            Err(error) => panic!("no connection: {error}"),
        }
    };
    let find = async || dependencies(&db, "select v from v", Epoch::UNKNOWN).await;
    assert!(find().await.is_err());
    assert!(db.inner.known.is_resting());
    drop(taken);
    let found = async || find().await.is_ok();
    eventually("it is queried again", found).await.expect("found");
}

#[tokio::test]
async fn a_background_lookup_on_a_hung_primary_blocks_no_other_lookup() {
    let server = server_with_view().await;
    let line = FaultProxy::start(server.addr()).await.expect("proxy");
    let url = format!("postgres://postgres@{}/postgres", line.addr());
    let db = DatabaseOptions::new(url).connect().await.expect("database");
    let idle = || db.inner.primary.pool().num_idle();
    drop(db.inner.primary.acquire().await.expect("connection"));
    eventually("it is idle", async || idle() == 1).await.expect("idle");
    line.freeze();
    learn_later(&db, "select v from v");
    eventually("the look-up has begun", async || idle() == 0).await.expect("begun");
    let find = dependencies(&db, "select v from v", Epoch::UNKNOWN);
    let found = tokio::time::timeout(Duration::from_secs(30), find).await;
    assert!(found.expect("it hangs").is_err());
}

/// If a statement is not known to be a read, the server determines whether it writes.
#[tokio::test]
async fn a_promoted_replica_refuses_statements_that_may_write() {
    let primary = server_with_view().await;
    let standby = primary.standby().await.expect("standby");
    let options = DatabaseOptions::new(primary.url()).replica(standby.url());
    let db = options.connect().await.expect("database");
    standby.psql("select pg_promote()").await.expect("promotion");
    let replica = db.servers().remove(0);
    let is_promoted = async || replica.at().is_some_and(|at| !at.standby);
    eventually("the promotion is known", is_promoted).await.expect("promoted");
    let statement = RepeatableStatement::take("select f()").expect("a statement");
    let mut plan = RoutePlan::for_statement(&db, &statement, false).await;
    (plan.read_only, plan.epoch) = (true, crate::entry::Epoch::UNKNOWN);
    let opened = open(&db, &Candidate::Replica(replica.clone()), &plan).await;
    let mut opened = opened.unwrap_or_else(|_| panic!("it is up"));
    let write = sqlx::query("insert into a values ('x')").execute(opened.conn.get()).await;
    let code = write.err().and_then(|error| error.into_database_error()?.code().map(String::from));
    assert_eq!((code.as_deref(), opened.refuses_writes), (Some("25006"), true));
}

/// A standby's sessions survive its promotion, and don't show when it happened.
#[tokio::test]
async fn a_function_called_on_a_replica_cannot_write_after_its_promotion() {
    let primary = server_with_view().await;
    let standby = primary.standby().await.expect("standby");
    let options = DatabaseOptions::new(primary.url()).replica(standby.url());
    let db = options.connect().await.expect("database");
    let replica = db.servers().remove(0);
    let is_known = async || replica.at().is_some_and(|at| at.standby);
    eventually("the standby is known", is_known).await.expect("known");
    let statement = RepeatableStatement::take("select f()").expect("a statement");
    let plan = RoutePlan::for_statement(&db, &statement, false).await;
    let own = plan.own.clone();
    let attempts = Attempts::new(&db, plan, &own);
    let opened = open(&db, &Candidate::Replica(replica), &attempts.plan).await;
    let mut opened = opened.unwrap_or_else(|_| panic!("it is up"));
    standby.psql("select pg_promote()").await.expect("promotion");
    let write = sqlx::query("insert into a values ('x')").execute(opened.conn.get()).await;
    let code = write.err().and_then(|error| error.into_database_error()?.code().map(String::from));
    assert_eq!((code.as_deref(), opened.refuses_writes), (Some("25006"), true));
}

/// The outcome of the first attempt remains unknown, whatever the result of the next one.
#[tokio::test]
async fn an_attempt_that_may_have_committed_stays_open_after_the_next_one_ends() {
    let server = server_with_view().await;
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    let statement = RepeatableStatement::take("select f()").expect("a statement");
    let record = cache.record(None, LookupOptions::for_request(None));
    record
        .scope(async {
            let plan = RoutePlan::for_statement(&db, &statement, false).await;
            let own = plan.own.clone();
            let mut attempts = Attempts::new(&db, plan, &own);
            let Attempt { candidate, opened } =
                attempts.next().await.unwrap_or_else(|_| panic!("it is up"));
            let lost = Error::Io(std::io::ErrorKind::ConnectionReset.into());
            attempts.failed(lost, candidate, &opened).expect("another attempt");
            attempts.next().await.map_or_else(|_| panic!("it is up"), drop);
            attempts.end();
            drop(attempts);
            assert!(matches!(own.for_reads(db.id()), Needs::Primary));
            assert!(own.try_observe(db.id()).is_none(), "no position is past what may commit yet");
        })
        .await;
}

#[tokio::test]
async fn a_read_that_is_not_stored_reports_that_its_replica_may_be_behind() {
    let db = DatabaseOptions::new(server_with_view().await.url()).connect().await.expect("db");
    let cache = Cache::new(Memory::new(1 << 20));
    let statement = RepeatableStatement::take("select v from v").expect("a statement");
    let record = cache.record(None, LookupOptions::for_request(None));
    let read = async {
        let plan = RoutePlan::for_statement(&db, &statement, false).await;
        assert!(plan.record.is_none());
        let behind =
            ReadProof::Nothing(Uncacheable::new(REPLICA_BEHIND, "it was read from a replica"));
        note(&plan, &"replica-1".into(), &behind);
    };
    record.scope(read).await;
    assert_eq!(record.caveat(), Some(REPLICA_BEHIND));
}

/// Which of the tables `a` and `b` a result of the view depends on.
async fn tables_of_view(db: &Database, cache: &Cache) -> Vec<&'static str> {
    let record = cache.record(Some(&Policy::ttl(Duration::from_mins(1))), LookupOptions::default());
    let read = sqlx::query("select v from v").fetch_all(db.reader());
    record.scope(read).await.expect("rows");
    let basis = record.basis();
    let depends = |table| basis.as_ref().is_ok_and(|it| it.tags.contains(&Tag::table(table)));
    ["a", "b"].into_iter().filter(|table| depends(table)).collect()
}

#[tokio::test]
async fn a_second_database_of_a_cache_follows_schema_changes() {
    let server = server_with_view().await;
    let cache = Cache::new(Memory::new(1 << 20));
    let of_listener = DatabaseOptions::new(server.url()).connect().await.expect("database");
    Listener::spawn(&of_listener, &cache).await.expect("listener");
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    assert_eq!(tables_of_view(&db, &cache).await, ["a"]);
    let known = cache.fences().schema();
    server.psql(VIEW).await.expect("view");
    let is_noticed = async || cache.fences().schema() > known;
    eventually("the change is known", is_noticed).await.expect("known");
    assert_eq!(tables_of_view(&db, &cache).await, ["b"]);
}

/// Event triggers record the change, but a starting node does not notice it, since its first snapshot already has it.
#[tokio::test]
async fn a_statement_analyzed_while_a_listener_starts_is_analyzed_again() {
    let server = server_with_view().await;
    let cache = Cache::new(Memory::new(1 << 20));
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let mut holder = PgConnection::connect(&server.url()).await.expect("connection");
    let hold = "begin; lock table tidegate.log in access exclusive mode";
    sqlx::raw_sql(hold).execute(&mut holder).await.expect("lock");
    let starts = {
        let (db, cache) = (db.clone(), cache.clone());
        tokio::spawn(async move { Listener::spawn(&db, &cache).await })
    };
    let waits = "select count(*) from pg_locks where not granted";
    let is_held = async || server.psql(waits).await.is_ok_and(|count| count == "1");
    eventually("the log is about to be read", is_held).await.expect("held");
    let mut conn = PgConnection::connect(&server.url()).await.expect("connection");
    db.inner.known.learn(&mut conn, "select v from v").await.expect("dependencies");
    server.psql(VIEW).await.expect("view");
    sqlx::raw_sql("commit").execute(&mut holder).await.expect("commit");
    starts.await.expect("a task").expect("listener");
    assert_eq!(tables_of_view(&db, &cache).await, ["b"]);
}

/// As while a dump is restored without a transaction around it.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_served_uncached_while_the_schema_keeps_changing() {
    let server = server_with_view().await;
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.expect("listener");
    let changes = {
        let db = db.clone();
        tokio::spawn(async move {
            for change in 1000.. {
                db.follow_schema(change);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    };
    let record = cache.record(Some(&Policy::ttl(Duration::from_mins(1))), LookupOptions::default());
    let read = record.scope(sqlx::query("select v from v").fetch_all(db.reader()));
    let read = tokio::time::timeout(Duration::from_mins(1), read).await;
    changes.abort();
    assert!(read.expect("an end").is_ok());
    assert_eq!(record.basis().expect_err("no proof").token, "unknown-dependencies");
}

/// Such a statement needs no position past its lookup, so a replica that can run it may still have the schema of before.
#[tokio::test]
async fn a_statement_that_cannot_be_analyzed_proves_no_replayed_schema() {
    let server = server_with_view().await;
    let db = DatabaseOptions::new(server.url()).connect().await.expect("database");
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.expect("listener");
    server.psql("create table untracked ()").await.expect("table");
    let policy = Policy::ttl(Duration::from_mins(1));
    for (sql, is_shown) in [("select v from v", true), ("select * from untracked", false)] {
        let record = cache.record(Some(&policy), LookupOptions::default());
        let statement = RepeatableStatement::take(sql).expect("a statement");
        let plan = record.scope(RoutePlan::for_statement(&db, &statement, false)).await;
        assert!(plan.schema > 0);
        assert_eq!(plan.replayed_schema > 0, is_shown, "{sql}");
    }
}
