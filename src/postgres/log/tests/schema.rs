//! Changes of the schema.

use super::*;

#[tokio::test]
async fn entries_stored_before_a_schema_change_are_below_the_floor() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    let before = announce(&mut bed.conn).await.unwrap();
    assert!(bed.load(7).await.floor < before);
    assert!(bed.load(8).await.floor >= before);
    assert!(mark(&mut bed.conn, SOON, Some(8)).await.unwrap(), "at once, and without changes");
    let noticed = announce(&mut bed.conn).await.unwrap();
    let loaded = bed.load(8).await;
    assert!(loaded.is_settling && loaded.floor >= noticed, "other nodes may not have noticed");
    let later = "update tidegate.marks set at = at - interval '1 hour', since = since - interval '1 hour', xid = pg_current_xact_id();
        insert into t values (1)";
    bed.server.psql(later).await.unwrap();
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(8)).await.unwrap());
    let after = announce(&mut bed.conn).await.unwrap();
    let loaded = bed.load(8).await;
    assert!(!loaded.is_settling && noticed <= loaded.floor && loaded.floor < after);
}

/// How long a schema has been known does not depend on which marks are left.
#[tokio::test]
async fn trimming_earlier_marks_does_not_change_how_long_a_schema_has_been_known() {
    let mut bed = Bed::new().await;
    mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap();
    mark(&mut bed.conn, SOON, Some(8)).await.unwrap();
    bed.server.psql("insert into t values (1)").await.unwrap();
    mark(&mut bed.conn, Duration::ZERO, Some(8)).await.unwrap();
    let noticed = announce(&mut bed.conn).await.unwrap();
    bed.server.psql("delete from tidegate.marks where schema is distinct from 8").await.unwrap();
    let loaded = bed.load(8).await;
    assert!(loaded.is_settling && loaded.floor >= noticed, "{loaded:?}");
}

/// Where event triggers do not note changes of the schema, or only the fingerprint shows one.
#[tokio::test]
async fn an_idle_database_is_marked_again_once_every_node_knows_its_schema() {
    let mut bed = Bed::new().await;
    let drop = "drop event trigger tidegate_ddl; drop event trigger tidegate_drop";
    bed.server.psql(drop).await.unwrap();
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    assert!(!mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap(), "nothing has changed");
    assert!(bed.load(7).await.is_settling);
    let later = "update tidegate.marks set at = at - interval '15 s', xid = pg_current_xact_id()";
    bed.server.psql(later).await.unwrap();
    assert!(mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap(), "one that counts");
    assert!(!mark(&mut bed.conn, Duration::ZERO, Some(7)).await.unwrap());
    let after = announce(&mut bed.conn).await.unwrap();
    let loaded = bed.load(7).await;
    assert!(!loaded.is_settling && loaded.floor < after, "{loaded:?}");
}

#[test]
fn the_sql_of_marks_waits_for_as_long_as_nodes_may_take_to_notice_a_schema() {
    let seconds = FINGERPRINT_KNOWN_WITHIN.as_secs();
    assert!(include_str!("../../sql/marks.sql").contains(&format!("+ interval '{seconds} s'")));
}

/// A node stores results that it has read by the schema that it knows. If a drain's last position counted although the schema
/// had changed after the drain's snapshot, a node that knows of the change would take such a result for newer than it.
#[tokio::test]
async fn a_schema_change_after_the_snapshot_of_a_drain_leaves_the_drain_unsettled() {
    let mut bed = Bed::new().await;
    run(
        &mut bed.conn,
        "create or replace function tidegate.named(relation oid, keys text[], since pg_snapshot) returns text[]
         language plpgsql volatile as $$ begin
             perform pg_advisory_xact_lock_shared(1);
             return array['t'];
         end $$",
    )
    .await;
    let mut prev = bed.now().await;
    let began = prev.clone();
    let mut other = bed.session().await;
    run(&mut other, "insert into t values (1); select pg_advisory_lock(1)").await;
    let change = async {
        let waits = "select count(*) from pg_locks where locktype = 'advisory' and not granted";
        until(async || bed.server.psql(waits).await.unwrap() == "1").await;
        // Not in one message, which would be one transaction that unlocks before it commits.
        run(&mut other, "create table late (id int)").await;
        run(&mut other, "select pg_advisory_unlock(1)").await;
    };
    let mut detail = ChangeDetail::default();
    let drain = drain(&mut bed.conn, &prev, DrainMode::default(), &mut detail);
    let (drained, ()) = tokio::join!(drain, change);
    let drained = drained.unwrap();
    assert_eq!(drained.tags, ["t"]);
    assert!(!drained.schema_changed && drained.unsettled);
    prev = drained.snapshot;
    let next = bed.drain(&mut prev).await;
    assert!(next.schema_changed && !next.unsettled);
    assert!(!announce_since(&mut bed.conn, &began).await.unwrap().1);
    assert!(announce_since(&mut bed.conn, &prev).await.unwrap().1);
}
