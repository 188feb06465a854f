#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use sqlx::postgres::PgListener;
use sqlx::{Connection, PgConnection};

use super::*;
use crate::postgres::Triggers;
use crate::postgres::fingerprint::{FINGERPRINT_KNOWN_WITHIN, Fingerprint};
use crate::postgres::identity::identity;
use tidegate_testing::Postgres;

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
async fn entries_stored_before_a_schema_change_are_below_the_floor() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    let before = announce(&mut bed.conn).await.unwrap();
    assert!(bed.load(7).await.floor < before);
    assert!(bed.load(8).await.floor >= before);
    assert!(mark(&mut bed.conn, SOON, Some(8)).await.unwrap(), "at once, and without changes");
    let noticed = announce(&mut bed.conn).await.unwrap();
    let loaded = bed.load(8).await;
    assert!(loaded.is_settling && loaded.floor >= noticed, "other nodes may not have noticed");
    let later = "update tidegate.marks set at = at - interval '1 hour', since = since - interval '1 hour', xid = pg_current_xact_id();
        insert into t values (1)";
    bed.server.psql(later).await.unwrap();
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(8)).await.unwrap());
    let after = announce(&mut bed.conn).await.unwrap();
    let loaded = bed.load(8).await;
    assert!(!loaded.is_settling && noticed <= loaded.floor && loaded.floor < after);
}

/// How long a schema has been known does not depend on which marks are left.
#[tokio::test]
async fn a_schema_is_as_young_once_the_marks_before_it_are_trimmed() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    mark(&mut bed.conn, SOON, Some(8)).await.unwrap();
    bed.server.psql("insert into t values (1)").await.unwrap();
    mark(&mut bed.conn, Duration::ZERO, Some(8)).await.unwrap();
    let noticed = announce(&mut bed.conn).await.unwrap();
    bed.server.psql("delete from tidegate.marks where schema is distinct from 8").await.unwrap();
    let loaded = bed.load(8).await;
    assert!(loaded.is_settling && loaded.floor >= noticed, "{loaded:?}");
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

/// A dump has marks and rows with positions and transactions that may be far ahead of ours.
#[tokio::test]
async fn rows_from_a_dump_of_another_cluster_are_ignored() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    let restore = "insert into tidegate.marks (snapshot, lsn, schema, cluster)
            values ('9000000:9000000:', 'FF/0', 7, 42), ('3:3:', '0/1', 7, 42);
        insert into tidegate.log (xid, tags) values ('8999999', '{theirs}')";
    bed.server.psql(restore).await.unwrap();
    let loaded = bed.load(7).await;
    assert!(loaded.floor > Position::new(1) && loaded.floor < loaded.seen, "{loaded:?}");
    assert!(loaded.fences.iter().all(|(_, fence)| *fence <= loaded.seen));
    let mut prev = loaded.snapshot;
    assert!(!bed.drain(&mut prev).await.trimmed);
    bed.trim(SOON).await;
    assert_eq!(bed.number("select count(*) from tidegate.marks where cluster = 42").await, 0);
    let drained = bed.drain(&mut prev).await;
    assert!(drained.tags.is_empty() && !drained.trimmed, "{drained:?}");
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

#[tokio::test]
async fn each_commit_sends_one_empty_notification_unless_notify_is_off() {
    let bed = Bed::new().await;
    let mut listener = PgListener::connect(&bed.server.url()).await.unwrap();
    listener.listen("tidegate").await.unwrap();
    bed.server
        .psql("begin; insert into t values (1); insert into t values (2); commit")
        .await
        .unwrap();
    let woken = tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    assert_eq!((woken.channel(), woken.payload()), ("tidegate", ""));
    let back = "begin; savepoint s; insert into t values (3); rollback to s;
                insert into t values (4); commit";
    bed.server.psql(back).await.unwrap();
    tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    bed.server.psql("set tidegate.notify = off; insert into t values (5)").await.unwrap();
    bed.server.psql("notify tidegate, 'mine'").await.unwrap();
    let next = tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    assert_eq!(next.payload(), "mine", "one wake-up for each commit, none for the last");
}

