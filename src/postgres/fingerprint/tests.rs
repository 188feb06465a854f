#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by it")]

use std::time::Duration;

use sqlx::{Connection, PgConnection};

use super::*;
use crate::postgres::{Triggers, log};
use tidegate_testing::Postgres;

const SETUP: &str = "create table t (id int primary key, v int);
    create table other (id int);
    create table parts (id int, k int) partition by list (k);
    create table part1 partition of parts for values in (1);
    create view kept as select id from t;
    create type mood as enum ('sad');
    create type pair as (x int, y int);
    create type range as range (subtype = int);
    create domain whole as int;
    create schema away;
    create text search configuration mine (copy = english);
    create text search dictionary plain (template = simple);
    create sequence numbers;
    create role visitor login;
    grant select on t to visitor;
    create role unknown_here login;";

struct Bed {
    server: Postgres,
    listener: PgListener,
    fingerprint: Fingerprint,
}

impl Bed {
    /// Without event triggers, if they are not to note anything.
    async fn new(noted: bool) -> Self {
        let server = Postgres::start().await.unwrap();
        server.psql(SETUP).await.unwrap();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        Triggers::new().table("t").install(&mut conn).await.unwrap();
        if !noted {
            server.psql("drop function tidegate.note_ddl cascade").await.unwrap();
        }
        let listener = PgListener::connect(&server.url()).await.unwrap();
        Self { server, listener, fingerprint: Fingerprint::default() }
    }

    async fn now(&mut self) -> i64 {
        (self.fingerprint.rests, self.fingerprint.settings_rest) = (None, None);
        self.fingerprint.read(&mut self.listener).await.unwrap()
    }

    async fn psql(&self, sql: &str) {
        self.server.psql(sql).await.unwrap();
    }
}

#[tokio::test]
async fn the_fingerprint_changes_with_the_catalog_and_not_with_the_data() {
    let mut bed = Bed::new(false).await;
    let mut last = bed.now().await;
    for quiet in [
        "insert into t values (1); truncate t; analyze; vacuum full t; vacuum freeze; vacuum full pg_attribute",
        "create temp table scratch (id int); create index on t (v); reindex table t; cluster t using t_pkey",
        "grant select on t to unknown_here; revoke all on t from unknown_here; comment on table t is 'x'",
        "select nextval('numbers')",
    ] {
        for statement in quiet.split(';') {
            bed.psql(statement).await;
        }
        assert_eq!(bed.now().await, last, "{quiet}");
    }
    for change in [
        "alter table t add column w int",
        "alter table t rename column w to x",
        "alter table t disable trigger tidegate_insert",
        "alter table t enable always trigger tidegate_insert",
        "alter table t set unlogged",
        "alter table t alter v set default 3",
        "create view seen as select id from t",
        "create or replace view seen as select id from t where v = 1",
        "alter view seen rename column id to nr",
        "alter view seen rename to shown",
        "create function f() returns int language sql as 'select 1'",
        "create or replace function f() returns int language sql as 'select 2'",
        "create aggregate most (int) (sfunc = int4larger, stype = int)",
        "create operator ## (function = int4pl, leftarg = int, rightarg = int)",
        "create cast (pair as text) with inout",
        "create table kid () inherits (t)",
        "create policy p on t using (true)",
        "alter policy p on t using (false)",
        "alter table t enable row level security",
        "alter type mood rename value 'sad' to 'blue'",
        "alter type mood add value 'glad'",
        "alter type pair rename attribute x to z",
        "alter type pair drop attribute y",
        "alter type pair rename to couple",
        "alter type range set schema away",
        "alter domain whole set default 3",
        "alter text search configuration mine alter mapping for asciiword with simple",
        "alter text search configuration english alter mapping for asciiword with simple",
        "alter text search dictionary plain (stopwords = english)",
        "create collation mine from \"C\"",
        "create default conversion mine for 'LATIN1' to 'UTF8' from iso8859_1_to_utf8",
        "create sequence away.t",
        "alter table parts detach partition part1",
        "alter role visitor set datestyle = 'German'",
        "alter database postgres set timezone = 'UTC'",
        // As SECURITY LABEL does, for which an extension is needed.
        "set allow_system_table_mods = on;
         insert into pg_seclabel values ('t'::regclass, 'pg_class'::regclass, 2, 'x', 'masked')",
        "alter schema public rename to private",
    ] {
        bed.psql(change).await;
        let now = bed.now().await;
        assert_ne!(now, last, "{change}");
        last = now;
    }
}

