#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};

use super::*;
use crate::postgres::Triggers;
use crate::postgres::fingerprint::{FINGERPRINT_KNOWN_WITHIN, Fingerprint};
use crate::postgres::identity::identity;
use tidegate_testing::Postgres;

mod copies;
mod histories;
mod large;
mod notifications;
mod schema;

const SETUP: &str = "create table t (id int primary key, v int); create table other (id int);";
const SOON: Duration = Duration::from_secs(20);

pub(super) struct Bed {
    pub(super) server: Postgres,
    pub(super) conn: PgConnection,
}

impl Bed {
    pub(super) async fn new() -> Self {
        let server = Postgres::start().await.unwrap();
        server.psql(SETUP).await.unwrap();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        Triggers::new().table("t").install(&mut conn).await.unwrap();
        prepare(&mut conn).await.unwrap();
        begin_history(&mut conn).await.unwrap();
        Self { server, conn }
    }

    pub(super) async fn session(&self) -> PgConnection {
        PgConnection::connect(&self.server.url()).await.unwrap()
    }

    pub(super) async fn now(&mut self) -> Snapshot {
        self.load(7).await.snapshot
    }

    pub(super) async fn load(&mut self, schema: i64) -> load::LoadedLog {
        load(&mut self.conn, schema).await.unwrap()
    }

    /// Drops what can be; returns how many rows.
    async fn trim(&mut self, retention: Duration) -> i64 {
        let rows = "select count(*) from tidegate.log";
        let before = self.number(rows).await;
        trim(&mut self.conn, retention, 1000).await.unwrap();
        before - self.number(rows).await
    }

    pub(super) async fn drain(&mut self, prev: &mut Snapshot) -> Drained {
        let drained =
            drain(&mut self.conn, prev, DrainMode::default(), &mut ChangeDetail::default())
                .await
                .unwrap();
        *prev = drained.snapshot.clone();
        drained
    }

    async fn number(&self, sql: &str) -> i64 {
        self.server.psql(sql).await.unwrap().parse().unwrap()
    }
}

/// A budget of rows alone.
fn rows(rows: i64) -> detail::Budget {
    detail::Budget { rows, bytes: i64::MAX, keys: 1000 }
}

pub(super) async fn run(conn: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(conn).await.unwrap();
}

#[tokio::test]
async fn each_change_is_drained_once_whatever_the_commit_order() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    let (mut early, mut late) = (bed.session().await, bed.session().await);
    run(&mut early, "begin; insert into t values (1)").await;
    run(&mut late, "begin; savepoint s; insert into t values (2); release s; commit").await;
    let first = bed.drain(&mut prev).await;
    assert!(first.seen > first.fence, "past the reported changes, or nothing could be cached");
    assert_eq!(first.tags, ["t", "t:id=2"]);
    let xid =
        "select backend_xid::text::bigint from pg_stat_activity where backend_xid is not null";
    assert_eq!(first.in_progress, [bed.number(xid).await.cast_unsigned()]);
    assert!(first.wakeups && !first.trimmed);
    assert!(bed.drain(&mut prev).await.tags.is_empty());
    run(&mut early, "commit").await;
    let second = bed.drain(&mut prev).await;
    assert_eq!(second.tags, ["t", "t:id=1"]);
    assert!(second.in_progress.is_empty());
    assert!(bed.drain(&mut prev).await.tags.is_empty());
}

#[tokio::test]
async fn a_fence_is_at_or_past_the_commit() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    let mut writer = bed.session().await;
    for _ in 0..50 {
        run(&mut writer, "insert into t select coalesce(max(id), 0) + 1 from t").await;
        let end = "select pg_current_wal_insert_lsn()::text";
        let before: String = sqlx::query_scalar(end).fetch_one(&mut writer).await.unwrap();
        let drained = bed.drain(&mut prev).await;
        assert_eq!(drained.tags.len(), 2);
        assert!(drained.fence >= lsn::read(&before).unwrap());
        assert!(announce(&mut bed.conn).await.unwrap() > drained.fence);
    }
}

/// The core problem that Tidegate solves: a commit that is in the WAL but not visible yet.
#[tokio::test]
async fn a_commit_that_waits_for_a_standby_is_drained_and_fenced_once_visible() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    run(&mut bed.conn, "alter system set synchronous_standby_names = 'nobody'").await;
    run(&mut bed.conn, "select pg_reload_conf()").await;
    let mut writer = bed.session().await;
    let hung = tokio::spawn(async move { run(&mut writer, "insert into t values (1)").await });
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
    until(async || bed.number(waiting).await == 1).await;
    let between = bed.drain(&mut prev).await;
    assert!(between.tags.is_empty() && between.in_progress.len() == 1, "{between:?}");
    let cancel = "select count(pg_cancel_backend(pid)) from pg_stat_activity
                  where wait_event = 'SyncRep'";
    bed.number(cancel).await;
    hung.await.unwrap();
    let after = bed.drain(&mut prev).await;
    assert_eq!(after.tags, ["t", "t:id=1"]);
    assert!(after.fence >= between.fence);
}

