//! Fails fast.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::breaker::Breaker;
use super::{Found, Lease, LeaseToken, Store, StoreError};
use crate::entry::{Entry, Key};

/// A store that keeps nobody waiting for the store in it.
///
/// Each call has a time limit. After a row of failures a circuit breaker opens, and for a while
/// calls fail at once; then one call tries, and its luck decides for all. Reads and writes have a
/// breaker each: a Redis that is full refuses every write and answers every read. Writes beyond a
/// bound are dropped, or those that wait for a slow server would fill memory.
#[derive(Clone, Debug)]
pub struct Guard {
    store: Arc<dyn Store>,
    read_within: Duration,
    write_within: Duration,
    reads: Arc<Breaker>,
    writes: Arc<Breaker>,
    puts: Arc<Semaphore>,
    dropped: Arc<AtomicU64>,
}

const READ_WITHIN: Duration = Duration::from_millis(50);
const WRITE_WITHIN: Duration = Duration::from_millis(500);
const FAILURES: u32 = 5;
const COOL_DOWN: Duration = Duration::from_secs(1);
const PUTS: usize = 256;

impl Guard {
    /// A guard around `store`: 50 ms for a read or a lease, 500 ms for a write, 256 writes at a
    /// time, a breaker that opens for a second after 5 failures.
    pub fn new(store: impl Store) -> Self {
        Self {
            store: Arc::new(store),
            read_within: READ_WITHIN,
            write_within: WRITE_WITHIN,
            reads: Arc::new(Breaker::new(FAILURES, COOL_DOWN)),
            writes: Arc::new(Breaker::new(FAILURES, COOL_DOWN)),
            puts: Arc::new(Semaphore::new(PUTS)),
            dropped: Arc::default(),
        }
    }

    /// How long a read or a lease may take.
    #[must_use]
    pub fn read_within(mut self, limit: Duration) -> Self {
        self.read_within = limit;
        self
    }

    /// How long a write may take.
    #[must_use]
    pub fn write_within(mut self, limit: Duration) -> Self {
        self.write_within = limit;
        self
    }

    /// After how many failures in a row a breaker opens, and for how long, give or take a quarter.
    #[must_use]
    pub fn breaker(mut self, failures: u32, cool_down: Duration) -> Self {
        self.reads = Arc::new(Breaker::new(failures, cool_down));
        self.writes = Arc::new(Breaker::new(failures, cool_down));
        self
    }

    /// How many entries may be on their way to the store at a time.
    #[must_use]
    pub fn puts(mut self, puts: usize) -> Self {
        self.puts = Arc::new(Semaphore::new(puts.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// Whether a breaker is open: the store is not asked, or one call is trying it.
    pub fn is_open(&self) -> bool {
        self.reads.is_open() || self.writes.is_open()
    }

    /// How many writes were dropped since too many were under way.
    pub fn dropped_puts(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// Runs a call within its limits, and tells the breaker.
async fn guarded<T>(
    breaker: &Breaker,
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let pass = breaker.enter()?;
    let result = timeout(limit, call).await.unwrap_or(Err(StoreError::Timeout(limit)));
    // A store that gives back what can't be read works; what is in it does not.
    pass.report(matches!(result, Ok(_) | Err(StoreError::Decode(_))));
    result
}

impl Store for Guard {
    fn peek(&self, key: &Key) -> Option<Found> {
        self.store.peek(key)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(guarded(&self.reads, self.read_within, self.store.get(key)))
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        let rest = self.store.put(key, entry)?;
        let Ok(permit) = self.puts.clone().try_acquire_owned() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Some(Box::pin(async { Err(StoreError::Busy) }));
        };
        let (breaker, limit) = (self.writes.clone(), self.write_within);
        Some(Box::pin(async move {
            let _permit = permit;
            guarded(&breaker, limit, rest).await
        }))
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(guarded(&self.writes, self.write_within, self.store.remove(key)))
    }

    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(guarded(&self.writes, self.read_within, self.store.lease(key, ttl)))
    }

    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        let (breaker, limit) = (self.writes.clone(), self.write_within);
        let release = self.store.release(key, token);
        Box::pin(async move { guarded(&breaker, limit, release).await })
    }
}
