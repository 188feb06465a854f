//! One store in front of another.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{
    Bus, Found, FoundOrLease, Guard, IsOutdated, Lease, LeaseToken, Store, StoreError, StoreStatus,
};
use crate::entry::{Entry, EntryVersion, Key};

/// A store in this process's memory in front of a store that nodes share.
///
/// `peek` reads from memory. `get` reads from the shared store: the cache calls it if `peek` found no usable entry, since
/// another node may have stored one. An entry from the shared store is copied into memory, unless the entry in memory is at
/// least as new: it includes later data, or it includes the same data and was computed no earlier. In that case, `get`
/// returns the entry in memory. If the shared store fails, entries are still stored in memory.
///
/// ```
/// use tidegate::{Cache, Memory, Tiered};
///
/// // A second store in memory stands in for Redis.
/// let cache = Cache::new(Tiered::new(Memory::new(1 << 20), Memory::new(64 << 20)));
/// ```
#[derive(Debug)]
pub struct Tiered {
    memory: Arc<dyn Store>,
    shared: Arc<dyn Store>,
}

impl Tiered {
    /// `memory` in front of `shared`, with a [`Guard`] around `shared`.
    pub fn new(memory: impl Store, shared: impl Store) -> Self {
        Self::with_guard(memory, Guard::new(shared))
    }

    /// `memory` in front of a store whose guard is already set up.
    pub fn with_guard(memory: impl Store, shared: Guard) -> Self {
        Self::unguarded(memory, shared)
    }

    /// `memory` in front of `shared`, without a [`Guard`]: calls to `shared` have no timeout and no circuit breaker.
    pub fn unguarded(memory: impl Store, shared: impl Store) -> Self {
        Self { memory: Arc::new(memory), shared: Arc::new(shared) }
    }

    async fn find(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        // The caller has already peeked: the entry in memory is missing or was not good enough.
        match self.shared.get(key).await? {
            Some(found) => Ok(Some(self.copy(key, found).await)),
            None => Ok(None),
        }
    }

    /// Copies an entry of the shared store into memory, or returns the one there if that is as new.
    async fn copy(&self, key: &Key, found: Found) -> Found {
        // A newer entry may have been put in memory while the reply was in transit, or not have reached the shared store.
        if let Some(newer) = self.memory.peek(key).filter(|kept| is_as_new(kept, &found)) {
            return newer;
        }
        if let Some(rest) = self.memory.put(key, &found.entry) {
            let _ = rest.await;
        }
        found
    }
}

fn is_as_new(kept: &Found, found: &Found) -> bool {
    let (kept, found) = (&kept.entry, &found.entry);
    kept.epoch() == found.epoch() && !found.is_newer_than(kept)
}

impl Store for Tiered {
    fn peek(&self, key: &Key) -> Option<Found> {
        self.memory.peek(key)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(self.find(key))
    }

    fn get_many<'a>(
        &'a self,
        keys: &'a [&'a Key],
    ) -> BoxFuture<'a, Vec<Result<Option<Found>, StoreError>>> {
        Box::pin(async move {
            let mut all = self.shared.get_many(keys).await;
            for (key, found) in keys.iter().zip(&mut all) {
                if let Ok(Some(found)) = found {
                    *found = self.copy(key, found.clone()).await;
                }
            }
            all
        })
    }

    fn is_read_together(&self, key: &Key) -> bool {
        self.shared.is_read_together(key)
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        match (self.memory.put(key, entry), self.shared.put(key, entry)) {
            (None, rest) | (rest, None) => rest,
            (Some(memory), Some(shared)) => Some(Box::pin(async {
                let (memory, shared) = futures_util::future::join(memory, shared).await;
                memory.and(shared)
            })),
        }
    }

    fn put_and_release(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        token: LeaseToken,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let memory = self.memory.put(key, entry);
        let shared = self.shared.put_and_release(key, entry, token);
        match memory {
            None => shared,
            Some(memory) => Box::pin(async {
                let (memory, shared) = futures_util::future::join(memory, shared).await;
                memory.and(shared)
            }),
        }
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async {
            let memory = self.memory.remove(key).await;
            memory.and(self.shared.remove(key).await)
        })
    }

    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        self.shared.lease(key, ttl)
    }

    fn get_or_lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
        unusable: Option<EntryVersion>,
    ) -> BoxFuture<'a, Result<FoundOrLease, StoreError>> {
        Box::pin(async move {
            match self.shared.get_or_lease(key, ttl, unusable).await? {
                FoundOrLease::Found(found) => Ok(FoundOrLease::Found(self.copy(key, found).await)),
                lease @ FoundOrLease::Lease(_) => Ok(lease),
            }
        })
    }

    fn is_one_step(&self, key: &Key) -> bool {
        self.shared.is_one_step(key)
    }

    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        self.shared.release(key, token)
    }

    fn is_shared(&self) -> bool {
        self.shared.is_shared()
    }

    fn evict_first(&self, is_outdated: IsOutdated) {
        self.memory.evict_first(is_outdated.clone());
        self.shared.evict_first(is_outdated);
    }

    fn status(&self) -> StoreStatus {
        self.memory.status().or(self.shared.status())
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        self.shared.bus()
    }
}
