//! Logs and transactions that are larger than the budget of one statement.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use sqlx::{Connection, PgConnection};
use tidegate_testing::Postgres;

use super::super::*;
use super::{Bed, run};
use crate::postgres::Triggers;

/// The log rows of a statement of 100 rows, `rows` times in one transaction.
async fn note(bed: &Bed, rows: u32) {
    let note = format!(
        "insert into tidegate.log (relation, tags) select 't'::regclass, array(
             select '' union all select '1/1=' || s * 100 + r from generate_series(1, 100) r)
         from generate_series(1, {rows}) s"
    );
    bed.server.psql(&note).await.unwrap();
}

/// From now on the server cancels statements that do not fit into memory.
async fn starve(bed: &mut Bed) {
    run(&mut bed.conn, "set work_mem = '64kB'; set temp_file_limit = 0").await;
}

#[tokio::test]
async fn changes_of_a_large_transaction_are_reported_once_by_table() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    note(&bed, 10_000).await;
    bed.server.psql("select tidegate.invalidate('{page}')").await.unwrap();
    let mut detail = ChangeDetail::default();
    let drained = drain(&mut bed.conn, &prev, DrainMode::default(), &mut detail).await.unwrap();
    assert_eq!(drained.tags, ["page", "page!", "t", "t!"]);
    assert!(!drained.is_all() && detail == ChangeDetail::Rows, "{drained:?}");
    prev = drained.snapshot;
    bed.server.psql("insert into t values (7)").await.unwrap();
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=7"]);
}

#[tokio::test]
async fn application_tags_past_the_budget_raise_the_floor_once() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    let many =
        "select tidegate.invalidate(array(select 'page' || g from generate_series(1, 60000) g))";
    bed.server.psql(many).await.unwrap();
    let drained = bed.drain(&mut prev).await;
    assert!(drained.overflowed && drained.tags.is_empty() && drained.seen > drained.fence);
    assert!(!bed.drain(&mut prev).await.is_all(), "once");
}

#[tokio::test]
async fn a_drain_that_the_server_cancelled_is_not_retried_in_the_same_detail() {
    let mut bed = Bed::new().await;
    let prev = bed.now().await;
    note(&bed, 450).await;
    starve(&mut bed).await;
    let mut detail = ChangeDetail::default();
    let drained = drain(&mut bed.conn, &prev, DrainMode::default(), &mut detail).await.unwrap();
    assert_eq!(drained.tags, ["t", "t!"]);
    // On a connection that is lost in the midst of it, the next goes on from there.
    let mut detail = ChangeDetail::Nothing;
    let drained = drain(&mut bed.conn, &prev, DrainMode::default(), &mut detail).await.unwrap();
    assert!(drained.overflowed && drained.tags.is_empty(), "{drained:?}");
    let mut detail = ChangeDetail::default();
    run(&mut bed.conn, "set statement_timeout = '200ms'").await;
    let mut lock = bed.session().await;
    run(&mut lock, "begin; lock table tidegate.log in access exclusive mode").await;
    assert!(drain(&mut bed.conn, &prev, DrainMode::default(), &mut detail).await.is_err());
    assert_eq!(detail, ChangeDetail::Nothing);
}

#[tokio::test]
async fn the_log_connection_has_a_statement_timeout_on_the_server() {
    let mut bed = Bed::new().await;
    let end = "select setting::int from pg_settings where name = 'statement_timeout'";
    let most: i32 = sqlx::query_scalar(end).fetch_one(&mut bed.conn).await.unwrap();
    assert_eq!(u128::try_from(most).unwrap(), STATEMENT_TIMEOUT.as_millis());
}

/// Rows that a look of `bed.conn` reads of the log.
async fn rows_read(bed: &mut Bed, prev: &Snapshot, marking: bool) -> i64 {
    run(&mut bed.conn, "begin").await;
    match marking {
        true => drop(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap()),
        false => assert!(bed.drain(&mut prev.clone()).await.tags.is_empty()),
    }
    let read = "select coalesce(idx_tup_fetch, 0) + coalesce(seq_tup_read, 0)
        from pg_stat_xact_all_tables where relid = 'tidegate.log'::regclass";
    let read = sqlx::query_scalar(read).fetch_one(&mut bed.conn).await.unwrap();
    run(&mut bed.conn, "rollback").await;
    read
}

