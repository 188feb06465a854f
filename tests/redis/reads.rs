//! Reads of Redis that come together.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use crate::common::entries::{self, entry_of};
use crate::common::{calls, standing_still};
use futures_util::future::join_all;
use futures_util::poll;
use redis::{Cmd, cmd};
use tidegate::internals::encode;
use tidegate::{Entry, Found, Key, Redis, Store, StoreError};
use tidegate_testing::RedisServer;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

const READS: usize = 100;

/// The key of the entry whose name and body are this number.
fn key(number: usize) -> Key {
    entries::key(&number.to_string())
}

fn numbered(number: usize) -> Arc<Entry> {
    entry_of(&number.to_string(), number.to_string())
}

/// A server that has all that is read here.
async fn filled() -> (RedisServer, Redis) {
    let server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    for name in 0..READS {
        redis.put(&key(name), &numbered(name)).unwrap().await.unwrap();
    }
    (server, redis)
}

async fn body(redis: &Redis, number: usize) -> Result<Option<String>, StoreError> {
    entries::body(redis, &number.to_string()).await
}

/// All at once, by one call.
async fn batch(redis: &Redis) -> Vec<Result<Option<String>, StoreError>> {
    let keys: Vec<Key> = (0..READS).map(key).collect();
    let found = redis.get_many(&keys.iter().collect::<Vec<_>>()).await;
    let body = |found: Found| String::from_utf8(found.entry.body().to_vec()).unwrap();
    found.into_iter().map(|found| Ok(found?.map(body))).collect()
}

async fn all(redis: &Redis) -> Vec<Result<Option<String>, StoreError>> {
    join_all((0..READS).map(|name| body(redis, name))).await
}

/// The place of what another client puts there.
async fn spoil(server: &RedisServer, name: usize, command: &str, value: &[u8]) {
    let place = super::place(&key(name));
    run(server, cmd("DEL").arg(&place)).await;
    run(server, cmd(command).arg(&place).arg(value)).await;
}

async fn run(server: &RedisServer, command: &mut Cmd) {
    server.run::<redis::Value>(command).await.unwrap();
}

#[tokio::test]
async fn concurrent_reads_take_few_commands_and_each_gets_its_own_value() {
    let (server, redis) = filled().await;
    spoil(&server, 7, "SET", b"garbage").await;
    spoil(&server, 8, "SET", &encode(&numbered(9))).await;
    spoil(&server, 11, "LPUSH", b"x").await;
    redis.remove(&key(13)).await.unwrap();
    let has_each_its_own = |results: Vec<Result<Option<String>, StoreError>>| {
        assert_eq!(results.len(), READS);
        for (name, result) in results.into_iter().enumerate() {
            match name {
                7 => assert!(matches!(result, Err(StoreError::Decode(_))), "{result:?}"),
                8 | 11 | 13 => assert_eq!(result.unwrap(), None, "{name}"),
                _ => assert_eq!(result.unwrap().unwrap(), name.to_string()),
            }
        }
    };
    let commands = async || (calls(&server, "mget").await, calls(&server, "get").await);
    run(&server, cmd("CONFIG").arg("RESETSTAT")).await;
    has_each_its_own(all(&redis).await);
    let (mget, get) = commands().await;
    assert!((2..=8).contains(&(mget + get)), "{mget} and {get} commands for {READS} reads");
    run(&server, cmd("CONFIG").arg("RESETSTAT")).await;
    has_each_its_own(batch(&redis).await);
    assert_eq!(commands().await, (2, 0));
}

/// Sixteen or more are a command of their own.
#[tokio::test]
async fn small_batches_of_several_callers_are_sent_together() {
    let (server, redis) = filled().await;
    let batch = async |names: std::ops::Range<usize>| {
        let keys: Vec<Key> = names.map(key).collect();
        let found = redis.get_many(&keys.iter().collect::<Vec<_>>()).await;
        assert!(found.iter().all(|found| matches!(found, Ok(Some(_)))));
    };
    for (batches, commands) in [([0..8, 8..16, 16..31], 1), ([0..16, 16..32, 32..48], 3)] {
        run(&server, cmd("CONFIG").arg("RESETSTAT")).await;
        join_all(batches.map(&batch)).await;
        assert_eq!(calls(&server, "mget").await, commands);
    }
}

