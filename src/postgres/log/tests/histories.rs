//! Histories and epochs.

use super::*;

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
