//! Large values beside small ones.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use redis::cmd;
use tidegate::internals::encode;
use tidegate::{Entry, Guard, Key, RedisOptions, Store, StoreError};
use tidegate_testing::RedisServer;

use crate::common::entries::{self, LONG, entry_of, key};
use crate::common::{calls, eventually};

/// An entry with a body of so many bytes.
fn of_bytes(name: &str, bytes: usize) -> Arc<Entry> {
    entry_of(name, "x".repeat(bytes))
}

/// On a busy machine, a large value may take longer than the time limit of one attempt.
async fn put(store: &dyn Store, name: &str, bytes: usize) {
    let entry = of_bytes(name, bytes);
    let put = async || entries::put(store, name, &entry).await.is_ok();
    eventually("it is stored, or not sent", put).await;
}

async fn length(store: &dyn Store, name: &str) -> Result<Option<usize>, StoreError> {
    Ok(store.get(&key(name)).await?.map(|found| found.entry.body().len()))
}

async fn server() -> (RedisServer, RedisOptions) {
    let server = RedisServer::start().await.unwrap();
    let options = RedisOptions::new(server.url());
    (server, options)
}

#[tokio::test]
async fn a_value_over_the_limit_is_not_sent() {
    let (server, options) = server().await;
    let default = options.clone().connect().await.unwrap();
    let more = options.body_limit(4 << 20).connect().await.unwrap();
    for (redis, limit) in [(&default, 1 << 20), (&more, 4 << 20)] {
        put(redis, "at", limit).await;
        assert_eq!(length(redis, "at").await.unwrap(), Some(limit));
        put(redis, "over", limit).await;
        let sets = calls(&server, "set").await;
        put(redis, "over", limit + 1).await;
        assert_eq!(calls(&server, "set").await, sets);
        assert_eq!(length(redis, "over").await.unwrap(), None, "nor does an older one stay");
    }
}

/// As a node with another limit has left it.
#[tokio::test]
async fn a_value_over_the_limit_stored_by_another_node_is_a_miss() {
    let (server, options) = server().await;
    let redis = options.connect().await.unwrap();
    let value = encode(&of_bytes("huge", 3 << 20)).to_vec();
    let place = super::place(&key("huge"));
    server.run::<redis::Value>(cmd("SET").arg(&place).arg(&value)).await.unwrap();
    // The first comes whole, since nobody knew.
    length(&redis, "huge").await.unwrap();
    for _ in 0..3 {
        assert_eq!(length(&redis, "huge").await.unwrap(), None);
    }
    assert_eq!(calls(&server, "strlen").await, 3);
    put(&redis, "huge", 10).await;
    assert_eq!(length(&redis, "huge").await.unwrap(), Some(10));
    assert_eq!(length(&redis, "huge").await.unwrap(), Some(10));
    assert_eq!(calls(&server, "strlen").await, 3, "it is a small one now");
}

#[tokio::test]
async fn a_value_known_to_be_large_takes_one_command() {
    let (server, options) = server().await;
    let redis = options.connect().await.unwrap();
    put(&redis, "one", 512 << 10).await;
    let commands = async || (calls(&server, "get").await, calls(&server, "strlen").await);
    let (before, _) = commands().await;
    for _ in 0..3 {
        assert_eq!(length(&redis, "one").await.unwrap(), Some(512 << 10));
    }
    assert_eq!(commands().await, (before + 3, 0));
}

/// With its own time limit, and over its own connection.
#[tokio::test]
async fn a_large_value_of_a_batch_is_read_by_itself() {
    let (server, options) = server().await;
    let redis = Guard::new(options.connect().await.unwrap()).read_within(LONG);
    for (name, bytes) in [("small", 10), ("large", 512 << 10), ("other", 10)] {
        put(&redis, name, bytes).await;
    }
    let lengths = async |names: &[&str]| {
        let keys: Vec<Key> = names.iter().map(|name| key(name)).collect();
        let found = redis.get_many(&keys.iter().collect::<Vec<_>>()).await.into_iter();
        found.map(|found| Some(found.unwrap()?.entry.body().len())).collect::<Vec<_>>()
    };
    let commands = async || (calls(&server, "mget").await, calls(&server, "get").await);
    let (mgets, gets) = commands().await;
    assert_eq!(lengths(&["small", "absent", "other"]).await, [Some(10), None, Some(10)]);
    assert_eq!(commands().await, (mgets + 1, gets));
    assert_eq!(lengths(&["small", "large", "other"]).await, [Some(10), Some(512 << 10), Some(10)]);
    assert_eq!(commands().await, (mgets + 2, gets + 1));
}

