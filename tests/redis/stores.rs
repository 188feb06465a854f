//! What every store must do, on every store.

use std::sync::Arc;
use std::time::Duration;

use crate::common::entries::{LONG, body, entry_of, key, put};
use tidegate::internals::entry;
use tidegate::{
    Found, FoundOrLease, Guard, Key, Lease, Memory, Redis, RedisError, RedisOptions, Store, Tiered,
};
use tidegate_testing::{RedisCluster, RedisSentinel, RedisServer, eventually};

const SOME: usize = 64 << 20;
const PATIENT: Duration = Duration::from_secs(10);

/// A Redis that takes the largest of the entries here.
async fn connect(url: String) -> Result<Redis, RedisError> {
    RedisOptions::new(url).body_limit(8 << 20).connect().await
}

/// What a store is tried with: two of one kind that see the same entries, or twice the same.
async fn conforms(store: impl Store, twin: impl Store, leases: bool) {
    what_is_put_is_found(&store).await;
    every_field_survives(&store).await;
    a_later_put_wins_and_a_removed_entry_is_gone(&store).await;
    life_ends(&store).await;
    bodies_of_all_sizes(&store).await;
    a_batch_has_the_order_of_its_keys(&store).await;
    one_step_finds_an_entry_or_takes_the_lease(&store, &twin, leases).await;
    many_at_a_time(Arc::new(store), &twin, leases).await;
}

async fn what_is_put_is_found(store: &dyn Store) {
    assert_eq!(body(store, "absent").await.unwrap(), None);
    put(store, "a", &entry_of("a", "one")).await.unwrap();
    assert_eq!(body(store, "a").await.unwrap().as_deref(), Some("one"));
    assert_eq!(body(store, "b").await.unwrap(), None);
    // The place of one key with the entry of another, as after a collision of hashes.
    put(store, "c", &entry_of("a", "one")).await.unwrap();
    assert_eq!(body(store, "c").await.unwrap(), None);
}

async fn every_field_survives(store: &dyn Store) {
    let written = entry_of("fields", "body");
    put(store, "fields", &written).await.unwrap();
    let Found { entry: read, .. } = store.get(&key("fields")).await.unwrap().unwrap();
    assert_eq!((read.epoch(), read.as_of()), (written.epoch(), written.as_of()));
    assert_eq!((read.tags(), read.ttl()), (written.tags(), written.ttl()));
    assert_eq!((read.head(), read.body()), (written.head(), written.body()));
    assert!(read.age() < LONG);
}

async fn a_later_put_wins_and_a_removed_entry_is_gone(store: &dyn Store) {
    put(store, "w", &entry_of("w", "one")).await.unwrap();
    put(store, "w", &entry_of("w", "two")).await.unwrap();
    assert_eq!(body(store, "w").await.unwrap().as_deref(), Some("two"));
    store.remove(&key("w")).await.unwrap();
    assert_eq!(body(store, "w").await.unwrap(), None);
    store.remove(&key("w")).await.unwrap();
}

async fn life_ends(store: &dyn Store) {
    let brief = entry(&key("brief"), "x", 1, Duration::from_millis(200));
    put(store, "brief", &Arc::new(brief)).await.unwrap();
    put(store, "long", &entry_of("long", "x")).await.unwrap();
    let gone = async || store.get(&key("brief")).await.unwrap().is_none();
    eventually("the entry is gone at the end of its life", gone).await.unwrap();
    assert!(body(store, "long").await.unwrap().is_some());
    // An entry without any life left is no error, and is not there.
    let dead = entry(&key("dead"), "x", 1, Duration::ZERO);
    put(store, "dead", &Arc::new(dead)).await.unwrap();
    assert_eq!(body(store, "dead").await.unwrap(), None);
}