#[tokio::test]
async fn no_row_is_read_twice_while_a_transaction_stays_open() {
    let mut bed = Bed::new().await;
    let mut open = bed.session().await;
    run(&mut open, "begin; insert into other values (1)").await;
    note(&bed, 900).await;
    let mut prev = bed.now().await;
    bed.drain(&mut prev).await;
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    assert_eq!(rows_read(&mut bed, &prev, false).await, 0);
    assert_eq!(rows_read(&mut bed, &prev, true).await, 0);
    // A node that starts may trust a mark that was written beside it.
    assert!(bed.load(7).await.fences.is_empty());
    run(&mut open, "insert into t values (1); commit").await;
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=1"]);
    assert_eq!(bed.load(7).await.fences.len(), 2);
}

/// Entries of the log's index that a statement visits, visible or not: a drain, or `work`.
async fn entries_visited(bed: &mut Bed, prev: &Snapshot, work: Option<&'static str>) -> i64 {
    const VISITED: &str = "select pg_stat_get_xact_tuples_returned('tidegate.log_xid'::regclass)";
    run(&mut bed.conn, "begin").await;
    let before: i64 = sqlx::query_scalar(VISITED).fetch_one(&mut bed.conn).await.unwrap();
    match work {
        Some(work) => run(&mut bed.conn, work).await,
        None => assert!(bed.drain(&mut prev.clone()).await.tags.is_empty()),
    }
    let after: i64 = sqlx::query_scalar(VISITED).fetch_one(&mut bed.conn).await.unwrap();
    run(&mut bed.conn, "rollback").await;
    after - before
}

/// An index has entries for the rows of running transactions too, and each visit of such a row finds it invisible.
#[tokio::test]
async fn rows_of_a_running_transaction_are_not_visited_until_it_ends() {
    const WRITES: &str = "begin; insert into tidegate.log (relation, tags)
        select 't'::regclass, '{\"\"}' from generate_series(1, 900)";
    const MARKS: Option<&str> = Some("select tidegate.mark('0', 7)");
    const TRIMS: Option<&str> = Some("select tidegate.trim('0', 1000)");
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    let mut open = bed.session().await;
    run(&mut open, WRITES).await;
    // A later transaction ends, so the next snapshots list this one as running.
    bed.server.psql("insert into t values (1)").await.unwrap();
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=1"]);
    assert_eq!(entries_visited(&mut bed, &prev, None).await, 0, "a drain");
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    assert_eq!(entries_visited(&mut bed, &prev, MARKS).await, 0, "a mark");
    let trimmed = entries_visited(&mut bed, &prev, TRIMS).await;
    assert!(trimmed < 10, "trimming visited {trimmed}");
    let mut later = bed.session().await;
    run(&mut later, WRITES).await;
    bed.server.psql("insert into other values (1)").await.unwrap();
    assert_eq!(entries_visited(&mut bed, &prev, MARKS).await, 0, "beside one that began later");
    run(&mut open, "insert into t values (2); commit").await;
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=2"]);
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    run(&mut later, "insert into t values (3); commit").await;
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=3"]);
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    trim(&mut bed.conn, Duration::ZERO, 10_000).await.unwrap();
    assert_eq!(bed.server.psql("select count(*) from tidegate.log").await.unwrap(), "0");
}

