//! Log rows that another server wrote, or this one at another time, must not count as this server's.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use sqlx::{Connection, PgConnection};

use super::super::*;
use crate::postgres::Triggers;
use crate::postgres::identity::identity;
use crate::postgres::sample::ServerPosition;
use tidegate_testing::{Postgres, eventually};

const SETUP: &str = "create table t (id int primary key, v int); create table barrier (id int);";

async fn installed(settings: &[(&str, &str)]) -> (Postgres, PgConnection) {
    let server = Postgres::start_with(settings).await.unwrap();
    server.psql(SETUP).await.unwrap();
    let mut conn = PgConnection::connect(&server.url()).await.unwrap();
    Triggers::new().table("t").install(&mut conn).await.unwrap();
    (server, conn)
}

/// A physical copy that then follows by logical replication of every table, as in a blue/green upgrade.
async fn blue_and_green() -> (Postgres, Postgres, PgConnection) {
    let (blue, _) = installed(&[("wal_level", "logical")]).await;
    blue.psql("create publication p for all tables").await.unwrap();
    let slot = "select pg_create_logical_replication_slot('s', 'pgoutput')";
    blue.psql(slot).await.unwrap();
    let green = blue.standby().await.unwrap();
    green.promote().await.unwrap();
    let subscribe = format!(
        "create subscription s connection 'host=127.0.0.1 port={} user=postgres dbname=postgres'
         publication p with (create_slot = false, slot_name = 's', copy_data = false)",
        blue.port()
    );
    green.psql(&subscribe).await.unwrap();
    let mut conn = PgConnection::connect(&green.url()).await.unwrap();
    prepare(&mut conn).await.unwrap();
    begin_history(&mut conn).await.unwrap();
    (blue, green, conn)
}

/// Waits until all is applied that was committed so far.
async fn applied(blue: &Postgres, green: &Postgres) {
    blue.psql("insert into barrier select count(*) from barrier").await.unwrap();
    let count = "select count(*) from barrier";
    let sent = blue.psql(count).await.unwrap();
    eventually("it is applied", async || green.psql(count).await.unwrap() == sent).await.unwrap();
}

#[tokio::test]
async fn a_replicated_mark_does_not_lower_the_fences_of_this_server() {
    let (blue, green, mut conn) = blue_and_green().await;
    // Ahead in positions and behind in transactions.
    let ahead = "select count(pg_logical_emit_message(false, '', repeat('x', 100000))) from generate_series(1, 100)";
    green.psql(ahead).await.unwrap();
    // What a fingerprint would say on both.
    let schema = 1;
    mark(&mut conn, Duration::ZERO, Some(schema)).await.unwrap();
    let before = announce(&mut conn).await.unwrap();
    green.psql("insert into t values (1)").await.unwrap();
    for _ in 0..50 {
        blue.psql("select pg_current_xact_id()").await.unwrap();
    }
    let theirs = format!("select tidegate.mark('0', {schema})");
    assert_eq!(blue.psql(&theirs).await.unwrap(), "t");
    applied(&blue, &green).await;
    let loaded = load(&mut conn, schema).await.unwrap();
    let fence =
        |name: &str| loaded.fences.iter().find(|(tag, _)| tag == name).map(|(_, fence)| *fence);
    assert!(fence("t:id=1").unwrap() >= before, "{before}: {loaded:?}");
}

#[tokio::test]
async fn replicated_writes_to_another_servers_log_do_not_change_this_log() {
    let (blue, green, mut conn) = blue_and_green().await;
    let count = async |server: &Postgres| -> Vec<u64> {
        let count =
            "select count(*) from tidegate.log union all select count(*) from tidegate.marks
            union all select count(*) from tidegate.ddl union all select max(version) from tidegate.meta";
        let counts = server.psql(count).await.unwrap();
        counts.lines().map(|count| count.parse().unwrap()).collect()
    };
    let before = count(&green).await;
    blue.psql("insert into t values (1), (2); insert into t values (3)").await.unwrap();
    blue.psql("select tidegate.mark('0', null)").await.unwrap();
    blue.psql("select tidegate.trim('0', 1000)").await.unwrap();
    blue.psql("delete from tidegate.meta; insert into tidegate.meta values (1000)").await.unwrap();
    blue.psql("create table only_there ()").await.unwrap();
    applied(&blue, &green).await;
    assert_eq!(count(&green).await, before);
    let loaded = load(&mut conn, 7).await.unwrap();
    green.psql("set session_replication_role = replica; insert into t values (4)").await.unwrap();
    green
        .psql("set session_replication_role = replica; select tidegate.invalidate('{page}')")
        .await
        .unwrap();
    let drained =
        drain(&mut conn, &loaded.snapshot, DrainMode::default(), &mut ChangeDetail::default())
            .await
            .unwrap();
    assert_eq!(drained.tags, ["page", "page!", "t", "t:id=4"], "what is written here counts");
}