async fn bodies_of_all_sizes(store: &dyn Store) {
    for size in [0, 1, 5 << 20] {
        let large = Arc::new(entry(&key("size"), vec![b'x'; size], 1, LONG));
        put(store, "size", &large).await.unwrap();
        let found = store.get(&key("size")).await.unwrap().unwrap();
        assert!(found.entry.body() == large.body(), "{size}");
    }
    store.remove(&key("size")).await.unwrap();
}

async fn a_batch_has_the_order_of_its_keys(store: &dyn Store) {
    let name = |number: usize| format!("batch {number}");
    for number in (0..150).filter(|number| number % 3 != 0) {
        put(store, &name(number), &entry_of(&name(number), number.to_string())).await.unwrap();
    }
    // The place of one key with the entry of another, as after a collision of hashes.
    put(store, &name(3), &entry_of(&name(1), "1")).await.unwrap();
    for count in [0, 1, 2, 150] {
        let keys: Vec<Key> = (0..count).map(|number| key(&name(number))).collect();
        let found = store.get_many(&keys.iter().collect::<Vec<_>>()).await;
        assert_eq!(found.len(), count);
        for (number, found) in found.into_iter().enumerate() {
            let body = found.unwrap().map(|found| found.entry.body().to_vec());
            let expected = (number % 3 != 0).then(|| number.to_string().into_bytes());
            assert_eq!(body, expected, "{number} of {count}");
        }
    }
}

async fn one_step_finds_an_entry_or_takes_the_lease(
    store: &dyn Store,
    twin: &dyn Store,
    leases: bool,
) {
    // Only stores with leases share entries.
    let (key, twin) = (key("step"), if leases { twin } else { store });
    let step = async |store: &dyn Store, unusable| match store
        .get_or_lease(&key, LONG, unusable)
        .await
        .unwrap()
    {
        FoundOrLease::Found(found) => Ok(found.entry.as_of().get()),
        FoundOrLease::Lease(lease) => Err(lease),
    };
    let taken = step(store, None).await.unwrap_err();
    let held = if leases { Lease::Held } else { Lease::Granted(None) };
    assert_eq!(step(twin, None).await, Err(held));
    let (old, new) = (entry(&key, "old", 1, LONG), entry(&key, "new", 2, LONG));
    let versions = [old.version(), new.version()];
    put(store, "step", &Arc::new(old)).await.unwrap();
    assert_eq!(step(twin, None).await, Ok(1), "an entry counts more than the lease");
    assert_eq!(step(twin, Some(versions[1])).await, Ok(1));
    assert_eq!(step(twin, Some(versions[0])).await, Err(held));
    if let Lease::Granted(Some(token)) = taken {
        store.release(&key, token).await.unwrap();
        let Err(Lease::Granted(Some(token))) = step(twin, Some(versions[0])).await else {
            panic!("the lease of an unusable entry was not granted");
        };
        twin.put_and_release(&key, &Arc::new(new), token).await.unwrap();
        let Err(Lease::Granted(Some(token))) = step(store, Some(versions[1])).await else {
            panic!("the lease was not released with the entry");
        };
        twin.release(&key, token).await.unwrap();
    } else {
        put(store, "step", &Arc::new(new)).await.unwrap();
    }
    assert_eq!(step(twin, Some(versions[0])).await, Ok(2));
    // Of an idle database, an entry that was computed again has the same position.
    let again = async || entry(&key, "again", 2, LONG).version() != versions[1];
    eventually("an entry has a later time", again).await.unwrap();
    put(store, "step", &Arc::new(entry(&key, "again", 2, LONG))).await.unwrap();
    assert_eq!(step(twin, Some(versions[1])).await, Ok(2));
}

async fn many_at_a_time(store: Arc<dyn Store>, twin: &dyn Store, leases: bool) {
    let tasks = (0..200).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            let name = format!("many {number}");
            put(&*store, &name, &entry_of(&name, &name)).await.unwrap();
            assert_eq!(body(&*store, &name).await.unwrap(), Some(name));
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    if leases {
        one_holds_the_lease(&*store, twin).await;
    } else {
        assert_eq!(store.lease(&key("l"), LONG).await.unwrap(), Lease::Granted(None));
    }
}

