//! Databases that are copies of others: by CREATE DATABASE, with all that the schema `tidegate` holds.

use std::time::Duration;

use tidegate::{Database, DatabaseError, DatabaseOptions, Listener, Memory, Policy, Triggers};
use tidegate_testing::{FaultProxy, Postgres};

use super::common::eventually;
use super::world::{Node, SETUP, TTL};

/// A database behind a name that can be cut off, and a node on it.
struct Shop {
    server: Postgres,
    name: FaultProxy,
    node: Node,
}

async fn connect(url: &str) -> Database {
    DatabaseOptions::new(url).wait(Duration::from_secs(1)).connect().await.unwrap()
}

async fn server_with_shop() -> Postgres {
    let server = Postgres::start().await.unwrap();
    let url = server.create_database("shop").await.unwrap();
    server.psql_at(&url, SETUP).await.unwrap();
    let mut conn = <sqlx::PgConnection as sqlx::Connection>::connect(&url).await.unwrap();
    Triggers::new().table("users").install(&mut conn).await.unwrap();
    server
}

impl Shop {
    async fn new() -> Self {
        let server = server_with_shop().await;
        let name = FaultProxy::start(server.addr()).await.unwrap();
        let url = format!("postgres://postgres@{}/shop", name.addr());
        let node = Node::start(&connect(&url).await, &Policy::ttl(TTL)).await;
        Self { server, name, node }
    }

    /// Runs statements while nobody is connected to either database.
    async fn apart(&self, statements: &[&str]) {
        self.name.cut();
        let connected = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname in ('shop', 'backup')";
        eventually("nobody is connected", async || {
            self.server.psql(connected).await.unwrap() == "0"
        })
        .await;
        for statement in statements {
            self.server.psql(statement).await.unwrap();
        }
        self.name.heal().await.unwrap();
    }

    async fn restore_with(&self, create: &str) {
        self.node.warm(&["/users/1"]).await;
        self.apart(&["create database backup template shop"]).await;
        let shop = self.server.url_of("shop");
        self.server.psql_at(&shop, "update users set name = 'lost' where id = 1").await.unwrap();
        self.node.sees("/users/1", "lost").await;
        self.node.warm(&["/users/1"]).await;
        let before = self.node.cache.fences().epoch();
        self.apart(&["drop database shop", create]).await;
        self.node.sees("/users/1", "ada").await;
        let fences = self.node.cache.fences();
        assert!(
            fences.epoch() != before,
            "what a store holds of the one that was is of that epoch"
        );
        self.node.warm(&["/users/1"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_of_a_dropped_database_is_served_for_a_copy_with_its_name() {
    Shop::new().await.restore_with("create database shop template backup").await;
}

/// Before Postgres 15 none can be had.
#[tokio::test(flavor = "multi_thread")]
async fn no_entry_of_a_dropped_database_is_served_for_a_copy_with_its_oid() {
    let shop = Shop::new().await;
    if shop.server.psql("show server_version_num").await.unwrap().as_str() < "150000" {
        return;
    }
    let oid = "select oid from pg_database where datname = 'shop'";
    let oid = shop.server.psql(oid).await.unwrap();
    shop.restore_with(&format!("create database shop template backup oid = {oid}")).await;
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
