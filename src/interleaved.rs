//! Explores, with shuttle, how tasks and nodes interleave that compute, wait for and invalidate one entry:
//! `cargo nextest run -p tidegate-shuttle`.
//!
//! The flight's locks, the fences, the semaphores and each step of the shared store are points where
//! another task may go on. Schedules are drawn at random, half of them by PCT (Burckhardt et al., 2010).

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{
    Cache, Entry, Epoch, Found, Key, Lease, LeaseToken, Memory, Position, Store, StoreError, Tier,
    Tiered, ValuePolicy,
};
use futures_util::future::BoxFuture;
use shuttle::future::{block_on, spawn};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use tokio::task::yield_now;

const RUNS: usize = 2000;

/// The store that nodes share. Other tasks may run before and after each of its steps.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    entries: HashMap<Vec<u8>, Arc<Entry>>,
    leases: HashMap<Vec<u8>, u64>,
    granted: u64,
}

impl Shared {
    async fn step<T>(self, step: impl FnOnce(&mut State) -> T) -> Result<T, StoreError> {
        yield_now().await;
        let done = step(&mut self.0.lock().unwrap());
        yield_now().await;
        Ok(done)
    }
}

impl Store for Shared {
    fn peek(&self, _key: &Key) -> Option<Found> {
        None
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(self.clone().step(|state| {
            let entry = state.entries.get(key.hash().as_slice()).cloned();
            entry.map(|entry| Found { entry, tier: Tier::Shared })
        }))
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        let (key, entry) = (key.hash().to_vec(), entry.clone());
        Some(Box::pin(self.clone().step(move |state| drop(state.entries.insert(key, entry)))))
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(self.clone().step(|state| drop(state.entries.remove(key.hash().as_slice()))))
    }

    fn lease<'a>(
        &'a self,
        key: &'a Key,
        _ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(self.clone().step(|state| {
            if state.leases.contains_key(key.hash().as_slice()) {
                return Lease::Held;
            }
            state.granted += 1;
            state.leases.insert(key.hash().to_vec(), state.granted);
            Lease::Granted(Some(LeaseToken(state.granted)))
        }))
    }

    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        let key = key.hash().to_vec();
        Box::pin(self.clone().step(move |state| {
            if state.leases.get(&key) == Some(&token.0) {
                state.leases.remove(&key);
            }
        }))
    }
}

/// The value that entries are computed from, and how often it was read.
#[derive(Clone, Default)]
struct Origin {
    value: Arc<AtomicU64>,
    reads: Arc<AtomicU64>,
}

impl Origin {
    async fn read(&self) -> Result<u64, Infallible> {
        yield_now().await;
        let value = self.value.load(Ordering::SeqCst);
        self.reads.fetch_add(1, Ordering::SeqCst);
        yield_now().await;
        Ok(value)
    }

    async fn get(self, cache: Cache) -> u64 {
        let hour = Duration::from_hours(1);
        let policy = ValuePolicy::ttl(hour).tag("t").lease(hour).wait(hour).build().unwrap();
        let read = async || self.read().await;
        cache.get_or_load(&Key::new("t").finish(), &policy, read).await.unwrap()
    }
}

fn cache(store: impl Store) -> Cache {
    Cache::with_limits(store, 0, 8)
}

/// Explores schedules of a scenario.
fn explore<F: Future<Output = ()> + 'static>(scenario: fn() -> F) {
    let run = move || block_on(scenario());
    let mut config = shuttle::Config::default();
    // Eight times shuttle's default stack of 32 KiB per task: without optimization, a lookup needs more.
    config.stack_size = 256 << 10;
    shuttle::Runner::new(RandomScheduler::new(RUNS), config.clone()).run(run);
    shuttle::Runner::new(PctScheduler::new(3, RUNS), config).run(run);
}

#[test]
fn one_request_fills_and_all_get_its_value() {
    explore(|| async {
        let (cache, origin) = (cache(Memory::new(1 << 16)), Origin::default());
        let all: Vec<_> = (0..3).map(|_| spawn(origin.clone().get(cache.clone()))).collect();
        for task in all {
            assert_eq!(task.await.unwrap(), 0);
        }
        assert_eq!(origin.reads.load(Ordering::SeqCst), 1);
    });
}

/// A request is cancelled at any point.
#[test]
fn a_cancelled_request_blocks_no_other() {
    explore(|| async {
        let (cache, origin) = (cache(Memory::new(1 << 16)), Origin::default());
        let mut all: Vec<_> = (0..3).map(|_| spawn(origin.clone().get(cache.clone()))).collect();
        yield_now().await;
        all.remove(0).abort();
        for task in all {
            assert_eq!(task.await.unwrap(), 0);
        }
        assert_eq!(origin.clone().get(cache).await, 0);
        assert!(
            origin.reads.load(Ordering::SeqCst) <= 2,
            "the cancelled request, and one for all others"
        );
    });
}

/// One cache with a two-tier store: a request that begins after an invalidation must see the change.
#[test]
fn a_request_that_begins_after_an_invalidation_sees_the_change() {
    explore(|| async {
        let shared = Shared::default();
        let store = Tiered::unguarded(Memory::new(1 << 16), shared);
        let (cache, origin) = (cache(store), Origin::default());
        let early = spawn(origin.clone().get(cache.clone()));
        let writer = spawn({
            let (cache, origin) = (cache.clone(), origin.clone());
            async move {
                for n in 1..=2 {
                    origin.value.store(n, Ordering::SeqCst);
                    cache.invalidate(["t"]).await.unwrap();
                    let seen = origin.clone().get(cache.clone()).await;
                    assert!(seen >= n, "{seen} after {n}");
                }
            }
        });
        early.await.unwrap();
        writer.await.unwrap();
        assert_eq!(origin.get(cache).await, 2);
    });
}

/// One of several nodes computes the entry, even if each finds the lease free at another time.
#[test]
fn one_node_fills_for_all_nodes() {
    explore(|| async {
        let (nodes, origin) = (nodes().await, Origin::default());
        let all: Vec<_> =
            nodes.iter().map(|node| spawn(origin.clone().get(node.clone()))).collect();
        for task in all {
            assert_eq!(task.await.unwrap(), 0);
        }
        assert_eq!(origin.reads.load(Ordering::SeqCst), 1);
    });
}

/// A request is cancelled at any point, and another node gets its lease.
#[test]
fn a_request_cancelled_on_one_node_hands_its_lease_to_another() {
    explore(|| async {
        let (nodes, origin) = (nodes().await, Origin::default());
        let mut all: Vec<_> =
            nodes.iter().map(|node| spawn(origin.clone().get(node.clone()))).collect();
        yield_now().await;
        all.remove(0).abort();
        for task in all {
            assert_eq!(task.await.unwrap(), 0);
        }
        assert!(origin.reads.load(Ordering::SeqCst) <= 2);
    });
}

/// Three caches over one store, in one epoch.
async fn nodes() -> Vec<Cache> {
    let shared = Shared::default();
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let node = cache(Tiered::unguarded(Memory::new(1 << 16), shared.clone()));
        node.fences().begin(Epoch::new(1), Position::ZERO, []);
        node.invalidate(["something else"]).await.unwrap();
        nodes.push(node);
    }
    nodes
}
