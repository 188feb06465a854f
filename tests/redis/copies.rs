//! A database that was dropped and put back as a copy of a template, while Redis kept the entries.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use sqlx::Connection;
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Guard, Listener, Memory, Policy, Redis, Tiered,
    Triggers,
};
use tidegate_testing::{FaultProxy, Postgres, RedisServer};

use crate::common::{ask, eventually};
use crate::entries;

/// A database behind a name that can be cut off, and the Redis of its nodes.
struct Shop {
    server: Postgres,
    name: FaultProxy,
    redis: RedisServer,
}

impl Shop {
    async fn new() -> Self {
        let server = Postgres::start().await.unwrap();
        let url = server.create_database("shop").await.unwrap();
        let table = "create table users (id int primary key, name text);
            insert into users values (1, 'ada')";
        server.psql_at(&url, table).await.unwrap();
        let mut conn = sqlx::PgConnection::connect(&url).await.unwrap();
        Triggers::new().table("users").install(&mut conn).await.unwrap();
        let name = FaultProxy::start(server.addr()).await.unwrap();
        Self { server, name, redis: RedisServer::start().await.unwrap() }
    }

    async fn node(&self) -> Router {
        let url = format!("postgres://postgres@{}/shop", self.name.addr());
        let options = DatabaseOptions::new(url).wait(Duration::from_secs(1));
        let db = options.connect().await.unwrap();
        let redis = Redis::connect(self.redis.url()).await.unwrap();
        let patient = Guard::new(redis).read_within(Duration::from_secs(5));
        let cache = Cache::new(Tiered::with_guard(Memory::new(1 << 20), patient));
        Listener::spawn(&db, &cache).await.unwrap();
        let policy = Policy::ttl(Duration::from_mins(10)).early_refresh(0.0);
        let layer = CacheLayer::new(cache).route("/", policy).validate().unwrap();
        Router::new().route("/", get(name)).layer(layer).with_state(db)
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
        let old = self.node().await;
        eventually("a hit", async || ask(&old, "/").await.1.contains("hit")).await;
        self.apart(&["create database backup template shop"]).await;
        let shop = self.server.url_of("shop");
        self.server.psql_at(&shop, "update users set name = 'lost'").await.unwrap();
        eventually("the change is seen", async || ask(&old, "/").await.0 == "lost").await;
        let is_shared = async || {
            let (body, status) = ask(&self.node().await, "/").await;
            body == "lost" && status.contains("shared")
        };
        eventually("a fresh node serves it from Redis", is_shared).await;
        self.apart(&["drop database shop", create]).await;
        assert!(!entries(&self.redis).await.is_empty(), "the entry is still there");
        let fresh = self.node().await;
        let (body, status) = ask(&fresh, "/").await;
        assert!(body == "ada" && !status.contains("hit"), "{body}: {status}");
        for node in [&old, &fresh] {
            eventually("the copy is served", async || ask(node, "/").await.0 == "ada").await;
        }
        self.server.psql_at(&shop, "update users set name = 'eve'").await.unwrap();
        for node in [&fresh, &old] {
            eventually("changes are seen", async || ask(node, "/").await.0 == "eve").await;
        }
    }
}

async fn name(State(db): State<Database>) -> String {
    let query = sqlx::query_scalar::<_, String>("select name from users where id = 1");
    query.fetch_one(db.reader()).await.unwrap_or_else(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_in_redis_of_a_dropped_database_is_served_for_a_copy_with_its_name() {
    Shop::new().await.restore_with("create database shop template backup").await;
}

/// Before Postgres 15 none can be had.
#[tokio::test(flavor = "multi_thread")]
async fn no_entry_in_redis_of_a_dropped_database_is_served_for_a_copy_with_its_oid() {
    let shop = Shop::new().await;
    if shop.server.psql("show server_version_num").await.unwrap().as_str() < "150000" {
        return;
    }
    let oid = "select oid from pg_database where datname = 'shop'";
    let oid = shop.server.psql(oid).await.unwrap();
    shop.restore_with(&format!("create database shop template backup oid = {oid}")).await;
}