#[tokio::test]
async fn after_an_abandoned_read_the_length_is_requested_first() {
    let (server, options) = server().await;
    let redis = options.connect().await.unwrap();
    put(&redis, "one", 512 << 10).await;
    server.pause().unwrap();
    let read = tokio::time::timeout(Duration::from_millis(100), length(&redis, "one"));
    assert!(read.await.is_err(), "it is abandoned");
    server.resume().unwrap();
    for lengths in [1, 1] {
        assert_eq!(length(&redis, "one").await.unwrap(), Some(512 << 10));
        assert_eq!(calls(&server, "strlen").await, lengths);
    }
    server.pause().unwrap();
    assert!(matches!(length(&redis, "one").await, Err(StoreError::Timeout(_))));
    server.resume().unwrap();
    for lengths in [2, 2] {
        let found = async || length(&redis, "one").await.is_ok_and(|it| it == Some(512 << 10));
        eventually("there is a connection", found).await;
        assert_eq!(calls(&server, "strlen").await, lengths);
    }
}

/// Each time, a node with a larger limit has stored another value.
#[tokio::test]
async fn the_remembered_size_of_a_value_is_corrected_when_the_value_changes() {
    let (server, options) = server().await;
    let writer = options.clone().body_limit(8 << 20).connect().await.unwrap();
    let redis = options.connect().await.unwrap();
    put(&redis, "one", 512 << 10).await;
    put(&writer, "one", 4 << 20).await;
    for _ in 0..3 {
        assert_eq!(length(&redis, "one").await.unwrap(), None);
    }
    assert_eq!(calls(&server, "strlen").await, 2, "it came once");
    put(&redis, "two", 512 << 10).await;
    writer.remove(&key("two")).await.unwrap();
    assert_eq!(length(&redis, "two").await.unwrap(), None);
    assert!(!redis.is_large(&key("two")) && redis.is_one_step(&key("two")));
}

/// A node with another limit has left values that take a multiple of the time that a lookup may take.
#[tokio::test]
async fn small_values_do_not_wait_for_large_ones() {
    let (server, options) = server().await;
    let writer = options.clone().body_limit(64 << 20).connect().await.unwrap();
    let reader = Guard::new(options.connect().await.unwrap());
    let (huge, small): (Vec<_>, Vec<_>) =
        (0..50).map(|n| (format!("huge {n}"), format!("small {n}"))).unzip();
    for name in &small {
        put(&writer, name, 100).await;
    }
    for name in &huge[..4] {
        put(&writer, name, 32 << 20).await;
        let known = async || matches!(length(&reader, name).await, Ok(None));
        eventually("the reader knows that it is large", known).await;
    }
    eventually("the breaker is closed", async || !reader.is_open()).await;
    for name in &huge[4..] {
        // It is not sent.
        put(&reader, name, 2 << 20).await;
    }
    // What the reader gave up is still on its way.
    let all_small = async || {
        let found = join_all(small.iter().map(|name| length(&reader, name))).await;
        found.iter().all(|found| matches!(found, Ok(Some(100))))
    };
    eventually("it has come", async || all_small().await && all_small().await).await;
    let output = server.run::<String>(cmd("INFO").arg("stats")).await.unwrap();
    for _ in 0..10 {
        let huge = join_all(huge.iter().map(|name| length(&reader, name)));
        let small = join_all(small.iter().map(|name| length(&reader, name)));
        let (huge, small) = tokio::join!(huge, small);
        assert!(huge.iter().all(|found| matches!(found, Ok(None))), "{huge:?}");
        assert!(small.iter().all(|found| matches!(found, Ok(Some(100)))), "{small:?}");
        assert!(!reader.is_open());
    }
    let after = server.run::<String>(cmd("INFO").arg("stats")).await.unwrap();
    let sent = |stats: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:"));
        line.unwrap().trim().parse::<usize>().unwrap()
    };
    assert!(sent(&after) - sent(&output) < 4 * (32 << 20), "none of them came again and again");
}

/// What is large and within the limit comes as well, on a connection of its own.
#[tokio::test]
async fn large_values_within_the_limit_are_found() {
    let (_server, options) = server().await;
    let redis = options.connections(1).connect().await.unwrap();
    let sizes = [100, (64 << 10) - 1, 64 << 10, 512 << 10, 1 << 20];
    for size in sizes.into_iter().chain(sizes.into_iter().rev()) {
        put(&redis, "one", size).await;
        for _ in 0..3 {
            assert_eq!(length(&redis, "one").await.unwrap(), Some(size));
        }
    }
}
