//! The stores of entries.
//!
//! A [`Store`] gets, puts and removes entries by key; it knows nothing of validity. `Memory` is in this process, `Redis` is
//! shared by all nodes, `Tiered` puts one store in front of another, and `Guard` makes any store fail fast. Each of these
//! implements `Store`, and all pass the same tests (`tests/redis/stores.rs`). Nothing that a store does or loses can make a
//! node serve stale data, since each entry carries its own proof.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{BoxFuture, join, join_all};

use crate::entry::{DecodeError, Entry, EntryVersion, Key};

mod breaker;
mod bus;
mod guard;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod tiered;

pub use bus::Bus;
pub use guard::Guard;
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisError, RedisInfo, RedisOptions};
pub use tiered::Tiered;

/// A place where entries are stored by key. Implement it to wrap another store, or to keep entries in this process in
/// another way. An [`Entry`] can't be encoded outside this crate, so only `Redis` stores entries on a server.
///
/// Errors are only counted and reported to the circuit breaker: the cache treats a store that fails as one without the
/// entry.
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

    /// Whether [`get_many`](Self::get_many) reads this key by one command with others. If not, [`Guard`] calls `get` for the
    /// key, with its own timeout.
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

    /// Whether [`get_or_lease`](Self::get_or_lease) for this key is one call to a server. If not, [`Guard`] calls `get` and
    /// `lease` in its place, each with its own timeout.
    fn is_one_step(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// Whether the value of a key is known to be large. If so, [`Guard`] does not count a timeout as a failure of the
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

    /// Tells the store which entries to evict first: those that will never be valid again, though a policy may still allow
    /// them to be served when a handler fails. [`Cache::new`](crate::Cache::new) calls this once. A store that bounds its size
    /// should follow it; by default, a store does not. The function is quick and calls no store, so it may be called while a
    /// lock is held.
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

/// The most keys that one command reads: all of its values arrive in one reply.
const MOST_TOGETHER: usize = 64;

/// Whether an entry will never be valid again.
pub type IsOutdated = Arc<dyn Fn(&Entry) -> bool + Send + Sync>;

/// An entry and the tier where it was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The entry.
    pub entry: Arc<Entry>,
    /// The tier where it was found.
    pub tier: Tier,
}

/// Where an entry was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tier {
    /// In this process.
    Memory,
    /// In the store that nodes share.
    Shared,
}

/// The state of a store, including the stores that it wraps. A field is `None` if no store in it has that information.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The tier in memory.
    pub memory: Option<MemoryStatus>,
    /// Whether there is a connection to the shared tier, as far as is known.
    pub connected: Option<bool>,
    /// Whether a circuit breaker of a [`Guard`] currently keeps requests from calling the shared tier.
    pub breaker_open: Option<bool>,
    /// The number of writes that a [`Guard`] dropped because too many were in progress.
    pub dropped_writes: u64,
    /// Entries and messages in the shared tier that were ignored, since they are not signed with a secret of this
    /// service; 0 where nothing is signed.
    pub refused: u64,
}

/// The memory use of a store in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStatus {
    /// Entries in it.
    pub entries: u64,
    /// The approximate number of bytes that they take.
    pub bytes: u64,
    /// The largest number of bytes that they may take.
    pub capacity: u64,
}

impl StoreStatus {
    /// Combines the states of two stores. Where both have a value, that of `self` is used; counts are added.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory.or(other.memory),
            connected: self.connected.or(other.connected),
            breaker_open: self.breaker_open.or(other.breaker_open),
            dropped_writes: self.dropped_writes + other.dropped_writes,
            refused: self.refused + other.refused,
        }
    }
}

/// The result of [`Store::lease`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// This node holds the lease. The token, if there is one, is for [`Store::release`].
    Granted(Option<LeaseToken>),
    /// Another node holds the lease and is computing the entry.
    Held,
}

