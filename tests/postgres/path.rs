//! The main job: a miss fills, a hit is fresh, a write by anyone ends it.

use std::sync::atomic::{AtomicU32, Ordering};

use tidegate::Policy;

use super::common::eventually;
use super::world::{Node, TTL, options, primary};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_by_psql_invalidates_the_entries_it_changes_and_no_others() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    assert_eq!(node.get("/users/1").await.0, "ada");
    node.warm(&["/users", "/users/1", "/users/2"]).await;
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    assert_eq!(node.get("/users").await.0, "eve bob");
    let (body, status) = node.get("/users/2").await;
    assert_eq!(body, "bob");
    assert!(status.contains("hit"), "the response for another row is still valid: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_is_served_by_a_replica_that_has_replayed_enough() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let db = options(&primary).replica(replica.url()).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    eventually("the replica is up", async || db.replicas()[0].reached.is_some()).await;
    // Up is not yet as far as the log was when the node began. Each read is a new one.
    let reads = AtomicU32::new(0);
    eventually("a read is the replica's", async || {
        let uri = format!("/users?read={}", reads.fetch_add(1, Ordering::Relaxed));
        let (_, status) = node.get(&uri).await;
        status.contains("from replica-1") && status.contains("stored")
    })
    .await;
}
