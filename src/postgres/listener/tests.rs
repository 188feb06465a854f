#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::atomic::Ordering;

use tidegate_testing::Postgres;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::pace::HEARTBEAT;
use super::relay_state::{PollingReport, report_while};
use super::*;
use crate::entry::Epoch;
use crate::postgres::log::Snapshot;
use crate::postgres::relay::message::{InvalidationBatch, SyncRequest, encode};
use crate::postgres::relay::tests::Mock;
use crate::postgres::{DatabaseOptions, Triggers};
use crate::store::Memory;

#[tokio::test(start_paused = true)]
async fn a_poll_that_takes_long_is_reported_to_the_other_nodes() {
    let bus = Arc::new(Mock { elects: true, ..Mock::default() });
    let relay = Relay::start(bus.clone(), "test");
    let published = Snapshot::new("5:5:".into());
    let report = || {
        let batch = InvalidationBatch::still_polling(Epoch::new(1), &published);
        Some(PollingReport { sender: relay.sender(), batch })
    };
    report_while(report(), std::future::ready(())).await;
    sleep(HEARTBEAT).await;
    assert_eq!(bus.published.load(Ordering::SeqCst), 0);
    report_while(report(), sleep(HEARTBEAT)).await;
    sleep(HEARTBEAT).await;
    assert_eq!(bus.published.load(Ordering::SeqCst), 2);
}

/// With a separate poll for each, they would wait for each other while more arrive.
#[tokio::test]
async fn all_pending_sync_requests_are_taken_together() {
    let server = Postgres::start().await.unwrap();
    let url = server.url();
    let mut setup = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    Triggers::new().install(&mut setup).await.unwrap();
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let mut conn = connect(&db).await.unwrap();
    let mut follower = Follower::new(db.clone(), Arc::new(Fences::new(64)));
    follower.catch_up(&mut conn).await.unwrap();
    let request =
        |nonce| encode(&SyncRequest { nonce, urgent: nonce == 7, joins: nonce == 8 }).into();
    let bus = Mock { elects: true, backlog: (0..9).map(request).collect(), ..Mock::default() };
    follower.relay = Some(Relay::start(Arc::new(bus), "test"));
    while follower.relay.as_ref().unwrap().elected() != RelayRole::Relay {
        yield_now().await;
    }
    for _ in 0..1000 {
        yield_now().await;
    }
    let mut taken = follower.take_sync_requests();
    taken.nonces.sort_unstable();
    assert_eq!((taken.nonces, taken.is_urgent, taken.joins), ((0..9).collect(), true, true));
    assert!(follower.relay.as_mut().unwrap().try_next().is_none());
}

/// The server refuses to trim the log, as with a read-only default or a lock that somebody holds.
#[tokio::test]
async fn a_log_that_cannot_be_trimmed_is_followed_on_the_same_connection() {
    let server = Postgres::start().await.unwrap();
    let mut setup = <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
    Triggers::new().install(&mut setup).await.unwrap();
    let refuse = "create sequence attempts;
        create or replace function tidegate.trim(retention interval, most int) returns bigint
            language plpgsql security definer as $$ begin
                perform nextval('public.attempts');
                raise exception 'refused';
            end $$";
    server.psql(refuse).await.unwrap();
    let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
    let mut conn = connect(&db).await.unwrap();
    let mut follower = Follower::new(db.clone(), Arc::new(Fences::new(64)));
    follower.catch_up(&mut conn).await.unwrap();
    follower.housekeeping.trim_now();
    let (process, counter) = (follower.process, follower.counter.subscribe());
    let task = tokio::spawn(follower.run(conn));
    let attempts = async || {
        let sql = "select case when is_called then last_value else 0 end from attempts";
        server.psql(sql).await.unwrap().parse::<u64>().unwrap()
    };
    while attempts().await < 2 {
        yield_now().await;
    }
    let (done, state) = (counter.borrow().done, || *counter.borrow());
    while state().done == done {
        yield_now().await;
    }
    assert!(state().opening == 0 && !state().is_lost, "{:?}", state());
    let follows = format!("select count(*) from pg_stat_activity where pid = {process}");
    assert_eq!(server.psql(&follows).await.unwrap(), "1");
    task.abort();
}

#[tokio::test]
async fn the_log_is_followed_on_one_connection_though_the_notification_queue_is_full() {
    let server = Postgres::start().await.unwrap();
    server.psql("create table t (id int)").await.unwrap();
    let mut setup = <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
    Triggers::new().table("t").install(&mut setup).await.unwrap();
    server.psql(crate::postgres::log::FULL_QUEUE).await.unwrap();
    let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
    let mut conn = connect(&db).await.unwrap();
    check_notifications(&db, &mut conn).await.unwrap();
    let mut follower = Follower::new(db.clone(), Arc::new(Fences::new(64)));
    follower.catch_up(&mut conn).await.unwrap();
    for id in 0..9 {
        server.psql(&format!("insert into t values ({id})")).await.unwrap();
    }
    follower.poll_once(&mut conn, false).await.unwrap();
    assert!(follower.notify_suppressed, "it found many commits");
    follower.poll_once(&mut conn, false).await.unwrap();
    assert!(!follower.notify_suppressed);
    // The check of the queue can be outdated at once.
    server
        .psql("create or replace function pg_catalog.pg_notification_queue_usage() returns float8 language sql as 'select 0.0::float8'")
        .await
        .unwrap();
    check_notifications(&db, &mut conn).await.unwrap();
    follower.notify_suppressed = true;
    follower.poll_once(&mut conn, false).await.unwrap();
}

#[tokio::test]
async fn a_cache_keeps_no_log_for_each_failed_attempt_to_follow_it() {
    let server = Postgres::start().await.unwrap();
    server.psql("create table t (id int); create role app login").await.unwrap();
    let mut setup = <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await.unwrap();
    Triggers::new().table("t").install(&mut setup).await.unwrap();
    Triggers::grant(&mut setup, "app").await.unwrap();
    let url = server.url().replace("postgres@", "app@");
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    server.psql("revoke select on tidegate.log from app").await.unwrap();
    for _ in 0..3 {
        assert!(Listener::spawn(&db, &cache).await.is_err());
    }
    assert_eq!(cache.attached_logs(), 1);
    server.psql("grant select on tidegate.log to app").await.unwrap();
    Listener::spawn(&db, &cache).await.unwrap();
    assert_eq!(cache.attached_logs(), 2);
}