/// A bulk load, or the apply of a logical replication: its triggers fire long before its commit.
#[tokio::test]
async fn a_long_transaction_as_a_replica_does_not_suppress_the_notifications_of_others() {
    let bed = Bed::new().await;
    let mut listener = PgListener::connect(&bed.server.url()).await.unwrap();
    listener.listen("tidegate").await.unwrap();
    let mut load = bed.session().await;
    run(&mut load, "set session_replication_role = replica; begin; insert into t values (1)").await;
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    assert_eq!(bed.number(locks).await, 0, "the lock that suppresses other notifications");
    bed.server.psql("insert into t values (2)").await.unwrap();
    tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    run(&mut load, "commit").await;
    tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
}

/// A session that listens and never reads its notifications fills the server's queue.
pub(crate) const FULL_QUEUE: &str = "
    alter function pg_catalog.pg_notification_queue_usage() rename to real_queue_usage;
    alter function pg_catalog.pg_notify(text, text) rename to real_notify;
    create function pg_catalog.pg_notification_queue_usage() returns float8 language sql as 'select 1.0::float8';
    create function pg_catalog.pg_notify(text, text) returns void language plpgsql as $$ begin
        raise exception 'too many notifications in the NOTIFY queue' using errcode = '54000';
    end $$";

#[tokio::test]
async fn notifications_are_resumed_though_the_queue_is_full() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    bed.server.psql(FULL_QUEUE).await.unwrap();
    bed.server.psql("insert into t values (1)").await.unwrap();
    let manner = DrainMode { suppress_notify_from: Some(1), ..DrainMode::default() };
    let mut detail = ChangeDetail::default();
    let drained = drain(&mut bed.conn, &prev, manner, &mut detail).await.unwrap();
    assert!(drained.notify_suppressed);
    prev = drained.snapshot;
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    resume_notify(&mut bed.conn).await.unwrap();
    assert_eq!(bed.number(locks).await, 0);
    // An attempt that fails releases the lock too.
    bed.server.psql("select tidegate.invalidate(array(select 'page' || g from generate_series(1, 60000) g))").await.unwrap();
    let drained = drain(&mut bed.conn, &prev, manner, &mut detail).await.unwrap();
    assert!(drained.overflowed && !drained.notify_suppressed);
    assert_eq!(bed.number(locks).await, 0);
}

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
async fn a_busy_listener_suppresses_notifications_and_then_resumes_them() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    let mut listener = PgListener::connect(&bed.server.url()).await.unwrap();
    listener.listen("tidegate").await.unwrap();
    let suppress = DrainMode { suppress_notify_from: Some(1), ..DrainMode::default() };
    assert!(
        !drain(&mut bed.conn, &prev, suppress, &mut ChangeDetail::default())
            .await
            .unwrap()
            .notify_suppressed,
        "nothing has changed"
    );
    bed.server.psql("insert into t values (1)").await.unwrap();
    tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    let more = DrainMode { suppress_notify_from: Some(2), ..DrainMode::default() };
    assert!(
        !drain(&mut bed.conn, &prev, more, &mut ChangeDetail::default())
            .await
            .unwrap()
            .notify_suppressed,
        "it is one commit"
    );
    let drained =
        drain(&mut bed.conn, &prev, suppress, &mut ChangeDetail::default()).await.unwrap();
    assert!(drained.notify_suppressed && drained.tags == ["t", "t:id=1"], "{drained:?}");
    prev = drained.snapshot;
    bed.server.psql("insert into t values (2)").await.unwrap();
    bed.server.psql("notify tidegate, 'mine'").await.unwrap();
    let next = tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    assert_eq!(next.payload(), "mine", "the commit woke nobody");
    resume_notify(&mut bed.conn).await.unwrap();
    let next = tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    let ours = identity(&mut bed.conn).await.unwrap().process.cast_unsigned();
    assert_eq!(next.process_id(), ours, "who was kept from it is woken");
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=2"]);
    bed.server.psql("insert into t values (3)").await.unwrap();
    let next = tokio::time::timeout(SOON, listener.recv()).await.unwrap().unwrap();
    assert_ne!(next.process_id(), ours);
}