/// A renamed view has new rows for its type and its array type, whose oids are alike, as the transactions' numbers may be.
#[tokio::test]
async fn two_rows_that_one_transaction_rewrites_do_not_cancel_each_other_out() {
    let mut bed = Bed::new(false).await;
    for between in 0..8 {
        bed.psql(&format!("create view view{between} as select id from t")).await;
        for _ in 0..between {
            bed.psql("select pg_current_xact_id()").await;
        }
        let before = bed.now().await;
        bed.psql(&format!("alter view view{between} rename to renamed{between}")).await;
        assert_ne!(bed.now().await, before, "{between} transactions later");
    }
}

/// An oid is unsigned: half of them are past the largest number of the type of the same size.
#[tokio::test]
async fn a_catalog_with_oids_past_two_billion_has_a_fingerprint() {
    for noted in [false, true] {
        let mut bed = Bed::new(noted).await;
        // The binaries of other versions come without it.
        if let Err(error) = bed.server.restart_at_oid(4_294_000_000).await {
            assert!(error.to_string().contains("wrong version"), "{error}");
            eprintln!("not tried: {error}");
            return;
        }
        bed.listener = PgListener::connect(&bed.server.url()).await.unwrap();
        let mut last = bed.now().await;
        for change in [
            "create table far (id int primary key, v int)",
            "create view far_kept as select id from far",
            "create sequence far_numbers",
            "create policy p on far using (true)",
            "create text search configuration far (copy = english)",
            "create subscription far connection 'dbname=nowhere' publication p with (connect = false);
                set allow_system_table_mods = on; insert into pg_subscription_rel (srsubid, srrelid, srsubstate)
                select s.oid, 't'::regclass, 'r' from pg_subscription s",
        ] {
            bed.psql(change).await;
            let now = bed.now().await;
            assert!(now != last || noted, "{change}");
            last = now;
        }
        let oids = "select min(oid::int8) > 2147483647 from pg_class where relname like 'far%'";
        assert_eq!(bed.server.psql(oids).await.unwrap(), "t");
    }
}

#[tokio::test]
async fn a_change_that_is_reverted_still_changes_the_fingerprint() {
    let mut bed = Bed::new(false).await;
    for (there, back) in [
        ("alter table t rename to x", "alter table x rename to t"),
        ("alter table t rename v to x", "alter table t rename x to v"),
        ("alter table t set schema away", "alter table away.t set schema public"),
        ("alter schema away rename to x", "alter schema x rename to away"),
        ("alter view kept rename to x", "alter view x rename to kept"),
        ("alter type mood rename value 'sad' to 'x'", "alter type mood rename value 'x' to 'sad'"),
        ("alter type pair rename attribute x to z", "alter type pair rename attribute z to x"),
        (
            "alter table t disable trigger tidegate_insert",
            "alter table t enable always trigger tidegate_insert",
        ),
        ("alter table other inherit t", "alter table other no inherit t"),
        ("alter role visitor set datestyle = 'German'", "alter role visitor set datestyle = 'ISO'"),
    ] {
        if there.contains("other inherit") {
            bed.psql("alter table other add v int, alter id set not null").await;
        }
        let before = bed.now().await;
        bed.psql(there).await;
        bed.psql(back).await;
        assert_ne!(bed.now().await, before, "{there}");
    }
}

#[tokio::test]
async fn with_event_triggers_the_fingerprint_covers_only_unrecorded_changes() {
    let mut bed = Bed::new(true).await;
    let mut last = bed.now().await;
    for quiet in [
        "alter table t add column w int",
        "grant select on t to unknown_here",
        // A warning says that nothing was granted.
        "set role unknown_here; grant usage on schema public to visitor",
    ] {
        bed.psql(quiet).await;
        assert_eq!(bed.now().await, last, "{quiet}");
    }
    let mut pending = PgConnection::connect(&bed.server.url()).await.unwrap();
    sqlx::raw_sql("begin isolation level repeatable read; select from parts")
        .execute(&mut pending)
        .await
        .unwrap();
    let detach =
        "set statement_timeout = '100ms'; alter table parts detach partition part1 concurrently";
    bed.server.psql(detach).await.unwrap_err();
    assert_ne!(bed.now().await, last, "a partition that is being detached");
    last = bed.now().await;
    for change in [
        "alter role visitor set datestyle = 'German'",
        "alter role all set datestyle = 'ISO'",
        "grant usage on schema away to visitor",
        "revoke usage on schema away from visitor",
        "alter event trigger tidegate_ddl disable; alter event trigger tidegate_ddl enable always",
        "alter event trigger tidegate_drop enable",
        "alter table t add column x int",
    ] {
        bed.psql(change).await;
        let now = bed.now().await;
        assert_ne!(now, last, "{change}");
        last = now;
    }
}

