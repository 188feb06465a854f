#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::sync::atomic::Ordering;

use tidegate_testing::Postgres;
use tokio::task::yield_now;

use super::relay_follower::report_while;
use super::*;
use crate::postgres::relay::message::{InvalidationBatch, SyncRequest, encode};
use crate::postgres::relay::tests::Mock;
use crate::postgres::{DatabaseOptions, Triggers};

#[tokio::test(start_paused = true)]
async fn a_poll_that_takes_long_is_reported_to_the_other_nodes() {
    let bus = Arc::new(Mock { elects: true, ..Mock::default() });
    let relay = Relay::start(bus.clone(), "test");
    let told = Snapshot::new("5:5:".into());
    let report = || Some((relay.sender(), InvalidationBatch::still_polling(Epoch::new(1), &told)));
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
    let mut follower = Follower::new(db, Arc::new(Fences::new(64)));
    follower.catch_up(&mut conn).await.unwrap();
    let question = |nonce| encode(&SyncRequest { nonce, urgent: nonce == 7 }).into();
    let bus = Mock { elects: true, says: (0..9).map(question).collect(), ..Mock::default() };
    follower.relay = Some(Relay::start(Arc::new(bus), "test"));
    while follower.relay.as_ref().unwrap().elected() != RelayRole::Relay {
        yield_now().await;
    }
    for _ in 0..1000 {
        yield_now().await;
    }
    let (mut answers, is_urgent) = follower.take_sync_requests();
    answers.sort_unstable();
    assert_eq!((answers, is_urgent), ((0..9).collect(), true));
    assert!(follower.relay.as_mut().unwrap().try_next().is_none());
}
