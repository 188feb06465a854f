//! Databases that are copies of others: by CREATE DATABASE, with all that the schema `tidegate` holds.

use std::time::Duration;

use tidegate::{Database, DatabaseError, DatabaseOptions, Listener, Memory, Policy};

use super::common::eventually;
use super::common::shop::{Shop, server_with_shop};
use super::world::{Node, TTL};

async fn connect(url: &str) -> Database {
    DatabaseOptions::new(url).wait(Duration::from_secs(1)).connect().await.unwrap()
}

/// Drops a database while a node serves entries of it, and creates a copy with these options.
async fn restore_with(shop: &Shop, options: &str) {
    let node = Node::start(&connect(&shop.url()).await, &Policy::ttl(TTL)).await;
    node.warm(&["/users/1"]).await;
    shop.back_up().await;
    shop.psql("update users set name = 'lost' where id = 1").await;
    node.sees("/users/1", "lost").await;
    node.warm(&["/users/1"]).await;
    let before = node.cache.fences().epoch();
    shop.restore(options).await;
    node.sees("/users/1", "ada").await;
    assert!(
        node.cache.fences().epoch() != before,
        "entries of the dropped database have its epoch"
    );
    node.warm(&["/users/1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_of_a_dropped_database_is_served_for_a_copy_with_its_name() {
    restore_with(&Shop::new().await, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_of_a_dropped_database_is_served_for_a_copy_with_its_oid() {
    let shop = Shop::new().await;
    if let Some(same_oid) = shop.same_oid().await {
        restore_with(&shop, &same_oid).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_databases_created_from_one_template_have_different_epochs() {
    let server = server_with_shop().await;
    server.psql_at(&server.url_of("shop"), "select tidegate.begin_history()").await.unwrap();
    let mut epochs = Vec::new();
    for name in ["one", "other"] {
        server.psql(&format!("create database {name} template shop")).await.unwrap();
        let db = connect(&server.url_of(name)).await;
        let node = Node::start(&db, &Policy::ttl(TTL)).await;
        node.warm(&["/users/1"]).await;
        epochs.push(node.cache.fences().epoch());
    }
    assert_ne!(epochs[0], epochs[1]);
}

/// What another database notes says nothing of this one, and its oids mean something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_or_replica_of_another_database_is_refused() {
    let server = server_with_shop().await;
    let standby = server.standby().await.unwrap();
    server.psql("create database other template shop").await.unwrap();
    let other = server.url_of("other");
    let db =
        DatabaseOptions::new(server.url_of("shop")).listen_url(&other).connect().await.unwrap();
    let cache = tidegate::Cache::new(Memory::new(1 << 20));
    let refused = Listener::spawn(&db, &cache).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::OtherDatabase(_)), "{refused}");
    eventually("the standby has it", async || {
        standby.psql_at(&standby.url_of("other"), "select 1").await.is_ok()
    })
    .await;
    let refused = db.add_replica(&standby.url_of("other")).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::OtherDatabase(_)), "{refused}");
    db.add_replica(&standby.url_of("shop")).await.unwrap();
}
