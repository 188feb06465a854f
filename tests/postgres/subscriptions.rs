//! Tables that a subscription writes to: what it applies fires no statement trigger.

use tidegate::{SchemaError, Triggers};
use tidegate_testing::Postgres;

use super::common::eventually;
use super::world::{Node, SETUP, connect, primary};

/// A server whose changes of `users` are there to be subscribed to.
async fn publisher() -> Postgres {
    let publisher = Postgres::start_with(&[("wal_level", "logical")]).await.unwrap();
    publisher.psql(SETUP).await.unwrap();
    publisher.psql("create publication p for table users").await.unwrap();
    publisher
}

async fn subscribe(to: &Postgres, subscriber: &Postgres) {
    subscribe_with(to, subscriber, "copy_data = false").await;
}

async fn subscribe_with(to: &Postgres, subscriber: &Postgres, option: &str) {
    let create = format!(
        "create subscription s connection 'host=127.0.0.1 port={} user=postgres dbname=postgres'
         publication p with ({option})",
        to.port()
    );
    subscriber.psql(&create).await.unwrap();
}

async fn applied(subscriber: &Postgres, name: &str) {
    let there = format!("select exists (select from users where name = '{name}')");
    eventually("it is applied", async || subscriber.psql(&there).await.unwrap() == "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_applied_by_a_subscription_are_never_hidden_by_an_entry() {
    let (publisher, subscriber) = (publisher().await, primary(&[]).await);
    let node = Node::alone(&subscriber).await;
    node.warm(&["/users/1", "/users"]).await;
    subscribe(&publisher, &subscriber).await;
    for uri in ["/users/1", "/users"] {
        eventually("the node knows", async || node.get(uri).await.1.contains("subscribed-table"))
            .await;
    }
    publisher.psql("update users set name = 'eve' where id = 1").await.unwrap();
    applied(&subscriber, "eve").await;
    assert_eq!(node.get("/users/1").await.0, "eve");
    publisher.psql("truncate users; insert into users values (1, 'zoe')").await.unwrap();
    applied(&subscriber, "zoe").await;
    assert_eq!(node.get("/users").await.0, "zoe");
    subscriber.psql("drop subscription s").await.unwrap();
    node.warm(&["/users/1", "/users"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_a_subscription_writes_to_is_unsound_and_cannot_be_installed() {
    let (publisher, subscriber) = (publisher().await, primary(&[]).await);
    subscribe(&publisher, &subscriber).await;
    let mut conn = connect(&subscriber).await;
    let status = Triggers::status(&mut conn).await.unwrap();
    let users = status.table("users").unwrap();
    assert!(!users.is_sound() && users.subscriptions == ["s"], "{users:?}");
    let refused = Triggers::new().table("users").install(&mut conn).await.unwrap_err();
    assert!(matches!(refused, SchemaError::Subscribed(..)), "{refused}");
    let migration = Triggers::new().table("users").migration();
    let refused = subscriber.psql(&migration).await.unwrap_err().to_string();
    assert!(refused.contains("subscription `s` writes to `users`"), "{refused}");
    subscriber.psql("drop subscription s").await.unwrap();
    Triggers::new().table("users").install(&mut conn).await.unwrap();
    assert!(Triggers::status(&mut conn).await.unwrap().table("users").unwrap().is_sound());
}

/// A subscription may write to a part of what is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_to_a_partition_makes_the_whole_table_unsound() {
    let (publisher, subscriber) = (publisher().await, Postgres::start().await.unwrap());
    let family = "create table people (id int, name text) partition by range (id);
        create table users partition of people (primary key (id)) for values from (0) to (1000)";
    subscriber.psql(family).await.unwrap();
    let mut conn = connect(&subscriber).await;
    Triggers::new().table("people").install(&mut conn).await.unwrap();
    subscribe(&publisher, &subscriber).await;
    let status = Triggers::status(&mut conn).await.unwrap();
    assert!(!status.table("people").unwrap().is_sound(), "{status:?}");
    let refused = Triggers::new().table("people").install(&mut conn).await.unwrap_err();
    assert!(matches!(refused, SchemaError::Subscribed(..)), "{refused}");
}

/// From Postgres 16 on what is applied runs as the table's owner, where a deferred trigger is an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_applied_to_tracked_tables_of_another_owner() {
    let (publisher, subscriber) = (publisher().await, primary(&[]).await);
    subscriber
        .psql("truncate users; create role app; alter table users owner to app")
        .await
        .unwrap();
    subscribe_with(&publisher, &subscriber, "copy_data = true").await;
    applied(&subscriber, "ada").await;
    publisher.psql("truncate users; insert into users values (1, 'zoe')").await.unwrap();
    applied(&subscriber, "zoe").await;
}