async fn one_holds_the_lease(store: &dyn Store, twin: &dyn Store) {
    let key = key("lease");
    let Lease::Granted(Some(token)) = store.lease(&key, LONG).await.unwrap() else {
        panic!("no lease, or one that can't be given back");
    };
    assert_eq!(twin.lease(&key, LONG).await.unwrap(), Lease::Held);
    let wrong = tidegate::LeaseToken(token.0.wrapping_add(1));
    twin.release(&key, wrong).await.unwrap();
    assert_eq!(twin.lease(&key, LONG).await.unwrap(), Lease::Held);
    store.release(&key, token).await.unwrap();
    let brief = Duration::from_millis(200);
    assert!(matches!(twin.lease(&key, brief).await.unwrap(), Lease::Granted(Some(_))));
    eventually("the lease ends by itself", async || {
        matches!(store.lease(&key, LONG).await.unwrap(), Lease::Granted(Some(_)))
    })
    .await
    .unwrap();
    // Given back by the first holder, late: the lease is another's now.
    twin.release(&key, token).await.unwrap();
    assert_eq!(twin.lease(&key, LONG).await.unwrap(), Lease::Held);
}

fn memory() -> Memory {
    // Room for the largest entry in each of the cache's shards.
    Memory::new(SOME as u64 * 16)
}

fn patient(store: impl Store) -> Guard {
    Guard::new(store).read_within(PATIENT).write_within(PATIENT)
}

#[tokio::test]
async fn memory_conforms_to_the_store_contract() {
    conforms(memory(), memory(), false).await;
}

#[tokio::test]
async fn a_guard_conforms_to_the_store_contract() {
    conforms(patient(memory()), memory(), false).await;
}

#[tokio::test]
async fn a_single_redis_conforms_to_the_store_contract() {
    let server = RedisServer::start().await.unwrap();
    let [a, b] = [connect(server.url()).await, connect(server.url()).await];
    conforms(a.unwrap(), b.unwrap(), true).await;
}

#[tokio::test]
async fn a_redis_cluster_conforms_to_the_store_contract() {
    let cluster = RedisCluster::start().await.unwrap();
    let [a, b] = [connect(cluster.url()).await, connect(cluster.url()).await];
    conforms(a.unwrap(), b.unwrap(), true).await;
}

#[tokio::test]
async fn redis_under_sentinel_conforms_to_the_store_contract() {
    let sentinel = RedisSentinel::start().await.unwrap();
    let [a, b] = [connect(sentinel.url()).await, connect(sentinel.url()).await];
    conforms(a.unwrap(), b.unwrap(), true).await;
}

#[tokio::test]
async fn a_tiered_store_conforms_to_the_store_contract() {
    let server = RedisServer::start().await.unwrap();
    let redis = connect(server.url()).await.unwrap();
    let tiered = Tiered::with_guard(memory(), patient(redis.clone()));
    conforms(tiered, redis, true).await;
}

#[tokio::test]
async fn a_hit_in_the_shared_tier_is_copied_to_the_near_tier() {
    let shared = memory();
    put(&shared, "a", &entry_of("a", "one")).await.unwrap();
    let tiered = Tiered::new(memory(), shared);
    assert!(tiered.peek(&key("a")).is_none());
    assert_eq!(body(&tiered, "a").await.unwrap().as_deref(), Some("one"));
    assert!(tiered.peek(&key("a")).is_some());
}

#[tokio::test]
async fn memory_keeps_an_entry_that_redis_cannot_store() {
    let mut server = RedisServer::start().await.unwrap();
    let redis = connect(server.url()).await.unwrap();
    let tiered = Tiered::new(memory(), redis);
    server.kill().await.unwrap();
    assert!(put(&tiered, "a", &entry_of("a", "one")).await.is_err());
    assert!(tiered.peek(&key("a")).is_some());
    assert!(tiered.get(&key("b")).await.is_err());
}
