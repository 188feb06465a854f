//! Installing beside running transactions: it waits for one table at a time, and holds nothing that others need.

use super::*;
use crate::common::eventually;

const TABLES: &str = "create table a (id int primary key); create table b (id int primary key);";

/// What sessions hold in a mode that keeps nodes or writers waiting.
const HELD: &str = "select coalesce(string_agg(distinct relation::regclass || ' ' || mode, ', '), '') from pg_locks
    where granted and mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
        and relation is distinct from to_regclass('tidegate.installation')::oid";

const WAITING: &str = "select count(*) from pg_locks where not granted";

async fn connected(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url()).await.unwrap()
}

async fn run(conn: &mut PgConnection, sql: &'static str) {
    sqlx::raw_sql(sql).execute(conn).await.unwrap();
}

async fn is_waiting(server: &Postgres) -> bool {
    server.psql(WAITING).await.unwrap() != "0"
}

/// Does its work beside a transaction that has written to `b`: waits for that one again and again, without holding anything
/// meanwhile, and ends once the transaction has.
async fn waits_without_holding(
    server: &Postgres,
    work: impl Future<Output = Result<(), SchemaError>> + Send + 'static,
) {
    let mut writer = connected(server).await;
    run(&mut writer, "begin; insert into b select count(*) from b").await;
    let work = tokio::spawn(work);
    for _ in 0..2 {
        eventually("it waits", async || is_waiting(server).await).await;
        assert_eq!(server.psql(HELD).await.unwrap(), "");
        // Later writers wait behind it.
        eventually("it makes way", async || !is_waiting(server).await).await;
        assert!(!work.is_finished());
    }
    run(&mut writer, "commit").await;
    work.await.unwrap().unwrap();
}

fn both() -> Triggers {
    Triggers::new().table("a").table("b")
}

#[tokio::test]
async fn an_install_that_waits_for_one_table_holds_no_lock_on_others() {
    let server = Postgres::start().await.unwrap();
    server.psql(TABLES).await.unwrap();
    let mut conn = connected(&server).await;
    waits_without_holding(&server, async move { both().install(&mut conn).await }).await;
    let mut conn = connected(&server).await;
    let status = Triggers::status(&mut conn).await.unwrap();
    assert!(["a", "b"].iter().all(|name| status.table(name).unwrap().is_sound()), "{status:?}");
    waits_without_holding(&server, async move { both().uninstall(&mut conn).await }).await;
}

/// As `pg_dump` reads, and as nodes do.
#[tokio::test]
async fn the_schema_is_upgraded_beside_sessions_that_read_its_tables() {
    let server = Postgres::start().await.unwrap();
    server.psql(TABLES).await.unwrap();
    let mut conn = connected(&server).await;
    both().install(&mut conn).await.unwrap();
    let migration: &'static str = both().migration().leak();
    let mut reader = connected(&server).await;
    run(&mut reader, "begin; select from tidegate.own_marks, tidegate.uninterrupted, tidegate.meta, tidegate.log").await;
    // It would wait for the reader.
    run(&mut conn, "set lock_timeout = '100ms'; begin").await;
    run(&mut conn, migration).await;
    let locks = "select coalesce(string_agg(relation::regclass || ' ' || mode, ', '), '') from pg_locks
        where pid = pg_backend_pid() and relation is not null
            and mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')";
    let held: String = sqlx::query_scalar(locks).fetch_one(&mut conn).await.unwrap();
    assert_eq!(held, "");
    run(&mut conn, "commit; update tidegate.meta set version = 9").await;
    both().install(&mut conn).await.unwrap();
}
