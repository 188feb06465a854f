//! What becomes of the shared tier when Redis fails, on real servers that do.

use std::time::Duration;

use crate::common::entries::{self, body, entry_of, key};
use crate::common::standing_still;
use crate::common::warnings::{all_warnings, keep_warnings, warnings};
use futures_util::poll;
use redis::{Cmd, cmd};
use tidegate::internals::encode;
use tidegate::{Guard, Redis, RedisOptions, Store, StoreError};
use tidegate_testing::{
    FaultProxy, RedisCluster, RedisSentinel, RedisServer, eventually, free_port,
};

/// Stores an entry whose body is its name.
async fn put(store: &dyn Store, name: &str) -> Result<(), StoreError> {
    entries::put(store, name, &entry_of(name, name)).await
}

async fn has(store: &dyn Store, name: &str) -> bool {
    matches!(body(store, name).await, Ok(Some(body)) if body == name)
}

/// Where the entry of a key lies.
fn place(name: &str) -> String {
    super::place(&key(name))
}

async fn spoil(server: &RedisServer, command: &mut Cmd) {
    server.run::<redis::Value>(command).await.unwrap();
}

#[tokio::test]
async fn a_hung_server_is_not_waited_for_and_is_used_again_once_it_responds() {
    let server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    let guard = Guard::new(redis).breaker(3, Duration::from_millis(100));
    put(&guard, "a").await.unwrap();
    server.pause().unwrap();
    for _ in 0..3 {
        assert!(matches!(body(&guard, "a").await, Err(StoreError::Timeout(_))));
    }
    assert!(guard.is_open());
    assert!(matches!(body(&guard, "a").await, Err(StoreError::Open)));
    server.resume().unwrap();
    eventually("a probe closes the breaker", async || has(&guard, "a").await).await.unwrap();
    assert!(!guard.is_open());
}

#[tokio::test]
async fn a_killed_server_is_used_again_after_its_restart() {
    let mut server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    put(&redis, "a").await.unwrap();
    server.kill().await.unwrap();
    assert!(body(&redis, "a").await.is_err());
    server.restart().await.unwrap();
    eventually("it is used again", async || put(&redis, "a").await.is_ok()).await.unwrap();
    assert!(has(&redis, "a").await);
}

#[tokio::test]
async fn a_malformed_entry_is_an_error_that_the_next_put_repairs() {
    let server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    let whole = encode(&entry_of("a", "a"));
    let mut old = whole.to_vec();
    old[3] = 0;
    for hostile in [b"garbage".to_vec(), Vec::new(), whole[..whole.len() - 1].to_vec(), old] {
        spoil(&server, cmd("SET").arg(place("a")).arg(&hostile)).await;
        let read = body(&redis, "a").await;
        assert!(matches!(read, Err(StoreError::Decode(_))), "{hostile:?}: {read:?}");
        put(&redis, "a").await.unwrap();
        assert!(has(&redis, "a").await);
    }
    spoil(&server, cmd("DEL").arg(place("a"))).await;
    spoil(&server, cmd("LPUSH").arg(place("a")).arg("x")).await;
    assert!(matches!(body(&redis, "a").await, Err(StoreError::Backend(_))));
    put(&redis, "a").await.unwrap();
    assert!(has(&redis, "a").await);
}

/// The place of one key with the entry of another: a collision of hashes, or somebody's joke.
#[tokio::test]
async fn an_entry_of_another_key_is_a_miss() {
    let server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    spoil(&server, cmd("SET").arg(place("a")).arg(&encode(&entry_of("b", "b"))[..])).await;
    assert_eq!(body(&redis, "a").await.unwrap(), None);
}

#[tokio::test]
async fn a_full_server_refuses_puts_and_still_serves_reads() {
    let server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    let guard = Guard::new(redis);
    put(&guard, "a").await.unwrap();
    spoil(&server, cmd("CONFIG").arg("SET").arg("maxmemory").arg("1")).await;
    for _ in 0..10 {
        assert!(put(&guard, "b").await.is_err());
        assert!(has(&guard, "a").await, "reads have a breaker of their own");
    }
}

/// As when its disk is full: PING gets an error too, and reads do not.
#[tokio::test]
async fn a_server_that_cannot_write_to_its_disk_serves_reads_to_a_node_that_starts() {
    let directory = std::env::temp_dir().join(format!("tidegate-{}", free_port().unwrap()));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.to_str().unwrap();
    let server = RedisServer::start_with(&["--dir", path, "--save", "3600 1"]).await.unwrap();
    put(&Redis::connect(server.url()).await.unwrap(), "a").await.unwrap();
    std::fs::remove_dir(&directory).unwrap();
    eventually("it can't save", async || {
        let _ = server.run::<redis::Value>(&cmd("BGSAVE")).await;
        let pong = server.run::<redis::Value>(&cmd("PING")).await;
        pong.is_err_and(|error| error.to_string().contains("MISCONF"))
    })
    .await
    .unwrap();
    for lazy in [true, false] {
        let redis = RedisOptions::new(server.url()).lazy(lazy).connect().await.unwrap();
        assert!(put(&redis, "b").await.is_err());
        assert!(has(&redis, "a").await, "lazy: {lazy}");
    }
}