#[tokio::test]
async fn notifications_are_not_relied_on_where_a_role_or_the_server_disables_them() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    bed.server.psql("create role app; alter role app set tidegate.notify = off").await.unwrap();
    assert!(!bed.drain(&mut prev).await.wakeups);
    bed.server.psql("alter role app reset tidegate.notify").await.unwrap();
    assert!(bed.drain(&mut prev).await.wakeups);
    bed.server.psql("alter table tidegate.log disable trigger wake").await.unwrap();
    assert!(!bed.drain(&mut prev).await.wakeups);
}

#[tokio::test]
async fn a_promotion_begins_an_epoch_and_the_granted_rights_suffice_to_follow_the_log() {
    let mut bed = Bed::new().await;
    bed.server.psql("create role ear login").await.unwrap();
    Triggers::grant(&mut bed.conn, "ear").await.unwrap();
    let url = bed.server.url().replace("postgres@", "ear@");
    let mut ear = PgConnection::connect(&url).await.unwrap();
    begin_history(&mut ear).await.unwrap();
    let before = load(&mut ear, 7).await.unwrap();
    drain(&mut ear, &before.snapshot, DrainMode::default(), &mut ChangeDetail::default())
        .await
        .unwrap();
    mark(&mut ear, Duration::ZERO, Some(7)).await.unwrap();
    trim(&mut ear, Duration::ZERO, 1000).await.unwrap();
    let mut listener = PgListener::connect(&url).await.unwrap();
    Fingerprint::default().read(&mut listener).await.unwrap();
    announce(&mut ear).await.unwrap();
    let primary = identity(&mut ear).await.unwrap();
    let standby = bed.server.standby().await.unwrap();
    let mut conn = PgConnection::connect(&standby.url()).await.unwrap();
    let follower = identity(&mut conn).await.unwrap();
    assert!(follower.standby && !primary.standby);
    assert_eq!(follower.system_identifier, primary.system_identifier);
    assert_eq!((primary.timeline, follower.timeline), (Some(1), Some(1)));
    let unprivileged = standby.url().replace("postgres@", "ear@");
    let mut unprivileged = PgConnection::connect(&unprivileged).await.unwrap();
    let said = identity(&mut unprivileged).await.unwrap();
    assert!(said.standby && said.history == primary.history && said.history > 0);
    standby.promote().await.unwrap();
    assert_eq!(identity(&mut conn).await.unwrap().timeline, Some(2));
    assert_ne!(load(&mut conn, 7).await.unwrap().epoch, before.epoch);
}

#[tokio::test]
async fn a_crash_recovery_begins_a_new_history_and_a_restart_does_not() {
    let mut bed = Bed::new().await;
    let history = async |bed: &Bed| {
        let (mut one, mut other) = (bed.session().await, bed.session().await);
        let before = identity(&mut one).await.unwrap().history;
        let (first, second) = tokio::join!(begin_history(&mut one), begin_history(&mut other));
        first.and(second).unwrap();
        (before, identity(&mut one).await.unwrap().history)
    };
    let (first, same) = history(&bed).await;
    assert!(first > 0 && same == first);
    bed.server.restart().await.unwrap();
    assert_eq!(history(&bed).await, (first, first));
    let before = load(&mut bed.session().await, 7).await.unwrap();
    bed.server.kill().await.unwrap();
    bed.server.restart().await.unwrap();
    let (none, second) = history(&bed).await;
    assert!(
        none == 0 && second != first,
        "a position in between is of no epoch that anybody follows"
    );
    let after = drain(
        &mut bed.session().await,
        &before.snapshot,
        DrainMode::default(),
        &mut ChangeDetail::default(),
    )
    .await;
    assert_ne!(after.unwrap().epoch, before.epoch);
    assert_eq!(history(&bed).await, (second, second));
    let standby = bed.server.standby().await.unwrap();
    bed.server.kill().await.unwrap();
    standby.promote().await.unwrap();
    bed.server = standby;
    let (none, third) = history(&bed).await;
    assert!(none == 0 && third != second);
    // As on Aurora, where unlogged tables outlive a crash.
    let aurora =
        "set allow_system_table_mods = on; create function pg_catalog.aurora_version() returns text
        language sql as 'select null'";
    bed.server.psql(aurora).await.unwrap();
    assert_eq!(history(&bed).await, (third, third));
    bed.server
        .psql("update tidegate.uninterrupted set started = started - interval '1 day'")
        .await
        .unwrap();
    let (last, fourth) = history(&bed).await;
    assert!(last == third && fourth != third);
    assert_eq!(history(&bed).await, (fourth, fourth));
}