#[tokio::test]
async fn a_node_starts_within_its_budget_however_long_the_log_is() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    let early = announce(&mut bed.conn).await.unwrap();
    note(&bed, 3000).await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    bed.server.psql("insert into t values (1)").await.unwrap();
    let loaded = bed.load(7).await;
    assert!(loaded.floor > early && loaded.floor < loaded.seen, "from the later mark on");
    assert_eq!(loaded.fences.len(), 2);
    note(&bed, 900).await;
    starve(&mut bed).await;
    let loaded = bed.load(7).await;
    assert!(loaded.fences.is_empty() && loaded.seen > loaded.floor);
    let mut prev = loaded.snapshot;
    bed.server.psql("insert into t values (2)").await.unwrap();
    assert_eq!(bed.drain(&mut prev).await.tags, ["t", "t:id=2"]);
}

/// In `SQL_ASCII` any byte is a character, and WIN1252 has one that Unicode lacks.
#[tokio::test]
async fn changes_that_utf_8_cannot_express_are_reported_in_less_detail() {
    for encoding in ["SQL_ASCII", "WIN1252"] {
        let server = Postgres::start().await.unwrap();
        let create = format!(
            "create database legacy encoding '{encoding}' lc_collate 'C' lc_ctype 'C' template template0"
        );
        server.psql(&create).await.unwrap();
        let url = server.url_of("legacy");
        let psql = async |sql| server.psql_at(&url, sql).await.unwrap();
        psql("create table t (id text primary key)").await;
        let mut conn = PgConnection::connect(&url).await.unwrap();
        Triggers::new().table("t").install(&mut conn).await.unwrap();
        prepare(&mut conn).await.unwrap();
        begin_history(&mut conn).await.unwrap();
        mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap();
        let mut prev = load(&mut conn, 7).await.unwrap().snapshot;
        let mut detail = ChangeDetail::default();
        let mut drained_tags = async |conn: &mut PgConnection| {
            let drained = drain(conn, &prev, DrainMode::default(), &mut detail).await.unwrap();
            prev = drained.snapshot;
            (drained.tags, drained.overflowed)
        };
        psql("insert into t values (E'\\x81')").await;
        assert_eq!(drained_tags(&mut conn).await, (vec!["t".to_owned(), "t!".to_owned()], false));
        psql("select tidegate.invalidate(array[E'\\x81'])").await;
        assert!(drained_tags(&mut conn).await.1, "an application's own tag is no table's");
        psql("insert into t values ('a')").await;
        assert_eq!(
            drained_tags(&mut conn).await,
            (vec!["t".to_owned(), "t:id=a".to_owned()], false)
        );
        let loaded = load(&mut conn, 7).await.unwrap();
        assert!(loaded.fences.is_empty() && loaded.floor < loaded.seen, "{loaded:?}");
    }
}

/// A session's advisory lock outlives the statement that takes it, though that fails when its row is written.
#[tokio::test]
async fn a_failed_drain_does_not_leave_notifications_suppressed() {
    let server = Postgres::start().await.unwrap();
    let create = "create database legacy encoding 'SQL_ASCII' template template0";
    server.psql(create).await.unwrap();
    let url = server.url_of("legacy");
    let psql = async |sql| server.psql_at(&url, sql).await.unwrap();
    psql("create table t (id text primary key)").await;
    let mut conn = PgConnection::connect(&url).await.unwrap();
    Triggers::new().table("t").install(&mut conn).await.unwrap();
    prepare(&mut conn).await.unwrap();
    begin_history(&mut conn).await.unwrap();
    let mut prev = load(&mut conn, 7).await.unwrap().snapshot;
    let mode = DrainMode { suppress_notify_from: Some(1), ..DrainMode::default() };
    let mut detail = ChangeDetail::default();
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    for (text, is_suppressed) in [(r"E'\x81'", false), ("'a'", true)] {
        server.psql_at(&url, &format!("insert into t values ({text})")).await.unwrap();
        let drained = drain(&mut conn, &prev, mode, &mut detail).await.unwrap();
        prev = drained.snapshot;
        assert_eq!(drained.notify_suppressed, is_suppressed, "{text}");
        assert_eq!(psql(locks).await, if is_suppressed { "1" } else { "0" }, "{text}");
    }
    resume_notify(&mut conn).await.unwrap();
    assert_eq!(psql(locks).await, "0", "it is taken once");
}