/// The result of [`Store::get_or_lease`].
#[derive(Clone, Debug)]
pub enum FoundOrLease {
    /// There is an entry.
    Found(Found),
    /// There is no entry, or only the one that the caller can't use. The [`Lease`] says whether the lease was
    /// acquired.
    Lease(Lease),
}

/// [`Store::get_or_lease`] in separate steps. The last holder of the lease may have stored an entry after the first step, so
/// the store is queried again.
async fn get_then_lease<S: Store + ?Sized>(
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

/// [`Store::get_many`], with some keys read together and the others one by one.
async fn get_split<'k, T, A>(
    keys: &[&'k Key],
    is_together: impl Fn(&Key) -> bool,
    together: impl FnOnce(Vec<&'k Key>) -> T,
    apart: impl Fn(&'k Key) -> A,
) -> Vec<Result<Option<Found>, StoreError>>
where
    T: Future<Output = Vec<Result<Option<Found>, StoreError>>>,
    A: Future<Output = Result<Option<Found>, StoreError>>,
{
    let are_together: Vec<bool> = keys.iter().map(|key| is_together(key)).collect();
    let those = |together: bool| {
        let keys = keys.iter().zip(&are_together);
        keys.filter(move |(_, is)| **is == together).map(|(key, _)| *key)
    };
    let apart = join_all(those(false).map(apart));
    let (together, apart) = match those(true).collect::<Vec<_>>() {
        none if none.is_empty() => (Vec::new(), apart.await),
        some => join(together(some), apart).await,
    };
    let (mut together, mut apart) = (together.into_iter(), apart.into_iter());
    let next = |is_together| if is_together { together.next() } else { apart.next() };
    are_together.into_iter().filter_map(next).collect()
}

/// [`Store::put_and_release`] in separate steps.
fn put_then_release<S: Store + ?Sized>(
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

/// Identifies a lease, so that releasing it does not release a later one on the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken(pub u64);

/// Why a call to a store failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The store did not respond within this timeout.
    #[error("the store did not respond within {0:?}")]
    Timeout(Duration),
    /// The circuit breaker is open after too many failures, so the store was not called.
    #[error("the store's circuit breaker is open")]
    Open,
    /// Too many writes were in progress, so this one was dropped.
    #[error("too many writes to the store are in progress; this one was dropped")]
    Busy,
    /// The bytes that are stored under the key can't be decoded as an entry of this version.
    #[error("the stored entry can't be decoded: {0}")]
    Decode(DecodeError),
    /// The store returned an error, or could not be reached.
    #[error(transparent)]
    Backend(Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// The same error for each of `count` callers.
    pub(crate) fn repeated(self, count: usize) -> impl Iterator<Item = Self> {
        let error = Arc::new(self);
        (0..count).map(move |_| match *error {
            Self::Timeout(limit) => Self::Timeout(limit),
            Self::Open => Self::Open,
            Self::Busy => Self::Busy,
            Self::Decode(_) | Self::Backend(_) => Self::Backend(Box::new(error.clone())),
        })
    }
}

impl From<DecodeError> for StoreError {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use super::*;

    #[tokio::test]
    async fn results_of_a_split_batch_have_the_order_of_its_keys() {
        let keys: Vec<Key> = (0..6).map(|n| Key::new("k").part([n]).finish()).collect();
        let all: Vec<&Key> = keys.iter().collect();
        let place =
            |key: &Key| Duration::from_secs(keys.iter().position(|it| it == key).unwrap() as u64);
        let result = |key: &Key| Err(StoreError::Timeout(place(key)));
        for together in 0..1_u64 << keys.len() {
            let found = get_split(
                &all,
                |key| together & (1 << place(key).as_secs()) != 0,
                |keys| ready(keys.into_iter().map(result).collect()),
                |key| ready(result(key)),
            );
            let found = found.await.into_iter();
            let places = found.map(|found| match found {
                Err(StoreError::Timeout(place)) => place,
                other => panic!("{other:?}"),
            });
            assert!(places.eq(all.iter().map(|key| place(key))), "{together:b}");
        }
    }
}