#[tokio::test]
async fn a_role_that_may_not_read_the_history_sees_none_until_it_is_granted() {
    let mut bed = Bed::new().await;
    bed.server
        .psql("revoke select on sequence tidegate.history from public; create role ear login")
        .await
        .unwrap();
    let mut reader =
        PgConnection::connect(&bed.server.url().replace("postgres@", "ear@")).await.unwrap();
    assert_eq!(identity(&mut reader).await.unwrap().history, 0);
    Triggers::grant(&mut bed.conn, "ear").await.unwrap();
    assert!(identity(&mut reader).await.unwrap().history > 0);
    load(&mut reader, 7).await.unwrap();
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

/// Where event triggers do not note changes of the schema, or only the fingerprint shows one.
#[tokio::test]
async fn an_idle_database_is_marked_again_once_every_node_knows_its_schema() {
    let mut bed = Bed::new().await;
    let drop = "drop event trigger tidegate_ddl; drop event trigger tidegate_drop";
    bed.server.psql(drop).await.unwrap();
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    assert!(!mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap(), "nothing has changed");
    assert!(bed.load(7).await.is_settling);
    let later = "update tidegate.marks set at = at - interval '15 s', xid = pg_current_xact_id()";
    bed.server.psql(later).await.unwrap();
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap(), "one that counts");
    assert!(!mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    let after = announce(&mut bed.conn).await.unwrap();
    let loaded = bed.load(7).await;
    assert!(!loaded.is_settling && loaded.floor < after, "{loaded:?}");
}

#[test]
fn the_sql_of_marks_waits_for_as_long_as_nodes_may_take_to_notice_a_schema() {
    let seconds = FINGERPRINT_KNOWN_WITHIN.as_secs();
    assert!(include_str!("../sql/marks.sql").contains(&format!("+ interval '{seconds} s'")));
}

/// A node stores results that it has read by the schema that it knows. If a drain's last position counted although the schema
/// had changed after the drain's snapshot, a node that knows of the change would take such a result for newer than it.
#[tokio::test]
async fn a_schema_change_after_the_snapshot_of_a_drain_leaves_the_drain_unsettled() {
    let mut bed = Bed::new().await;
    run(
        &mut bed.conn,
        "create or replace function tidegate.named(relation oid, keys text[], since pg_snapshot) returns text[]
         language plpgsql volatile as $$ begin
             perform pg_advisory_xact_lock_shared(1);
             return array['t'];
         end $$",
    )
    .await;
    let mut prev = bed.now().await;
    let began = prev.clone();
    let mut other = bed.session().await;
    run(&mut other, "insert into t values (1); select pg_advisory_lock(1)").await;
    let change = async {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        until(async || bed.server.psql(waits).await.unwrap() == "1").await;
        // Not in one message, which would be one transaction that unlocks before it commits.
        run(&mut other, "create table late (id int)").await;
        run(&mut other, "select pg_advisory_unlock(1)").await;
    };
    let mut detail = ChangeDetail::default();
    let drain = drain(&mut bed.conn, &prev, DrainMode::default(), &mut detail);
    let (drained, ()) = tokio::join!(drain, change);
    let drained = drained.unwrap();
    assert_eq!(drained.tags, ["t"]);
    assert!(!drained.schema_changed && drained.unsettled);
    prev = drained.snapshot;
    let next = bed.drain(&mut prev).await;
    assert!(next.schema_changed && !next.unsettled);
    assert!(!announce_since(&mut bed.conn, &began).await.unwrap().1);
    assert!(announce_since(&mut bed.conn, &prev).await.unwrap().1);
}

async fn until(condition: impl AsyncFn() -> bool) {
    for _ in 0..1000 {
        if condition().await {
            return;
        }
    }
    panic!("it did not come about");
}
