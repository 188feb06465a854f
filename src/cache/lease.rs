//! Leases: the right of one node to fill an entry while the others wait.
//!
//! Other nodes wait for a lease until it expires, unless its holder releases it. So each lease has a guard from before
//! the request for it is sent: [`PendingLease`] until the store replies, then [`LeaseGuard`]. Wherever the request that
//! fills the entry is cancelled, dropping the guard releases the lease.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::background::spawn;
use super::cache::Cache;
use super::policy::Policy;
use crate::entry::{Entry, EntryVersion, Key};
use crate::store::{Found, FoundOrLease, Lease, LeaseToken, StoreError};

/// The result of a request for a lease.
#[derive(Debug)]
pub(super) enum Claimed {
    /// This node fills the entry.
    Granted(Box<LeaseGuard>),
    /// This node fills the entry, and the store makes no other node wait.
    Unneeded,
    /// Another node holds the lease.
    Held,
    /// There is an entry.
    Found(Found),
}

/// A lease that this node holds; dropping it releases the lease.
#[derive(Debug)]
pub(crate) struct LeaseGuard {
    cache: Cache,
    key: Key,
    token: Option<LeaseToken>,
}

impl LeaseGuard {
    /// Stores the entry: in memory at once, and in the shared store by the returned future, which then releases the lease.
    pub(super) fn put(
        mut self: Box<Self>,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        let store = &self.cache.shared.store;
        match self.token.take() {
            Some(token) => Some(store.put_and_release(&self.key, entry, token)),
            None => store.put(&self.key, entry),
        }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            let (cache, release) =
                (self.cache.clone(), self.cache.shared.store.release(&self.key, token));
            spawn(async move { cache.noted(release.await) });
        }
    }
}

/// A request for a lease. If it is dropped before the store replies, it reads the reply in the background and releases
/// a lease that was granted.
pub(super) struct PendingLease {
    cache: Cache,
    key: Key,
    reply: Option<BoxFuture<'static, Result<FoundOrLease, StoreError>>>,
}

impl PendingLease {
    /// A request for the lease of `key`, which expires after `ttl`.
    pub(super) fn new(cache: &Cache, key: &Key, ttl: Duration) -> Self {
        Self::sending(cache, key, |cache: Cache, key: Key| async move {
            cache.shared.store.lease(&key, ttl).await.map(FoundOrLease::Lease)
        })
    }

    /// The same, unless there is an entry of another version than `unusable`.
    pub(super) fn or_entry(
        cache: &Cache,
        key: &Key,
        ttl: Duration,
        unusable: Option<EntryVersion>,
    ) -> Self {
        Self::sending(cache, key, |cache: Cache, key: Key| async move {
            cache.shared.store.get_or_lease(&key, ttl, unusable).await
        })
    }

    fn sending<F>(cache: &Cache, key: &Key, send: impl FnOnce(Cache, Key) -> F) -> Self
    where
        F: Future<Output = Result<FoundOrLease, StoreError>> + Send + 'static,
    {
        let (cache, key) = (cache.clone(), key.clone());
        let reply = send(cache.clone(), key.clone());
        Self { cache, key, reply: Some(Box::pin(reply)) }
    }

    /// Sends the request and waits for the reply.
    ///
    /// # Errors
    ///
    /// If the store fails; the store then releases a lease that it may have granted.
    pub(super) async fn claim(mut self) -> Result<Claimed, StoreError> {
        let Some(reply) = &mut self.reply else { return Ok(Claimed::Unneeded) };
        let replied = reply.await;
        self.reply = None;
        Ok(match replied? {
            FoundOrLease::Found(found) => Claimed::Found(found),
            FoundOrLease::Lease(Lease::Granted(Some(token))) => {
                let (cache, key) = (self.cache.clone(), self.key.clone());
                Claimed::Granted(Box::new(LeaseGuard { cache, key, token: Some(token) }))
            }
            FoundOrLease::Lease(Lease::Granted(None)) => Claimed::Unneeded,
            FoundOrLease::Lease(Lease::Held) => Claimed::Held,
        })
    }
}

impl Drop for PendingLease {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            let (cache, key) = (self.cache.clone(), self.key.clone());
            spawn(async move {
                if let Ok(FoundOrLease::Lease(Lease::Granted(token))) = reply.await {
                    drop(LeaseGuard { cache, key, token });
                }
            });
        }
    }
}

impl Cache {
    /// Whether a fill takes a lease: other nodes share the store, and the policy allows leases.
    pub(crate) fn leases(&self, policy: &Policy) -> bool {
        !policy.lease.is_zero() && self.shared.store.is_shared()
    }
}

#[cfg(test)]
#[cfg(all(feature = "memory", not(tidegate_shuttle)))]
mod tests;
