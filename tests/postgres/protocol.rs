//! What only a database that counts commits right can get right.

use std::time::Duration;

use tidegate::{Policy, Position};

use super::common::eventually;
use super::world::{Node, TTL, connect, options, primary};

/// A commit that is in the log and not yet visible: what is read meanwhile lacks it, however far the
/// log was at the time.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_read_before_a_logged_commit_was_visible_is_not_served_after_it() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    let nobody = "alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()";
    primary.psql(nobody).await.unwrap();
    let hung = primary.psql("update users set name = 'eve' where id = 1");
    let cancel = async {
        let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
        eventually("the commit hangs", async || primary.psql(waiting).await.unwrap() == "1").await;
        // The node follows the log past the commit's record, and only then is the response computed.
        let record = "select pg_current_wal_insert_lsn()";
        let record: Position = primary.psql(record).await.unwrap().parse().unwrap();
        primary.psql("select pg_logical_emit_message(false, 'test', 'go on')").await.unwrap();
        let followed = || node.cache.fences().seen().is_some_and(|seen| seen.position > record);
        eventually("the node has followed", async || followed()).await;
        node.warm(&["/users/1"]).await;
        assert_eq!(node.get("/users/1").await.0, "ada", "it is not visible yet");
        let cancel = "select pg_cancel_backend(pid) from pg_stat_activity
            where wait_event = 'SyncRep'";
        primary.psql(cancel).await.unwrap();
    };
    let (committed, ()) = tokio::join!(hung, cancel);
    committed.unwrap();
    node.sees("/users/1", "eve").await;
    node.warm(&["/users/1"]).await;
    assert_eq!(node.get("/users/1").await.0, "eve");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_read_during_a_long_transaction_is_invalidated_by_its_commit() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    let mut writer = connect(&primary).await;
    let begin = "begin; update users set name = 'eve' where id = 1";
    sqlx::raw_sql(begin).execute(&mut writer).await.unwrap();
    for _ in 0..20 {
        node.cache.invalidate(["users:id=1"]).await.unwrap();
        node.warm(&["/users/1"]).await;
    }
    assert_eq!(node.get("/users/1").await.0, "ada");
    sqlx::raw_sql("commit").execute(&mut writer).await.unwrap();
    node.sees("/users/1", "eve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prepared_transaction_counts_from_its_commit() {
    let primary = primary(&[("max_prepared_transactions", "4")]).await;
    let node = Node::alone(&primary).await;
    let prepare = "begin; update users set name = 'eve' where id = 1; prepare transaction 'p'";
    primary.psql(prepare).await.unwrap();
    node.cache.invalidate(["users:id=1"]).await.unwrap();
    node.warm(&["/users/1"]).await;
    primary.psql("commit prepared 'p'").await.unwrap();
    node.sees("/users/1", "eve").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolled_back_write_invalidates_nothing() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    primary
        .psql(
            "begin; update users set name = 'eve' where id = 1; rollback;
             begin; savepoint s; update users set name = 'eve' where id = 1; rollback to s;
             update users set name = 'bea' where id = 2; commit",
        )
        .await
        .unwrap();
    node.sees("/users/2", "bea").await;
    assert!(node.get("/users/1").await.1.contains("hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_response_is_invalidated_by_the_first_row() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/99"]).await;
    assert_eq!(node.get("/users/99").await.0, "");
    primary.psql("insert into users values (99, 'zoe')").await.unwrap();
    node.sees("/users/99", "zoe").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_writes_and_truncate_invalidate_entries() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1", "/users"]).await;
    let many = "insert into users select n, 'n' from generate_series(1000, 1999) n";
    primary.psql(&format!("{many}; update users set name = 'all'")).await.unwrap();
    node.sees("/users/1", "all").await;
    node.warm(&["/users/1"]).await;
    primary.psql("truncate users").await.unwrap();
    node.sees("/users/1", "").await;
    node.sees("/users", "").await;
}

/// An idle database: nothing moves the log, and the next fill must be good all the same.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_change_the_next_response_is_stored_even_on_an_idle_database() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let db = options(&primary).replica(replica.url()).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    for round in 0..10 {
        node.warm(&["/users/1"]).await;
        let name = format!("user {round}");
        primary.psql(&format!("update users set name = '{name}' where id = 1")).await.unwrap();
        node.sees("/users/1", &name).await;
    }
    node.warm(&["/users/1"]).await;
    let at = async || primary.psql("select pg_current_wal_insert_lsn()").await.unwrap();
    eventually("nothing is written while nobody writes", async || {
        let before = at().await;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        at().await == before
    })
    .await;
}
