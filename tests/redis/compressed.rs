//! Entries whose bodies are compressed.

use std::sync::Arc;
use std::time::Duration;

use redis::cmd;
use tidegate::internals::entry;
use tidegate::{Entry, Key, Redis, RedisOptions, Store, StoreError};
use tidegate_testing::RedisServer;

use crate::common::{calls, eventually};

const LONG: Duration = Duration::from_mins(1);
const FROM: usize = 1000;

fn key(name: &str) -> Key {
    Key::new("compressed").part(name).finish()
}

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

async fn put(redis: &Redis, name: &str, body: &str) -> Arc<Entry> {
    let entry = Arc::new(entry(&key(name), body.to_owned(), 100, LONG));
    let put = async || redis.put(&key(name), &entry).unwrap().await.is_ok();
    eventually("it is stored", put).await;
    entry
}

async fn get(redis: &Redis, name: &str) -> Result<Option<String>, StoreError> {
    let found = redis.get(&key(name)).await?;
    Ok(found.map(|found| String::from_utf8(found.entry.body().to_vec()).unwrap()))
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
        let body = json(bytes);
        put(&packs, "body", &body).await;
        let size = stored(&server, "body").await;
        assert_eq!(size < bytes / 2, is_compressed, "{size} of {bytes}");
        assert_eq!(get(&packs, "body").await.unwrap().as_deref(), Some(&*body));
        assert_eq!(get(&plain, "body").await.unwrap().as_deref(), Some(&*body));
        put(&plain, "body", &body).await;
        assert!(stored(&server, "body").await > bytes);
        assert_eq!(get(&packs, "body").await.unwrap().as_deref(), Some(&*body));
    }
}

/// What counts is the size in Redis: such a body takes no connection of its own, and no lookup in two steps.
#[tokio::test]
async fn a_large_body_that_is_small_when_compressed_is_read_as_a_small_one() {
    let server = RedisServer::start().await.unwrap();
    let redis = RedisOptions::new(server.url()).compress_from(FROM).connect().await.unwrap();
    let body = json(500_000);
    put(&redis, "body", &body).await;
    assert!(stored(&server, "body").await < 64 << 10);
    assert_eq!(get(&redis, "body").await.unwrap(), Some(body));
    assert_eq!(calls(&server, "strlen").await, 1, "the test's own");
}

#[tokio::test]
async fn a_compressed_body_over_the_reader_s_limit_is_a_miss() {
    let server = RedisServer::start().await.unwrap();
    let options = RedisOptions::new(server.url());
    let writer = options.clone().compress_from(FROM).connect().await.unwrap();
    let reader = options.body_limit(100_000).connect().await.unwrap();
    put(&writer, "body", &json(100_001)).await;
    assert!(matches!(get(&reader, "body").await, Err(StoreError::Decode(_))));
    put(&writer, "body", &json(100_000)).await;
    assert!(get(&reader, "body").await.unwrap().is_some());
}

#[tokio::test]
async fn compressed_entries_are_signed_like_others() {
    let server = RedisServer::start().await.unwrap();
    let options = RedisOptions::new(server.url()).compress_from(FROM);
    let signed = options.secrets(["one secret of ours"]).connect().await.unwrap();
    let body = json(5000);
    put(&signed, "body", &body).await;
    assert_eq!(get(&signed, "body").await.unwrap(), Some(body));
    let names: Vec<String> = server.run(cmd("KEYS").arg("*")).await.unwrap();
    let name = names.iter().find(|name| !name.contains("lease")).unwrap();
    let mut bytes: Vec<u8> = server.run(cmd("GET").arg(name)).await.unwrap();
    assert!(bytes.len() < 2500);
    // In the body, which is at the end.
    *bytes.last_mut().unwrap() ^= 1;
    server.run::<redis::Value>(cmd("SET").arg(name).arg(bytes)).await.unwrap();
    assert!(matches!(get(&signed, "body").await, Err(StoreError::Decode(_))));
}
