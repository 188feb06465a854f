//! Entries whose bodies are compressed.

use redis::cmd;
use tidegate::{Redis, RedisOptions, StoreError};
use tidegate_testing::RedisServer;

use crate::common::entries::{self, body, entry_of, key};
use crate::common::{calls, eventually};

const FROM: usize = 1000;

/// JSON as services return it.
fn json(bytes: usize) -> String {
    let items =
        (0..).map(|n| format!(r#"{{"id":{n},"name":"item {n}","price":{}}},"#, n * 7 % 100));
    let mut json = String::new();
    for item in items {
        json += &item;
        if json.len() >= bytes {
            break;
        }
    }
    json.truncate(bytes);
    json
}

async fn put(redis: &Redis, name: &str, body: &str) {
    let entry = entry_of(name, body);
    let put = async || entries::put(redis, name, &entry).await.is_ok();
    eventually("it is stored", put).await;
}

async fn stored(server: &RedisServer, name: &str) -> usize {
    server.run(cmd("STRLEN").arg(super::place(&key(name)))).await.unwrap()
}

#[tokio::test]
async fn bodies_from_the_given_size_on_are_compressed_and_every_node_reads_them() {
    let server = RedisServer::start().await.unwrap();
    let options = RedisOptions::new(server.url());
    let packs = options.clone().compress_from(FROM).connect().await.unwrap();
    let plain = options.connect().await.unwrap();
    for (bytes, is_compressed) in [(FROM - 1, false), (FROM, true), (500_000, true)] {
        let long = json(bytes);
        put(&packs, "body", &long).await;
        let size = stored(&server, "body").await;
        assert_eq!(size < bytes / 2, is_compressed, "{size} of {bytes}");
        assert_eq!(body(&packs, "body").await.unwrap().as_deref(), Some(&*long));
        assert_eq!(body(&plain, "body").await.unwrap().as_deref(), Some(&*long));
        put(&plain, "body", &long).await;
        assert!(stored(&server, "body").await > bytes);
        assert_eq!(body(&packs, "body").await.unwrap().as_deref(), Some(&*long));
    }
}

/// What counts is the size in Redis: such a body takes no connection of its own, and no lookup in two steps.
#[tokio::test]
async fn a_large_body_that_is_small_when_compressed_is_read_as_a_small_one() {
    let server = RedisServer::start().await.unwrap();
    let redis = RedisOptions::new(server.url()).compress_from(FROM).connect().await.unwrap();
    let long = json(500_000);
    put(&redis, "body", &long).await;
    assert!(stored(&server, "body").await < 64 << 10);
    assert_eq!(body(&redis, "body").await.unwrap(), Some(long));
    assert_eq!(calls(&server, "strlen").await, 1, "the test's own");
}

#[tokio::test]
async fn a_compressed_body_over_the_reader_s_limit_is_a_miss() {
    let server = RedisServer::start().await.unwrap();
    let options = RedisOptions::new(server.url());
    let writer = options.clone().compress_from(FROM).connect().await.unwrap();
    let reader = options.body_limit(100_000).connect().await.unwrap();
    put(&writer, "body", &json(100_001)).await;
    assert!(matches!(body(&reader, "body").await, Err(StoreError::Decode(_))));
    put(&writer, "body", &json(100_000)).await;
    assert!(body(&reader, "body").await.unwrap().is_some());
}

#[tokio::test]
async fn compressed_entries_are_signed_like_others() {
    let server = RedisServer::start().await.unwrap();
    let options = RedisOptions::new(server.url()).compress_from(FROM);
    let signed = options.secrets(["one secret of ours"]).connect().await.unwrap();
    let long = json(5000);
    put(&signed, "body", &long).await;
    assert_eq!(body(&signed, "body").await.unwrap(), Some(long));
    let names: Vec<String> = server.run(cmd("KEYS").arg("*")).await.unwrap();
    let name = names.iter().find(|name| !name.contains("lease")).unwrap();
    let mut bytes: Vec<u8> = server.run(cmd("GET").arg(name)).await.unwrap();
    assert!(bytes.len() < 2500);
    // In the body, which is at the end.
    *bytes.last_mut().unwrap() ^= 1;
    server.run::<redis::Value>(cmd("SET").arg(name).arg(bytes)).await.unwrap();
    assert!(matches!(body(&signed, "body").await, Err(StoreError::Decode(_))));
}
