//! Where entries live.
//!
//! A [`Store`] finds, keeps and drops entries by key; it knows nothing of validity. `Memory` is
//! this process, `Redis` is shared by all nodes, `Tiered` is the one in front of the other, and
//! `Guard` makes any store fail fast: each is a store itself, and all pass the same tests
//! (`tests/redis/stores.rs`). Nothing that a store does or loses can make a node serve stale data, since
//! each entry carries its own proof.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::entry::codec::DecodeError;
use crate::entry::{Entry, Key};

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

/// Keeps entries by key.
///
/// Errors are for counting and for the breaker: to the cache, a store that fails has no entry.
pub trait Store: Debug + Send + Sync + 'static {
    /// What can be found without waiting. A hit here is answered with no future made.
    fn peek(&self, key: &Key) -> Option<Found>;

    /// Finds an entry, wherever it is.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>>;

    /// Keeps an entry for its life. What can be done without waiting is done when this returns;
    /// the future is the rest, and may be run elsewhere.
    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>>;

    /// Forgets an entry. Never needed for correctness.
    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Asks to be the only node that makes the entry for `key`, for at most `ttl`.
    ///
    /// A lease saves work; nothing depends on it. A store that no other node shares grants it. If the reply of the server
    /// is lost (the future fails or is dropped), a lease may have been taken that nobody holds, and other nodes wait until
    /// it expires: the store should then release it.
    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        let _ = (key, ttl);
        Box::pin(async { Ok(Lease::Granted(None)) })
    }

    /// Whether the value of a key is known to be large: then its time says little of the store.
    fn is_large(&self, key: &Key) -> bool {
        let _ = key;
        false
    }

    /// Whether other nodes use this store too, so that a lease is worth asking for.
    fn is_shared(&self) -> bool {
        true
    }

    /// Gives a lease back, so that another node need not wait for its end.
    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        let _ = (key, token);
        Box::pin(async { Ok(()) })
    }

    /// How it does.
    fn status(&self) -> StoreStatus {
        StoreStatus::default()
    }

    /// A way to the other nodes that share this store, if there is one.
    fn bus(&self) -> Option<Arc<dyn Bus>> {
        None
    }
}

/// An entry, and where it was.
#[derive(Clone, Debug)]
pub struct Found {
    /// The entry.
    pub entry: Arc<Entry>,
    /// Where it was.
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

/// How a store does: what it knows of itself and of those in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreStatus {
    /// The tier in memory.
    pub memory: Option<MemoryStatus>,
    /// Whether there is a connection to the shared tier, as far as is known.
    pub connected: Option<bool>,
    /// Whether a [`Guard`] keeps all from asking the shared tier just now.
    pub breaker_open: Option<bool>,
    /// Writes that a [`Guard`] dropped, since too many were under way.
    pub dropped_writes: u64,
    /// Entries and messages in the shared tier that were ignored, since they are not signed with a secret of this
    /// service; 0 where nothing is signed.
    pub refused: u64,
}

/// How full a tier in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryStatus {
    /// Entries in it.
    pub entries: u64,
    /// Bytes that they take, about.
    pub bytes: u64,
    /// Bytes that they may take.
    pub capacity: u64,
}

impl StoreStatus {
    /// What two stores know, of which the first is in front.
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

/// The answer to a request for a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Ours; with a token to give back, if the store has any use for it.
    Granted(Option<LeaseToken>),
    /// Another node is at it.
    Held,
}

/// Tells a lease from a later one on the same key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseToken(pub u64);

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// No answer in time.
    #[error("the store did not answer within {0:?}")]
    Timeout(Duration),
    /// Too many failures lately; the store was not asked.
    #[error("the store is not asked while its circuit breaker is open")]
    Open,
    /// Too much is under way; this was dropped.
    #[error("too many writes to the store are under way; this one was dropped")]
    Busy,
    /// What the store holds under the key is not an entry of this version.
    #[error("the stored entry is {0}")]
    Decode(#[from] DecodeError),
    /// The store answered with an error, or could not be reached.
    #[error("{0}")]
    Backend(#[source] Box<dyn std::error::Error + Send + Sync>),
}