#[tokio::test]
async fn a_starting_node_finds_each_fence_between_the_commit_and_the_next_mark() {
    let mut bed = Bed::new().await;
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap(), "the schema is known now");
    let installed = bed.load(7).await;
    assert!(installed.fences.is_empty() && installed.floor <= installed.seen);
    bed.server.psql("insert into t values (1)").await.unwrap();
    let mut open = bed.session().await;
    run(&mut open, "begin; insert into t values (2)").await;
    let committed = bed.load(7).await.seen;
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    let marked = announce(&mut bed.conn).await.unwrap();
    assert!(!mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    run(&mut open, "commit").await;
    assert!(!mark(&mut bed.conn, SOON, Some(7)).await.unwrap());
    let loaded = bed.load(7).await;
    let fence = |name: &str| loaded.fences.iter().find(|(tag, _)| tag == name).unwrap().1;
    assert!(committed <= fence("t:id=1") && fence("t:id=1") < marked);
    assert_eq!(fence("t:id=2"), loaded.seen);
    assert_eq!(fence("t"), loaded.seen);
    assert_eq!(loaded.floor, installed.floor);
}

#[tokio::test]
async fn trimmed_changes_are_below_the_floor_and_detected_by_a_node_that_missed_them() {
    let mut bed = Bed::new().await;
    let mut asleep = bed.now().await;
    bed.server.psql("insert into t values (1)").await.unwrap();
    let mut open = bed.session().await;
    run(&mut open, "begin; insert into t values (2)").await;
    let mut awake = bed.now().await;
    assert_eq!(bed.trim(Duration::ZERO).await, 1, "the row of the install");
    assert!(!bed.drain(&mut asleep.clone()).await.trimmed);
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    bed.drain(&mut awake).await;
    let committed = bed.load(7).await.seen;
    assert_eq!(bed.trim(SOON * 60).await, 0);
    assert_eq!(bed.trim(Duration::ZERO).await, 1);
    assert!(bed.drain(&mut asleep).await.trimmed);
    assert!(!bed.drain(&mut asleep).await.trimmed, "reported once");
    assert!(!bed.drain(&mut awake).await.trimmed);
    run(&mut open, "commit").await;
    assert_eq!(bed.trim(Duration::ZERO).await, 0, "no mark has seen it");
    assert_eq!(bed.drain(&mut awake).await.tags, ["t", "t:id=2"]);
    let loaded = bed.load(7).await;
    assert!(loaded.floor <= committed && loaded.fences.iter().all(|(tag, _)| tag != "t:id=1"));
    bed.server.psql("truncate tidegate.marks").await.unwrap();
    assert!(bed.drain(&mut awake).await.trimmed);
}

/// A node can start however much was written while no node was running.
#[tokio::test]
async fn a_log_longer_than_the_budget_is_read_from_a_later_mark_on() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    bed.server.psql("insert into t values (1)").await.unwrap();
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    let marked = announce(&mut bed.conn).await.unwrap();
    bed.server.psql("insert into t values (2)").await.unwrap();
    let names = |loaded: &load::LoadedLog| -> Vec<String> {
        loaded.fences.iter().map(|(tag, _)| tag.clone()).collect()
    };
    let whole = load::attempt(&mut bed.conn, 7, rows(2)).await.unwrap();
    assert_eq!(names(&whole), ["t", "t:id=1", "t:id=2"]);
    let end = load::attempt(&mut bed.conn, 7, rows(1)).await.unwrap();
    assert_eq!(names(&end), ["t", "t:id=2"]);
    assert!(end.floor > whole.floor && end.floor < marked);
    assert!(end.fences.iter().all(|(_, fence)| *fence > marked));
    let nothing = load::attempt(&mut bed.conn, 7, rows(0)).await.unwrap();
    assert!(nothing.fences.is_empty() && nothing.floor == nothing.seen);
}

/// A snapshot lists no transaction that is newer than the last one to have ended.
#[tokio::test]
async fn the_newest_running_writer_is_listed_as_in_progress() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    let mut open = bed.session().await;
    run(&mut open, "begin; insert into t values (1)").await;
    let xid = "select pg_current_xact_id()::text::bigint";
    let xid: i64 = sqlx::query_scalar(xid).fetch_one(&mut open).await.unwrap();
    let drained = bed.drain(&mut prev).await;
    assert!(drained.snapshot.0.ends_with(':'), "{drained:?}");
    assert_eq!(drained.in_progress, [xid.cast_unsigned()]);
    run(&mut open, "rollback").await;
    assert!(bed.drain(&mut prev).await.in_progress.is_empty());
}

