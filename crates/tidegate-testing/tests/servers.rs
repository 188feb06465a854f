//! The servers that other tests rely on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use tidegate_testing::{Postgres, eventually};

#[tokio::test]
async fn a_standby_pauses_replay_and_accepts_writes_once_promoted() {
    let primary = Postgres::start().await.unwrap();
    primary.psql("create table t (id int)").await.unwrap();
    let standby = primary.standby().await.unwrap();
    assert_eq!(standby.psql("select pg_is_in_recovery()").await.unwrap(), "t");
    let rows = async || standby.psql("select count(*) from t").await.unwrap();
    primary.psql("insert into t values (0)").await.unwrap();
    eventually("it follows", async || rows().await == "1").await.unwrap();
    standby.pause_replay().await.unwrap();
    primary.psql("insert into t values (1)").await.unwrap();
    let end = primary.psql("select pg_current_wal_flush_lsn()").await.unwrap();
    let received = format!("select pg_last_wal_receive_lsn() >= '{end}'");
    let has_it = async || standby.psql(&received).await.unwrap() == "t";
    eventually("it has received the row", has_it).await.unwrap();
    assert_eq!(rows().await, "1");
    standby.promote().await.unwrap();
    standby.psql("insert into t values (2)").await.unwrap();
}

#[tokio::test]
async fn a_killed_server_restarts_on_its_port_with_its_data_and_settings() {
    let mut server = Postgres::start_with(&[("work_mem", "5MB")]).await.unwrap();
    server.psql("create table t (id int)").await.unwrap();
    let url = server.url();
    server.kill().await.unwrap();
    assert!(server.psql("select 1").await.is_err());
    server.restart().await.unwrap();
    assert_eq!(server.psql_at(&url, "table t; show work_mem").await.unwrap(), "5MB");
    server.restart().await.unwrap();
    let other = server.create_database("a \"b\"").await;
    assert!(other.is_ok());
    let error = server.psql("select 1; select nonsense; select 2").await.unwrap_err();
    assert!(error.to_string().contains("nonsense"), "{error}");
}

#[tokio::test]
async fn a_paused_server_responds_once_it_is_resumed() {
    let server = Postgres::start().await.unwrap();
    server.pause().unwrap();
    let mut reply = Box::pin(server.psql("select 42"));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), &mut reply).await;
    assert!(waited.is_err());
    server.resume().unwrap();
    assert_eq!(reply.await.unwrap(), "42");
    server.pause().unwrap();
}
