//! How often a request looks in memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use futures_util::future::BoxFuture;
use tidegate::{
    Cache, CacheLayer, Entry, Found, Key, Memory, Policy, Store, StoreError, Tiered, ValuePolicy,
};

use crate::common::fetch;

const TTL: Duration = Duration::from_mins(1);

/// Memory that counts the lookups.
#[derive(Clone, Debug)]
struct Counted {
    memory: Arc<Memory>,
    probes: Arc<AtomicUsize>,
}

impl Counted {
    fn new() -> Self {
        Self { memory: Arc::new(Memory::new(1 << 20)), probes: Arc::default() }
    }

    /// How often since the last call.
    fn probes(&self) -> usize {
        self.probes.swap(0, Ordering::Relaxed)
    }

    fn in_front_of_a_shared_store(&self) -> Cache {
        Cache::new(Tiered::unguarded(self.clone(), Memory::new(1 << 20)))
    }
}

impl Store for Counted {
    fn peek(&self, key: &Key) -> Option<Found> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        self.memory.peek(key)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        self.probes.fetch_add(1, Ordering::Relaxed);
        self.memory.get(key)
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        self.memory.put(key, entry)
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.memory.remove(key)
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// Before the flight, and under it: another request may have stored the entry in between.
#[tokio::test]
async fn a_request_looks_in_memory_once_for_a_hit_and_twice_before_the_shared_store() {
    let memory = Counted::new();
    let layer = CacheLayer::new(memory.in_front_of_a_shared_store())
        .default_policy(Policy::ttl(TTL).jitter(0.0).early_refresh(0.0));
    let handler = async |State(memory): State<Counted>| memory.probes().to_string();
    let app = Router::new().route("/", get(handler)).layer(layer).with_state(memory.clone());
    assert_eq!(fetch(&app, "/").await.0, "2");
    memory.probes();
    assert_eq!(fetch(&app, "/").await.0, "2");
    assert_eq!(memory.probes(), 1);
}

/// The entry that was found first is not looked up again. The third probe compares it with the shared store's entry, which
/// is outdated too.
#[tokio::test]
async fn an_outdated_entry_in_memory_is_not_looked_up_again_before_the_flight() {
    let memory = Counted::new();
    let cache = memory.in_front_of_a_shared_store();
    let policy = Policy::ttl(TTL).jitter(0.0).early_refresh(0.0).tag("page");
    let layer = CacheLayer::new(cache.clone()).default_policy(policy);
    let handler = async |State(memory): State<Counted>| memory.probes().to_string();
    let app = Router::new().route("/", get(handler)).layer(layer).with_state(memory.clone());
    fetch(&app, "/").await;
    cache.invalidate(["page"]).await.unwrap();
    memory.probes();
    assert_eq!(fetch(&app, "/").await.0, "3");

    let policy = ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).tag("value").build().unwrap();
    let key = Key::new("probes").finish();
    let load = async || Ok::<_, Infallible>(memory.probes());
    cache.get_or_load(&key, &policy, load).await.unwrap();
    cache.invalidate(["value"]).await.unwrap();
    memory.probes();
    assert_eq!(cache.get_or_load(&key, &policy, load).await.unwrap(), 3);
}

#[tokio::test]
async fn a_value_looks_in_memory_once_for_a_hit_and_twice_before_the_shared_store() {
    let memory = Counted::new();
    let cache = memory.in_front_of_a_shared_store();
    let policy = ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).build().unwrap();
    let key = Key::new("probes").finish();
    let load = async || Ok::<_, Infallible>(memory.probes());
    assert_eq!(cache.get_or_load(&key, &policy, load).await.unwrap(), 2);
    memory.probes();
    assert_eq!(cache.get_or_load(&key, &policy, load).await.unwrap(), 2);
    assert_eq!(memory.probes(), 1);
}