/// A publication of all tables has those of the schema `tidegate` too.
#[tokio::test]
async fn the_log_can_be_trimmed_and_upgraded_while_all_tables_are_published() {
    let (server, mut conn) = installed(&[("wal_level", "logical")]).await;
    server.psql("create publication p for all tables").await.unwrap();
    server.psql("insert into t values (1)").await.unwrap();
    mark(&mut conn, Duration::ZERO, None).await.unwrap();
    trim(&mut conn, Duration::ZERO, 1000).await.unwrap();
    assert_eq!(server.psql("select count(*) from tidegate.log").await.unwrap(), "0");
    server.psql("update tidegate.meta set version = 1").await.unwrap();
    Triggers::new().table("t").install(&mut conn).await.unwrap();
    // As it is in a schema of before.
    server.psql("alter table tidegate.log replica identity default").await.unwrap();
    assert!(Triggers::status(&mut conn).await.unwrap().outdated);
    Triggers::new().install(&mut conn).await.unwrap();
    assert!(!Triggers::status(&mut conn).await.unwrap().outdated);
}

/// Such marks show what had been trimmed when they were written, not what was trimmed since.
#[tokio::test]
async fn marks_restored_from_a_dump_are_ignored() {
    let (server, mut conn) = installed(&[]).await;
    mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap();
    let dump = "create table dump as select * from tidegate.marks";
    server.psql(dump).await.unwrap();
    server.psql("insert into t values (1)").await.unwrap();
    mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap();
    trim(&mut conn, Duration::ZERO, 1000).await.unwrap();
    let floor = load(&mut conn, 7).await.unwrap().floor;
    server.psql("insert into tidegate.marks select * from dump").await.unwrap();
    assert_eq!(load(&mut conn, 7).await.unwrap().floor, floor);
    trim(&mut conn, Duration::from_hours(1), 1000).await.unwrap();
    assert_eq!(server.psql("select count(*) from tidegate.marks").await.unwrap(), "1");
}

#[tokio::test]
async fn a_mark_ahead_of_the_server_is_ignored() {
    let (server, mut conn) = installed(&[]).await;
    mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap();
    let floor = load(&mut conn, 7).await.unwrap().floor;
    for ahead in ["'3:3:', 'FF/0', 8", "'9000000:9000000:', '0/1', 7"] {
        let insert = format!("insert into tidegate.marks (snapshot, lsn, schema) values ({ahead})");
        server.psql(&insert).await.unwrap();
        assert_eq!(load(&mut conn, 7).await.unwrap().floor, floor, "{ahead}");
    }
}

/// `pg_restore --disable-triggers` switches all triggers on again as ordinary ones.
#[tokio::test]
async fn install_repairs_the_triggers_on_the_log_tables() {
    let (server, mut conn) = installed(&[]).await;
    for table in ["log", "marks", "meta"] {
        let restored = format!(
            "alter table tidegate.{table} disable trigger all; alter table tidegate.{table} enable trigger all"
        );
        server.psql(&restored).await.unwrap();
    }
    assert!(Triggers::status(&mut conn).await.unwrap().outdated);
    server.psql("insert into t values (1)").await.unwrap();
    mark(&mut conn, Duration::ZERO, None).await.unwrap();
    trim(&mut conn, Duration::ZERO, 1000).await.unwrap();
    assert_eq!(
        server.psql("select count(*) from tidegate.log").await.unwrap(),
        "0",
        "it is trimmed all the same"
    );
    Triggers::new().install(&mut conn).await.unwrap();
    let status = Triggers::status(&mut conn).await.unwrap();
    assert!(!status.outdated && status.no_wakeups.is_none(), "{status:?}");
}

/// Marks of the template's history don't count in the copy's history.
#[tokio::test]
async fn a_copied_database_begins_its_own_history_and_keeps_it() {
    let server = Postgres::start().await.unwrap();
    let url = server.create_database("template").await.unwrap();
    let mut conn = PgConnection::connect(&url).await.unwrap();
    Triggers::new().install(&mut conn).await.unwrap();
    mark(&mut conn, Duration::ZERO, Some(7)).await.unwrap();
    let template = identity(&mut conn).await.unwrap();
    conn.close().await.unwrap();
    server.psql("create database copy template template").await.unwrap();
    let mut conn = PgConnection::connect(&server.url_of("copy")).await.unwrap();
    assert_ne!(
        ServerPosition::from_identity(&identity(&mut conn).await.unwrap()).unwrap().epoch,
        ServerPosition::from_identity(&template).unwrap().epoch
    );
    for _ in 0..2 {
        begin_history(&mut conn).await.unwrap();
        let copy = identity(&mut conn).await.unwrap();
        assert!(copy.history != 0 && copy.history != template.history);
    }
    let loaded = load(&mut conn, 7).await.unwrap();
    assert_eq!(loaded.floor, loaded.seen, "the template's marks");
}
