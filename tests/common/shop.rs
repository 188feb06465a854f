//! A database that is dropped and created again as a copy.

use sqlx::Connection;
use tidegate::Triggers;
use tidegate_testing::{FaultProxy, Postgres};

use super::eventually;

/// A server with the database `shop`, which clients reach through a proxy.
pub(crate) struct Shop {
    pub(crate) server: Postgres,
    pub(crate) proxy: FaultProxy,
}

/// A server with the database `shop`, whose table `users` is tracked.
pub(crate) async fn server_with_shop() -> Postgres {
    let server = Postgres::start().await.unwrap();
    let url = server.create_database("shop").await.unwrap();
    let table = "create table users (id int primary key, name text);
        insert into users values (1, 'ada'), (2, 'bob')";
    server.psql_at(&url, table).await.unwrap();
    let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
    Triggers::new().table("users").install(&mut conn).await.unwrap();
    server
}

impl Shop {
    pub(crate) async fn new() -> Self {
        let server = server_with_shop().await;
        let proxy = FaultProxy::start(server.addr()).await.unwrap();
        Self { server, proxy }
    }

    /// The address of the database, through the proxy.
    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@{}/shop", self.proxy.addr())
    }

    /// Runs a statement in the database, past the proxy.
    pub(crate) async fn psql(&self, sql: &str) -> String {
        self.server.psql_at(&self.server.url_of("shop"), sql).await.unwrap()
    }

    /// Runs statements while nobody is connected to either database.
    async fn disconnected(&self, statements: &[&str]) {
        self.proxy.cut();
        let connected = "select count(pg_terminate_backend(pid)) from pg_stat_activity
            where datname in ('shop', 'backup')";
        eventually("nobody is connected", async || {
            self.server.psql(connected).await.unwrap() == "0"
        })
        .await;
        for statement in statements {
            self.server.psql(statement).await.unwrap();
        }
        self.proxy.heal().await.unwrap();
    }

    /// Copies the database.
    pub(crate) async fn back_up(&self) {
        self.disconnected(&["create database backup template shop"]).await;
    }

    /// Replaces the database by its copy: `options` follow the statement that creates it.
    pub(crate) async fn restore(&self, options: &str) {
        let create = format!("create database shop template backup {options}");
        self.disconnected(&["drop database shop", &create]).await;
    }

    /// The option by which a copy gets the oid of the database. Before Postgres 15 the server has no such option, so that no
    /// such copy can exist.
    pub(crate) async fn same_oid(&self) -> Option<String> {
        let version = self.server.psql("show server_version_num").await.unwrap();
        let other = self.server.psql("create database other oid = 20000").await;
        assert_eq!(other.is_ok(), version.parse::<u32>().unwrap() >= 150_000, "{other:?}");
        let oid = self.psql("select oid from pg_database where datname = 'shop'").await;
        other.ok().map(|_| format!("oid = {oid}"))
    }
}