/// A view is read with the rights of its owner, and a role that inherits nothing can become another.
#[tokio::test]
async fn the_fingerprint_covers_the_settings_of_each_role_that_can_read_tracked_tables() {
    for noted in [false, true] {
        let mut bed = Bed::new(noted).await;
        bed.psql(ROLES).await;
        let mut last = bed.now().await;
        for role in ["of_view", "of_column", "becomes", "becomes_in_turn", "reads_all"] {
            bed.psql(&format!("alter role {role} set search_path = away")).await;
            let now = bed.now().await;
            assert_ne!(now, last, "{noted}: {role}");
            last = now;
        }
        let url = bed.server.url().replace("postgres@", "unknown_here@");
        let mut stranger = PgConnection::connect(&url).await.unwrap();
        for sql in [
            "alter role unknown_here set search_path = away",
            "create temp table own (id int); create temp view over_own as select id from own",
            "create temp view over_kept as select id from kept",
            "alter role unknown_here set search_path = public",
        ] {
            sqlx::raw_sql(sql).execute(&mut stranger).await.unwrap();
            assert_eq!(bed.now().await, last, "{noted}: {sql}");
        }
        bed.psql("alter role member set search_path = away").await;
        assert_eq!(bed.now().await, last, "{noted}: it can read nothing");
    }
}

/// Many tenants, each with a role that has a `search_path` of its own.
#[tokio::test]
async fn rights_are_not_checked_for_each_pair_of_a_role_and_a_relation() {
    const ROLES_AND_VIEWS: &str = "do $$ begin for i in 1..200 loop
            execute format('create role tenant%s; alter role tenant%s set search_path = away', i, i);
            execute format('create view view%s as select id from t', i);
            execute format('grant select (id) on view%s to tenant%s', i, i);
        end loop; end $$";
    let mut bed = Bed::new(true).await;
    bed.psql(ROLES_AND_VIEWS).await;
    log::prepare(&mut bed.listener).await.unwrap();
    let query = include_str!("../sql/fingerprint.sql").replace("$1", "null");
    let explain = format!("explain (analyze, format json) {query}");
    let row =
        sqlx::raw_sql(sqlx::AssertSqlSafe(explain)).fetch_one(&mut bed.listener).await.unwrap();
    let plan: String = row.try_get_unchecked(0).unwrap();
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    let most = most_rows(&plan[0]["Plan"]);
    assert!(most < 5_000.0, "a step of the plan has {most} rows: {plan:#}");
}

/// The largest number of rows that a step of a plan returns or removes, in all its runs.
fn most_rows(plan: &serde_json::Value) -> f64 {
    let number = |key: &str| plan[key].as_f64().unwrap_or_default();
    let removed = number("Rows Removed by Filter").max(number("Rows Removed by Join Filter"));
    let own = (number("Actual Rows") + removed) * number("Actual Loops");
    let parts = plan["Plans"].as_array().into_iter().flatten();
    parts.map(most_rows).fold(own, f64::max)
}

/// Another session may lock the catalogue, or it may be large.
#[tokio::test]
async fn a_fingerprint_that_the_server_cancels_is_read_with_more_time() {
    let mut bed = Bed::new(true).await;
    let known = bed.now().await;
    bed.fingerprint.settings_rest = None;
    bed.psql("insert into t values (1)").await;
    limit_statements(&mut bed.listener, Duration::from_millis(50)).await.unwrap();
    let mut holder = PgConnection::connect(&bed.server.url()).await.unwrap();
    let hold = "begin; lock table pg_event_trigger in access exclusive mode";
    sqlx::raw_sql(hold).execute(&mut holder).await.unwrap();
    let Bed { server, mut listener, mut fingerprint } = bed;
    let read = tokio::spawn(async move {
        let number = fingerprint.read(&mut listener).await;
        (number, listener)
    });
    let cancelled = "canceling statement due to statement timeout";
    let waiting = "select count(*) from pg_locks where not granted";
    tidegate_testing::eventually("it is read again, or abandoned", async || {
        let is_waiting = server.psql(waiting).await.unwrap() == "1";
        read.is_finished() || server.log().contains(cancelled) && is_waiting
    })
    .await
    .unwrap();
    sqlx::raw_sql("rollback").execute(&mut holder).await.unwrap();
    let (number, mut listener) = read.await.unwrap();
    assert_eq!(number.unwrap(), known);
    let limit: String =
        sqlx::query_scalar("show statement_timeout").fetch_one(&mut listener).await.unwrap();
    assert_eq!(limit, format!("{}s", STATEMENT_TIMEOUT.as_secs()), "as before");
}

