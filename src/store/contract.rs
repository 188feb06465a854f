//! The contract of a store.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};

use super::bus::Bus;
use super::error::StoreError;
use super::found::{Found, IsOutdated};
use super::lease::{FoundOrLease, Lease, LeaseToken};
use super::status::StoreStatus;
use crate::entry::{Entry, EntryVersion, Key};

/// A place where entries are stored by key. Implement it to wrap another store, or to keep entries in this process in
/// another way. An [`Entry`] can't be encoded outside this crate, so only `Redis` stores entries on a server.
///
/// Errors are only counted and reported to the circuit breaker. If a store fails, the cache behaves as if the store
/// did not have the entry.
pub trait Store: Debug + Send + Sync + 'static {
    /// Finds an entry without waiting, as a store in memory can. The cache serves a hit from here without creating a
    /// future.
    fn peek(&self, key: &Key) -> Option<Found>;

    /// Finds an entry, by a call to a server if need be. `None` if there is none.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>>;

    /// Finds the entries of several keys, and returns them in the order of the keys. By default, this calls
    /// [`get`](Self::get) for each; a store that can read many in one step should do so.
    fn get_many<'a>(
        &'a self,
        keys: &'a [&'a Key],
    ) -> BoxFuture<'a, Vec<Result<Option<Found>, StoreError>>> {
        Box::pin(join_all(keys.iter().map(|key| self.get(key))))
    }

    /// Whether [`get_many`](Self::get_many) reads this key together with others, in one command. If not, [`Guard`](super::Guard)
    /// calls `get` for the key, with its own timeout.
    fn is_read_together(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// Stores an entry. Work that needs no waiting is done when this returns; the returned future is the rest, which
    /// the caller may run in the background.
    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>>;

    /// Stores an entry as [`put`](Self::put) does, and then releases the lease on it, whether it could be stored or not. By
    /// default, this takes two calls.
    fn put_and_release(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        token: LeaseToken,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        put_then_release(self, key, entry, token)
    }

    /// Removes an entry. Correctness never depends on this.
    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Acquires a lease on computing the entry for `key`, so that no other node computes it, for at most `ttl`.
    ///
    /// A lease only saves work; correctness does not depend on it. A store that other nodes don't share always grants it.
    /// If the server's reply is lost (the future fails or is dropped), the server may have granted a lease that no node
    /// knows of, and other nodes would wait until it expires: the store should then release it.
    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let _ = (key, ttl);
        Box::pin(async { Ok(Lease::Granted(None)) })
    }

    /// Finds an entry, or else acquires the lease on computing one, as [`lease`](Self::lease) does. `unusable` is the
    /// version of an entry that the caller has already found and can't use: that entry counts as absent. A store that can
    /// do both in one step needs one round trip for a miss; by default, this takes up to three calls.
    fn get_or_lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
        unusable: Option<EntryVersion>,
    ) -> BoxFuture<'a, Result<FoundOrLease, StoreError>> {
        Box::pin(get_then_lease(self, key, ttl, unusable))
    }

    /// Whether [`get_or_lease`](Self::get_or_lease) for this key is one call to a server. If not, [`Guard`](super::Guard) calls `get` and
    /// `lease` in its place, each with its own timeout.
    fn is_one_step(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// Whether the value of a key is known to be large. If so, [`Guard`](super::Guard) does not count a timeout as a failure of the
    /// store.
    fn is_large(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// Whether other nodes use this store too. If not, the cache acquires no leases.
    fn is_shared(&self) -> bool {
        true
    }

    /// Releases a lease, so that other nodes need not wait until it expires.
    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        let _ = (key, token);
        Box::pin(async { Ok(()) })
    }

    /// Tells the store which entries to evict first: those that will never be valid again, though a policy may still
    /// allow them to be served when a handler fails. [`Cache::new`](crate::Cache::new) calls this once. A store that
    /// bounds its size should follow it; by default, a store does not. `is_outdated` is quick and calls no store, so
    /// it may be called while a lock is held.
    fn evict_first(&self, is_outdated: IsOutdated) {
        let _ = is_outdated;
    }

    /// The state of the store, for monitoring.
    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    /// A message channel to the other nodes that share this store, if it has one.
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        None
    }
}

/// [`Store::get_or_lease`] in separate steps. The last holder of the lease may have stored an entry after the first step, so
/// the store is queried again.
pub(super) async fn get_then_lease<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    ttl: Duration,
    unusable: Option<EntryVersion>,
) -> Result<FoundOrLease, StoreError> {
    let other = |found: &Found| Some(found.entry.version()) != unusable;
    if let Some(found) = store.get(key).await?.filter(other) {
        return Ok(FoundOrLease::Found(found));
    }
    let lease = store.lease(key, ttl).await?;
    if let Lease::Granted(Some(token)) = lease
        && let Ok(Some(found)) = store.get(key).await
        && other(&found)
    {
        // If this fails, the lease expires.
        let _ = store.release(key, token).await;
        return Ok(FoundOrLease::Found(found));
    }
    Ok(FoundOrLease::Lease(lease))
}

/// [`Store::put_and_release`] in separate steps.
pub(super) fn put_then_release<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    entry: &Arc<Entry>,
    token: LeaseToken,
) -> BoxFuture<'static, Result<(), StoreError>> {
    let (rest, release) = (store.put(key, entry), store.release(key, token));
    Box::pin(async move {
        let stored = match rest {
            Some(rest) => rest.await,
            None => Ok(()),
        };
        // If this fails, the lease expires.
        let _ = release.await;
        stored
    })
}