/// The mark sees a transaction that was in progress for the one who slept.
#[tokio::test]
async fn a_trimmed_transaction_that_was_open_at_the_last_drain_is_detected() {
    let mut bed = Bed::new().await;
    let mut open = bed.session().await;
    run(&mut open, "begin; insert into t values (1)").await;
    bed.server.psql("insert into other values (1)").await.unwrap();
    let mut asleep = bed.now().await;
    run(&mut open, "commit").await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    bed.trim(Duration::ZERO).await;
    let drained = bed.drain(&mut asleep).await;
    assert!(drained.trimmed && drained.tags.is_empty());
}

/// A session that listens and never reads its notifications fills the server's queue.
pub(crate) const FULL_QUEUE: &str = "
    alter function pg_catalog.pg_notification_queue_usage() rename to real_queue_usage;
    alter function pg_catalog.pg_notify(text, text) rename to real_notify;
    create function pg_catalog.pg_notification_queue_usage() returns float8 language sql as 'select 1.0::float8';
    create function pg_catalog.pg_notify(text, text) returns void language plpgsql as $$ begin
        raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000';
    end $$";

/// A row of the log does not say what its table and columns are called.
#[tokio::test]
async fn a_change_that_may_have_had_another_name_is_reported_as_renamed_without_tags() {
    for (alter, back) in [
        ("alter table t rename to u", "alter table u rename to t"),
        ("alter table t rename id to nr", "alter table t rename nr to id"),
        ("alter table t inherit parent", "alter table t no inherit parent"),
        ("alter table t inherit middle", "alter table t no inherit middle"),
        ("alter table middle inherit parent", "alter table middle no inherit parent"),
        ("alter schema public rename to private", "alter schema private rename to public"),
    ] {
        let mut bed = Bed::new().await;
        bed.server.psql("create table parent (v int); create table middle (v int)").await.unwrap();
        if alter.contains("table middle") {
            bed.server.psql("alter table t inherit middle").await.unwrap();
        }
        let mut prev = bed.now().await;
        let table = bed.number("select 't'::regclass::oid::int").await;
        for (nr, alter) in [alter, back].iter().enumerate() {
            let write = format!(
                "do $$ begin execute 'insert into ' || {table}::regclass || ' values ({nr})'; end $$; {alter}"
            );
            bed.server.psql(&write).await.unwrap();
            let drained = bed.drain(&mut prev).await;
            assert!(drained.renamed && drained.tags.is_empty(), "{alter}: {drained:?}");
        }
        let quiet = "truncate t; insert into t values (70); grant select on t to public; analyze t";
        for statement in quiet.split(';') {
            bed.server.psql(statement).await.unwrap();
        }
        let drained = bed.drain(&mut prev).await;
        assert!(
            !drained.renamed && drained.tags.iter().any(|tag| tag.ends_with(":id=70")),
            "{drained:?}"
        );
        bed.server.psql("insert into t values (71); drop table t").await.unwrap();
        let drained = bed.drain(&mut prev).await;
        assert!(drained.renamed && drained.tags.is_empty(), "{drained:?}");
    }
}

#[tokio::test]
async fn a_drain_reads_only_the_end_of_a_large_log() {
    let mut bed = Bed::new().await;
    // A plan made while the log was empty is kept when it is large.
    let sql = sqlx::AssertSqlSafe(format!(
        "prepare drain (text, bool, int8, int4, int8, int8, int8) as {}",
        include_str!("../sql/drain.sql")
    ));
    sqlx::raw_sql(sql).execute(&mut bed.conn).await.unwrap();
    let snapshot = bed.now().await;
    let explain = async |conn: &mut PgConnection| {
        let sql = format!(
            "explain execute drain ('{}', false, 8, 0, 50000, 8000000, 100000)",
            snapshot.0
        );
        let sql = sqlx::AssertSqlSafe(sql);
        let plan: Vec<String> = sqlx::query_scalar(sql).fetch_all(conn).await.unwrap();
        plan.join("\n")
    };
    let first = explain(&mut bed.conn).await;
    let fill = "insert into tidegate.log (xid, tags) select '3'::xid8, array['t']
                from generate_series(1, 200000)";
    bed.server.psql(fill).await.unwrap();
    let plan = explain(&mut bed.conn).await;
    assert!(!first.contains("Seq Scan on log") && !plan.contains("Seq Scan on log"), "{plan}");
    assert!(plan.contains("$1"), "one plan for all: {plan}");
}

async fn until(condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
    }
    panic!("it did not come about");
}
