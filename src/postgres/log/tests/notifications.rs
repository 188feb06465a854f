//! Notifications of commits.

use super::*;

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

#[tokio::test]
async fn notifications_are_resumed_though_the_queue_is_full() {
    let mut bed = Bed::new().await;
    let mut prev = bed.now().await;
    bed.server.psql(FULL_QUEUE).await.unwrap();
    bed.server.psql("insert into t values (1)").await.unwrap();
    let mode = DrainMode { suppress_notify_from: Some(1), ..DrainMode::default() };
    let mut detail = ChangeDetail::default();
    let drained = drain(&mut bed.conn, &prev, mode, &mut detail).await.unwrap();
    assert!(drained.notify_suppressed);
    prev = drained.snapshot;
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    resume_notify(&mut bed.conn).await.unwrap();
    assert_eq!(bed.number(locks).await, 0);
    // An attempt that fails releases the lock too.
    bed.server.psql("select tidegate.invalidate(array(select 'page' || g from generate_series(1, 60000) g))").await.unwrap();
    let drained = drain(&mut bed.conn, &prev, mode, &mut detail).await.unwrap();
    assert!(drained.overflowed && !drained.notify_suppressed);
    assert_eq!(bed.number(locks).await, 0);
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
