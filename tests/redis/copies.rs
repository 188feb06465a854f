//! A database that was dropped and put back as a copy of a template, while Redis kept the entries.

use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use tidegate::{CacheLayer, Database, DatabaseOptions, Listener, Policy, Redis};
use tidegate_testing::RedisServer;

use crate::common::shop::Shop;
use crate::common::{eventually, fetch};
use crate::entries;
use crate::world::tiered;

async fn node(shop: &Shop, redis: &RedisServer) -> Router {
    let options = DatabaseOptions::new(shop.url()).wait(Duration::from_secs(1));
    let db = options.connect().await.unwrap();
    let cache = tiered(Redis::connect(redis.url()).await.unwrap());
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = Policy::ttl(Duration::from_mins(10)).early_refresh(0.0);
    let layer = CacheLayer::new(cache).route("/", policy).validate().unwrap();
    Router::new().route("/", get(name)).layer(layer).with_state(db)
}

async fn name(State(db): State<Database>) -> String {
    let query = sqlx::query_scalar::<_, String>("select name from users where id = 1");
    query.fetch_one(db.reader()).await.unwrap_or_else(|error| error.to_string())
}

/// Drops a database whose entries are in Redis, and creates a copy with these options.
async fn restore_with(shop: &Shop, options: &str) {
    let redis = RedisServer::start().await.unwrap();
    let old = node(shop, &redis).await;
    eventually("a hit", async || fetch(&old, "/").await.1.contains("hit")).await;
    shop.back_up().await;
    shop.psql("update users set name = 'lost'").await;
    eventually("the change is seen", async || fetch(&old, "/").await.0 == "lost").await;
    let is_shared = async || {
        let (body, status) = fetch(&node(shop, &redis).await, "/").await;
        body == "lost" && status.contains("shared")
    };
    eventually("a fresh node serves it from Redis", is_shared).await;
    shop.restore(options).await;
    assert!(!entries(&redis).await.is_empty(), "the entry is still there");
    let fresh = node(shop, &redis).await;
    let (body, status) = fetch(&fresh, "/").await;
    assert!(body == "ada" && !status.contains("hit"), "{body}: {status}");
    for node in [&old, &fresh] {
        eventually("the copy is served", async || fetch(node, "/").await.0 == "ada").await;
    }
    shop.psql("update users set name = 'eve'").await;
    for node in [&fresh, &old] {
        eventually("changes are seen", async || fetch(node, "/").await.0 == "eve").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_in_redis_of_a_dropped_database_is_served_for_a_copy_with_its_name() {
    restore_with(&Shop::new().await, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_entry_in_redis_of_a_dropped_database_is_served_for_a_copy_with_its_oid() {
    let shop = Shop::new().await;
    if let Some(same_oid) = shop.same_oid().await {
        restore_with(&shop, &same_oid).await;
    }
}