const ROLES: &str = "create role reader; grant select on t to reader;
    create role of_view login; grant select on kept to of_view;
    create role of_column login; grant select (v) on t to of_column;
    create role becomes login noinherit; grant reader to becomes;
    create role between noinherit; grant reader to between;
    create role becomes_in_turn login noinherit; grant between to becomes_in_turn;
    create role reads_all login noinherit; grant pg_read_all_data to reads_all;
    create role harmless; create role member login; grant harmless to member;
    create view of_no_table as select 1 as one; grant select on of_no_table to public";

#[tokio::test]
async fn the_catalog_of_an_idle_server_is_not_read_again() {
    let mut bed = Bed::new(false).await;
    let number = bed.now().await;
    let (snapshot, _) = bed.fingerprint.last.clone().unwrap();
    // What was remembered is returned for as long as the snapshot is the same.
    bed.fingerprint.last = Some((snapshot, number ^ 1));
    assert_eq!(bed.now().await, number ^ 1);
    bed.psql("create table another ()").await;
    let changed = bed.now().await;
    bed.fingerprint = Fingerprint::default();
    assert!(bed.now().await == changed && changed != number);
}

#[tokio::test]
async fn a_recorded_schema_change_raises_the_floor_of_a_starting_node() {
    let bed = Bed::new(true).await;
    let mut conn = PgConnection::connect(&bed.server.url()).await.unwrap();
    log::begin_history(&mut conn).await.unwrap();
    assert!(log::mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap());
    let before = log::announce(&mut conn).await.unwrap();
    let loaded = log::load(&mut conn, 7).await.unwrap();
    assert!(loaded.floor < before);
    bed.psql("create table later ()").await;
    let changed = log::load(&mut conn, 7).await.unwrap();
    assert!(changed.floor == changed.seen && changed.seen > before, "no mark has seen it");
    let mode = log::DrainMode::default();
    assert!(
        log::drain(&mut conn, &loaded.snapshot, mode, &mut log::ChangeDetail::default())
            .await
            .unwrap()
            .schema_changed
    );
    assert!(
        !log::drain(&mut conn, &changed.snapshot, mode, &mut log::ChangeDetail::default())
            .await
            .unwrap()
            .schema_changed
    );
    assert!(
        log::mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap(),
        "though the log is empty"
    );
    let after = log::announce(&mut conn).await.unwrap();
    let marked = log::load(&mut conn, 7).await.unwrap();
    assert!(before < marked.floor && marked.floor < after, "it starts warm");
    assert!(!log::mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap());
    // Of another cluster, in a dump.
    bed.psql("insert into tidegate.ddl values ('9000000')").await;
    assert_eq!(log::load(&mut conn, 7).await.unwrap().floor, marked.floor);
    log::trim(&mut conn, Duration::ZERO, 1000).await.unwrap();
    assert_eq!(bed.server.psql("select count(*) from tidegate.ddl").await.unwrap(), "0");
}

/// Others raise their floor again when each must know of a change. Whoever has not looked for so long must not take what it
/// sees of the log for newer than that.
#[tokio::test(start_paused = true)]
async fn a_fingerprint_read_long_ago_is_not_current() {
    assert!(!Fingerprint::default().is_current(), "never read");
    let read = Fingerprint { read: Some(clock::moment()), ..Fingerprint::default() };
    let until = FINGERPRINT_KNOWN_WITHIN.saturating_sub(MARGIN);
    tokio::time::advance(until.saturating_sub(Duration::from_millis(1))).await;
    assert!(read.is_current());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!read.is_current());
}
