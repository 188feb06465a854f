//! The database is replaced by an older copy of itself.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::sleep;

use super::super::Run;
use super::super::cluster::{Cluster, Servers, epoch};
use super::caught_up;
use crate::Failure;

/// The database that nodes use, and the copy.
const NAME: &str = "postgres";
const COPY: &str = "copy";

/// Copies the database with `CREATE DATABASE copy TEMPLATE …`, and puts the copy back after some commits, which are lost.
/// The server is the same, so positions continue.
pub(super) async fn put_back(
    run: &Run,
    cluster: &Cluster,
    servers: &mut Servers,
    hold: Duration,
) -> Result<(), Failure> {
    let mut admin = PgConnection::connect(&servers.primary.url_of("template1")).await?;
    let closed = cluster.gate.write().await;
    let copied = copy(&mut admin).await;
    drop(closed);
    copied?;
    sleep(hold).await;
    let _closed = cluster.gate.write().await;
    close(&mut admin).await?;
    run_sql(&mut admin, &format!("drop database {NAME} with (force)")).await?;
    let survived = "select version from rows order by id";
    let survived = servers.primary.psql_at(&servers.primary.url_of(COPY), survived).await?;
    let survived: Vec<u64> = survived.lines().map(str::parse).collect::<Result<_, _>>()?;
    // Before any node connects to it.
    run.history.fail_over(&survived, "none".into())?;
    run_sql(&mut admin, &format!("create database {NAME} template {COPY}")).await?;
    run_sql(&mut admin, &format!("drop database {COPY}")).await?;
    run.history.set_epoch(epoch(&servers.primary).await?);
    // Other faults query this database on the standbys.
    caught_up(servers).await
}

/// Copies the database while there are no connections to it, as Postgres requires.
async fn copy(admin: &mut PgConnection) -> Result<(), Failure> {
    close(admin).await?;
    let copied = run_sql(admin, &format!("create database {COPY} template {NAME}")).await;
    run_sql(admin, &format!("alter database {NAME} with allow_connections true")).await?;
    copied
}

/// Ends all connections to the database, and lets none begin. A replication slot that is in use, which no FORCE drops, is
/// free a moment after its connection has ended.
async fn close(admin: &mut PgConnection) -> Result<(), Failure> {
    run_sql(admin, &format!("alter database {NAME} with allow_connections false")).await?;
    let end =
        format!("select pg_terminate_backend(pid) from pg_stat_activity where datname = '{NAME}'");
    run_sql(admin, &end).await?;
    let left =
        format!("select count(*) from pg_replication_slots where database = '{NAME}' and active");
    while sqlx::query_scalar::<_, i64>(AssertSqlSafe(left.clone())).fetch_one(&mut *admin).await?
        > 0
    {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

async fn run_sql(admin: &mut PgConnection, sql: &str) -> Result<(), Failure> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(admin).await?;
    Ok(())
}