#[tokio::test]
async fn while_a_server_is_a_replica_nodes_connect_ever_less_often() {
    let server = RedisServer::start().await.unwrap();
    let redis = RedisOptions::new(server.url()).connections(1).connect().await.unwrap();
    put(&redis, "a").await.unwrap();
    // Of a master that does not exist.
    let port = free_port().unwrap().to_string();
    spoil(&server, cmd("REPLICAOF").arg("127.0.0.1").arg(port)).await;
    for _ in 0..60 {
        assert!(put(&redis, "b").await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stats = server.run::<String>(cmd("INFO").arg("stats")).await.unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("total_connections_received:"));
    // The test's own commands open one each.
    let connections: usize = line.unwrap().trim().parse().unwrap();
    assert!(connections < 20, "{connections} for 60 writes");
}

#[tokio::test]
async fn a_flushed_server_yields_misses_and_no_errors() {
    let server = RedisServer::start().await.unwrap();
    let redis = Redis::connect(server.url()).await.unwrap();
    put(&redis, "a").await.unwrap();
    spoil(&server, &mut cmd("FLUSHALL")).await;
    assert_eq!(body(&redis, "a").await.unwrap(), None);
}

#[tokio::test]
async fn a_failover_to_another_master_is_followed() {
    let mut sentinel = RedisSentinel::start().await.unwrap();
    let redis = Redis::connect(sentinel.url()).await.unwrap();
    put(&redis, "a").await.unwrap();
    sentinel.failover().await.unwrap();
    eventually("the new master takes writes", async || put(&redis, "b").await.is_ok())
        .await
        .unwrap();
    assert!(has(&redis, "b").await);
    drop(sentinel.kill_master().await);
}

/// A slot that moves while it is read and written: redirected, and never another key's entry.
#[tokio::test]
async fn an_entry_stays_readable_while_its_slot_migrates() {
    let mut cluster = RedisCluster::start().await.unwrap();
    let redis = Redis::connect(cluster.url()).await.unwrap();
    put(&redis, "a").await.unwrap();
    let nodes = cluster.nodes();
    let slot: u16 = nodes[0].run(cmd("CLUSTER").arg("KEYSLOT").arg(place("a"))).await.unwrap();
    let from = usize::from(slot / 5462).min(2);
    let to = (from + 1) % 3;
    let mut ids = Vec::new();
    for node in nodes.iter() {
        ids.push(node.run::<String>(cmd("CLUSTER").arg("MYID")).await.unwrap());
    }
    let setslot = |state: &str, id: &str| {
        let mut command = cmd("CLUSTER");
        command.arg("SETSLOT").arg(slot).arg(state).arg(id);
        command
    };
    spoil(&nodes[to], &mut setslot("IMPORTING", &ids[from])).await;
    spoil(&nodes[from], &mut setslot("MIGRATING", &ids[to])).await;
    assert!(has(&redis, "a").await, "not moved yet");
    let target = nodes[to].addr();
    let mut migrate = cmd("MIGRATE");
    migrate.arg(target.ip().to_string()).arg(target.port()).arg(place("a")).arg(0).arg(5000);
    spoil(&nodes[from], &mut migrate).await;
    assert!(has(&redis, "a").await, "moved, and requested from where it was");
    for node in nodes.iter() {
        spoil(node, &mut setslot("NODE", &ids[to])).await;
    }
    assert!(has(&redis, "a").await, "moved for good");
    put(&redis, "a").await.unwrap();
}

/// The bug class of a connection whose replies are one request late: the wrong user's data.
#[tokio::test]
async fn a_late_reply_never_reaches_another_request() {
    let server = RedisServer::start().await.unwrap();
    let proxy = FaultProxy::start(server.addr()).await.unwrap();
    let options = RedisOptions::new(format!("redis://{}/", proxy.addr())).connections(1);
    let redis = options.connect().await.unwrap();
    let names: Vec<String> = (0..50).map(|number| format!("user {number}")).collect();
    for name in &names {
        put(&redis, name).await.unwrap();
    }
    proxy.delay(Duration::from_millis(30));
    let hasty = Guard::new(redis.clone()).read_within(Duration::from_millis(10));
    let hasty = hasty.breaker(u32::MAX, Duration::ZERO);
    for name in &names[..25] {
        // Given up before the reply is here.
        if let Ok(Some(got)) = body(&hasty, name).await {
            assert_eq!(&got, name);
        }
    }
    proxy.heal().await.unwrap();
    for name in &names {
        eventually("the connection is fit again", async || match body(&redis, name).await {
            Ok(got) => got.as_ref().is_some_and(|got| {
                assert_eq!(got, name, "a late reply reached another request");
                true
            }),
            Err(_) => false,
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_service_starts_while_redis_is_down_and_uses_it_once_it_is_up() {
    let mut server = RedisServer::start().await.unwrap();
    server.kill().await.unwrap();
    let store = Redis::connect(server.url()).await.unwrap();
    assert!(!store.is_connected() && put(&store, "one").await.is_err());
    server.restart().await.unwrap();
    eventually("it is used", async || put(&store, "two").await.is_ok()).await.unwrap();
    assert!(has(&store, "two").await);
}

/// Settings are often read by a runtime of their own.
#[tokio::test]
async fn a_connection_attempt_continues_after_the_runtime_that_began_it_has_ended() {
    let mut server = RedisServer::start().await.unwrap();
    server.kill().await.unwrap();
    let url = server.url();
    let elsewhere = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let store = Redis::connect(url).await.unwrap();
            assert!(put(&store, "one").await.is_err());
            store
        })
    });
    let store = elsewhere.join().unwrap();
    server.restart().await.unwrap();
    eventually("it is used", async || put(&store, "two").await.is_ok()).await.unwrap();
    assert!(has(&store, "two").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_attempt_continues_while_the_runtime_that_began_it_is_stalled() {
    let mut server = RedisServer::start().await.unwrap();
    server.kill().await.unwrap();
    let connecting = async {
        let store = Redis::connect(server.url()).await.unwrap();
        assert!(put(&store, "one").await.is_err());
        store
    };
    let (store, _runtime) = standing_still(connecting);
    server.restart().await.unwrap();
    eventually("it is used", async || put(&store, "two").await.is_ok()).await.unwrap();
    assert!(has(&store, "two").await);
}

/// A request that is dropped without a reply counts against its connection, wherever it is dropped.
#[tokio::test]
async fn requests_may_be_dropped_outside_a_runtime() {
    let server = RedisServer::start().await.unwrap();
    let store = RedisOptions::new(server.url()).connections(1).connect().await.unwrap();
    server.pause().unwrap();
    let keys = ["a", "b", "c"].map(key);
    let mut requests: Vec<_> = keys.iter().map(|key| store.remove(key)).collect();
    for request in &mut requests {
        assert!(poll!(request).is_pending());
    }
    // After 20 ms a request counts as slow.
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(30)).await;
    tokio::time::resume();
    let dropped = std::thread::scope(|scope| scope.spawn(|| drop(requests)).join());
    assert!(dropped.is_ok());
    server.resume().unwrap();
    eventually("it is used again", async || put(&store, "a").await.is_ok()).await.unwrap();
}

#[tokio::test]
async fn a_redis_that_is_down_at_the_start_is_warned_about_without_the_secret() {
    keep_warnings();
    let (port, named) = (free_port().unwrap(), "can't reach Redis");
    let redis = Redis::connect(format!("redis://u:wr0ng-secret@127.0.0.1:{port}/")).await.unwrap();
    assert!(put(&redis, "a").await.is_err());
    assert_eq!(warnings(&[named, &format!("127.0.0.1:{port}")]), 1, "{}", all_warnings());
    assert_eq!(warnings(&["wr0ng-secret"]), 0, "{}", all_warnings());
}

#[tokio::test]
async fn a_wrong_address_or_password_is_reported_without_the_secret() {
    let server = RedisServer::start_with(&["--requirepass", "right:p@ss"]).await.unwrap();
    let port = server.addr().port();
    for (url, mend) in [
        (format!("redis://:wr0ng-secret@127.0.0.1:{port}/"), "password"),
        ("http://u:wr0ng-secret@127.0.0.1/".into(), "redis://"),
        ("redis://u:wr0ng-secret@".into(), "redis"),
        ("redis://u:wr0ng-secret@127.0.0.1:1/".into(), "127.0.0.1:1"),
    ] {
        let strict = RedisOptions::new(url.clone()).lazy(false);
        let error = strict.connect().await.expect_err("it can't be used");
        let message = crate::common::with_causes(&error);
        assert!(message.contains(mend), "{message}");
        assert!(!message.contains("wr0ng-secret"), "{message}");
    }
}