#[tokio::test]
async fn a_single_read_is_sent_as_get() {
    let (server, redis) = filled().await;
    run(&server, cmd("CONFIG").arg("RESETSTAT")).await;
    for name in 0..5 {
        assert_eq!(body(&redis, name).await.unwrap().unwrap(), name.to_string());
    }
    assert_eq!((calls(&server, "get").await, calls(&server, "mget").await), (5, 0));
}

#[tokio::test]
async fn a_server_that_refuses_mget_is_read_key_by_key() {
    let (server, redis) = filled().await;
    run(&server, cmd("ACL").arg(&["SETUSER", "default", "-mget"])).await;
    let other = Redis::connect(server.url()).await.unwrap();
    for _ in 0..2 {
        run(&server, cmd("CONFIG").arg("RESETSTAT")).await;
        let results = all(&redis).await.into_iter().enumerate();
        for (name, result) in results.chain(batch(&other).await.into_iter().enumerate()) {
            assert_eq!(result.unwrap().unwrap(), name.to_string());
        }
        assert_eq!(calls(&server, "get").await, 2 * READS);
    }
    run(&server, cmd("ACL").arg(&["SETUSER", "default", "-get"])).await;
    let all = all(&redis).await.into_iter().chain(batch(&other).await);
    assert!(all.into_iter().all(|result| matches!(result, Err(StoreError::Backend(_)))));
}

#[tokio::test]
async fn a_cancelled_read_does_not_cancel_others() {
    let (server, redis) = filled().await;
    server.pause().unwrap();
    let mut reads: Vec<_> = (0..3)
        .map(|name| {
            let redis = redis.clone();
            tokio::spawn(async move { body(&redis, name).await })
        })
        .collect();
    for _ in 0..20 {
        yield_now().await;
    }
    reads.remove(0).abort();
    reads.remove(1).abort();
    yield_now().await;
    server.resume().unwrap();
    assert_eq!(reads.remove(0).await.unwrap().unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_runtime_that_ends_does_not_block_reads_of_others() {
    let (_server, redis) = filled().await;
    let elsewhere = redis.clone();
    let ended = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let begun = async { poll!(Box::pin(body(&elsewhere, 0))).is_pending() };
        runtime.block_on(begun)
    });
    assert!(ended.join().unwrap(), "it has to wait");
    assert_eq!(body(&redis, 1).await.unwrap().unwrap(), "1");
}

#[tokio::test]
async fn a_dead_server_is_an_error_for_every_read() {
    let (mut server, redis) = filled().await;
    server.kill().await.unwrap();
    assert!(all(&redis).await.iter().all(Result::is_err));
    let batch = batch(&redis).await;
    assert!(batch.len() == READS && batch.iter().all(Result::is_err));
}

/// Longer than anything here takes that comes to its end.
const NEVER: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_runtime_does_not_block_reads_of_others() {
    let (_server, redis) = filled().await;
    let begun = async { poll!(Box::pin(body(&redis, 0))).is_pending() };
    let (waits, _runtime) = standing_still(begun);
    assert!(waits);
    let all = timeout(NEVER, all(&redis)).await.expect("they wait for it");
    for (name, result) in all.into_iter().enumerate() {
        assert_eq!(result.unwrap().unwrap(), name.to_string());
    }
}

/// The read of one runtime was sent by the task of another, which does not run any more when the reply comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_sent_by_a_stalled_runtime_times_out() {
    let (server, redis) = filled().await;
    server.pause().unwrap();
    let ((has_begun, begun), (joined, has_joined)) = (oneshot::channel(), mpsc::channel());
    let elsewhere = redis.clone();
    let sending = tokio::task::spawn_blocking(move || {
        standing_still(async move {
            let mut first = Box::pin(body(&elsewhere, 0));
            assert!(poll!(&mut first).is_pending());
            has_begun.send(()).unwrap();
            // Blocking, so that the list is not sent before.
            has_joined.recv().unwrap();
            for _ in 0..9 {
                yield_now().await;
            }
        })
    });
    begun.await.unwrap();
    let mut second = Box::pin(body(&redis, 1));
    assert!(poll!(&mut second).is_pending());
    joined.send(()).unwrap();
    let _runtime = sending.await.unwrap();
    server.resume().unwrap();
    let result = timeout(NEVER, second).await.expect("it waits for the other runtime");
    assert!(matches!(result, Err(StoreError::Timeout(_))), "{result:?}");
    assert_eq!(body(&redis, 1).await.unwrap().unwrap(), "1", "and the next read does not");
}
