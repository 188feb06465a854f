//! A wrapper that makes a store fail fast.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{BoxFuture, join_all};
use tokio::sync::Semaphore;
use tokio::time::{error::Elapsed, timeout};

use super::breaker::Breaker;
use super::contract::get_then_lease;
use super::split::{MOST_TOGETHER, get_split};
use super::{
    Bus, Found, FoundOrLease, IsOutdated, Lease, LeaseToken, Store, StoreError, StoreStatus,
};
use crate::clock::now;
use crate::entry::{Entry, EntryVersion, Key};
use crate::observe;

/// Wraps a store so that it fails fast when the store is slow or down.
///
/// Each call has a timeout; a batch of reads is one call, with a timeout for each of its commands. After several
/// failures in a row, a circuit breaker opens, and calls fail at once for a while; then one call probes the store, and
/// its result decides whether the breaker closes. A timeout for a large value does not count as a failure. Reads,
/// writes and removals have a breaker each, since a Redis that is full refuses every write but serves every read and
/// removal; a read that also takes a lease counts as a read. The number of concurrent writes is limited, and further
/// ones are dropped, so that writes to a slow server don't fill this process's memory.
///
/// ```
/// use std::time::Duration;
/// use tidegate::{Cache, Guard, Memory, Tiered};
///
/// // A second store in memory stands in for Redis.
/// let shared = Guard::new(Memory::new(64 << 20)).read_within(Duration::from_millis(20));
/// let cache = Cache::new(Tiered::with_guard(Memory::new(1 << 20), shared));
/// ```
#[derive(Clone, Debug)]
pub struct Guard {
    store: Arc<dyn Store>,
    read_within: Duration,
    write_within: Duration,
    reads: Arc<Breaker>,
    writes: Arc<Breaker>,
    removals: Arc<Breaker>,
    puts: Arc<Semaphore>,
    removing: Arc<Semaphore>,
    dropped: Arc<AtomicU64>,
}

const READ_WITHIN: Duration = Duration::from_millis(50);
const WRITE_WITHIN: Duration = Duration::from_millis(500);
const FAILURES: u32 = 5;
const COOL_DOWN: Duration = Duration::from_secs(1);
const PUTS: usize = 256;
/// Concurrent removals; further ones wait.
const REMOVALS: usize = 256;

impl Guard {
    /// A guard around `store` with the defaults: timeouts of 50 ms for a read or a lease and 500 ms for a write, at most
    /// 256 concurrent writes, and breakers that open for about a second after 5 failures in a row.
    pub fn new(store: impl Store) -> Self {
        Self {
            store: Arc::new(store),
            read_within: READ_WITHIN,
            write_within: WRITE_WITHIN,
            reads: Arc::new(Breaker::new(FAILURES, COOL_DOWN)),
            writes: Arc::new(Breaker::new(FAILURES, COOL_DOWN)),
            removals: Arc::new(Breaker::new(FAILURES, COOL_DOWN)),
            puts: Arc::new(Semaphore::new(PUTS)),
            removing: Arc::new(Semaphore::new(REMOVALS)),
            dropped: Arc::default(),
        }
    }

    /// The timeout of a read or of acquiring a lease; 50 ms by default. If the process is overloaded, so that it notices the
    /// timeout late, the call gets the same time once more.
    #[must_use]
    pub fn read_within(mut self, limit: Duration) -> Self {
        self.read_within = limit;
        self
    }

    /// The timeout of a write, a removal or the release of a lease; 500 ms by default.
    #[must_use]
    pub fn write_within(mut self, limit: Duration) -> Self {
        self.write_within = limit;
        self
    }

    /// The number of failures in a row after which a breaker opens (5 by default), and for how long it stays open (1 s by
    /// default, varied at random by up to a quarter, so that nodes don't all return at once).
    #[must_use]
    pub fn breaker(mut self, failures: u32, cool_down: Duration) -> Self {
        self.reads = Arc::new(Breaker::new(failures, cool_down));
        self.writes = Arc::new(Breaker::new(failures, cool_down));
        self.removals = Arc::new(Breaker::new(failures, cool_down));
        self
    }

    /// The maximum number of concurrent writes of entries; 256 by default. Further ones are dropped and counted.
    #[must_use]
    pub fn puts(mut self, puts: usize) -> Self {
        self.puts = Arc::new(Semaphore::new(puts.min(Semaphore::MAX_PERMITS)));
        self
    }

    /// Whether the breaker for reads or the one for writes is open, or lets a single probe through. The one for removals does
    /// not count: so few calls use it that it could stay open for long after the store has recovered.
    pub fn is_open(&self) -> bool {
        self.reads.is_open() || self.writes.is_open()
    }

    /// The number of writes that were dropped because too many were in progress.
    pub fn dropped_puts(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Reads keys, in one call for the circuit breaker, but with a timeout for each command.
    async fn get_batch(&self, keys: &[&Key]) -> Vec<Result<Option<Found>, StoreError>> {
        if keys.is_empty() {
            return Vec::new();
        }
        let pass = match self.reads.enter() {
            Ok(pass) => pass,
            Err(error) => return error.repeated(keys.len()).map(Err).collect(),
        };
        let began = now();
        let is_together = |key: &Key| self.store.is_read_together(key);
        let together = async |keys: Vec<&Key>| {
            let parts = keys.chunks(MOST_TOGETHER).map(|keys| self.get_part(keys));
            join_all(parts).await.into_iter().flatten().collect()
        };
        let found = get_split(keys, is_together, together, |key| self.get_alone(key)).await;
        observe::store_call("get_many", began.elapsed());
        // As for a single value, a timeout for a large one says nothing.
        let is_of_large = |(found, key): (&Result<_, _>, &&Key)| {
            matches!(found, Err(StoreError::Timeout(_))) && self.store.is_large(key)
        };
        let is_working = found.iter().any(works);
        if is_working || !found.iter().zip(keys).all(is_of_large) {
            pass.report(is_working);
        }
        found
    }

    async fn get_alone(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let found = within(self.read_within, self.store.get(key)).await;
        found.unwrap_or(Err(StoreError::Timeout(self.read_within)))
    }

    async fn get_part(&self, keys: &[&Key]) -> Vec<Result<Option<Found>, StoreError>> {
        let error = match within(self.read_within, self.store.get_many(keys)).await {
            Ok(found) if found.len() == keys.len() => return found,
            Ok(found) => {
                let why =
                    format!("the store returned {} results for {} keys", found.len(), keys.len());
                StoreError::Backend(why.into())
            }
            Err(_late) => StoreError::Timeout(self.read_within),
        };
        error.repeated(keys.len()).map(Err).collect()
    }

    /// Runs a write, unless too many are in progress.
    fn write(
        &self,
        key: &Key,
        call: BoxFuture<'static, Result<(), StoreError>>,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let Ok(permit) = self.puts.clone().try_acquire_owned() else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return Box::pin(async { Err(StoreError::Busy) });
        };
        let (breaker, limit) = (self.writes.clone(), self.write_within);
        let is_large = self.store.is_large(key);
        Box::pin(async move {
            let _permit = permit;
            guarded("put", &breaker, limit, call, is_large).await
        })
    }
}

/// Runs a call with a timeout, and reports its result to the breaker.
async fn guarded<T>(
    operation: &'static str,
    breaker: &Breaker,
    limit: Duration,
    call: impl Future<Output = Result<T, StoreError>>,
    is_large: bool,
) -> Result<T, StoreError> {
    let pass = breaker.enter()?;
    let began = now();
    let result = within(limit, call).await.unwrap_or(Err(StoreError::Timeout(limit)));
    observe::store_call(operation, began.elapsed());
    if is_large && matches!(result, Err(StoreError::Timeout(_))) {
        return result;
    }
    pass.report(works(&result));
    result
}

/// Whether a call shows that the store works. If it returns an undecodable entry, only the entry is bad.
fn works<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Ok(_) | Err(StoreError::Decode(_)))
}

/// A timeout for the store, not for this process: if the process notices the timeout late, it is overloaded, and the reply
/// may already have arrived unread. Then the call gets the same time again, once.
async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, Elapsed> {
    tokio::pin!(call);
    for _ in 0..2 {
        let began = now();
        if let Ok(done) = timeout(limit, &mut call).await {
            return Ok(done);
        }
        if began.elapsed() < limit + limit / 4 {
            break;
        }
    }
    timeout(Duration::ZERO, call).await
}

impl Store for Guard {
    fn peek(&self, key: &Key) -> Option<Found> {
        self.store.peek(key)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async move {
            let (get, is_large) = (self.store.get(key), self.store.is_large(key));
            guarded("get", &self.reads, self.read_within, get, is_large).await
        })
    }

    fn get_many<'a>(
        &'a self,
        keys: &'a [&'a Key],
    ) -> BoxFuture<'a, Vec<Result<Option<Found>, StoreError>>> {
        Box::pin(self.get_batch(keys))
    }

    fn is_read_together(&self, key: &Key) -> bool {
        self.store.is_read_together(key)
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        self.store.put(key, entry).map(|call| self.write(key, call))
    }

    fn put_and_release(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        token: LeaseToken,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        let write = self.write(key, self.store.put_and_release(key, entry, token));
        let release = self.release(key, token);
        Box::pin(async move {
            let stored = write.await;
            if stored.is_err() {
                // The call may not have come as far as that.
                let _ = release.await;
            }
            stored
        })
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        let removal = self.store.remove(key);
        Box::pin(async move {
            let Ok(Ok(_permit)) = timeout(self.write_within, self.removing.acquire()).await else {
                return Err(StoreError::Busy);
            };
            guarded("remove", &self.removals, self.write_within, removal, false).await
        })
    }

    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(guarded(
            "lease",
            &self.writes,
            self.read_within,
            self.store.lease(key, ttl),
            false,
        ))
    }

    fn get_or_lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
        unusable: Option<EntryVersion>,
    ) -> BoxFuture<'a, Result<FoundOrLease, StoreError>> {
        if !self.store.is_one_step(key) {
            return Box::pin(get_then_lease(self, key, ttl, unusable));
        }
        Box::pin(async move {
            let call = self.store.get_or_lease(key, ttl, unusable);
            guarded("get_or_lease", &self.reads, self.read_within, call, false).await
        })
    }

    fn is_one_step(&self, key: &Key) -> bool {
        self.store.is_one_step(key)
    }

    fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    fn evict_first(&self, is_outdated: IsOutdated) {
        self.store.evict_first(is_outdated);
    }

    fn status(&self) -> StoreStatus {
        let own = StoreStatus {
            breaker_open: Some(self.is_open()),
            dropped_writes: self.dropped_puts(),
            ..StoreStatus::default()
        };
        own.or(self.store.status())
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        self.store.bus()
    }

    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        // It removes the lease.
        let (breaker, limit) = (self.removals.clone(), self.write_within);
        let release = self.store.release(key, token);
        Box::pin(async move { guarded("release", &breaker, limit, release, false).await })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};

    use tokio::time::{advance, sleep};

    use super::*;
    use crate::entry::DecodeError;

    /// A store with a configurable result that counts its calls.
    #[derive(Debug, Default)]
    struct Mock {
        calls: AtomicUsize,
        mock_state: std::sync::Mutex<MockState>,
        /// How many calls are slow, whatever the state.
        slow_calls: AtomicUsize,
        is_large: AtomicBool,
        /// How many results are missing in a batch.
        leaves_out: AtomicUsize,
    }

    #[derive(Clone, Copy, Debug, Default)]
    enum MockState {
        #[default]
        Well,
        Slow,
        Fails,
        Undecodable,
    }

    impl Store for Arc<Mock> {
        fn peek(&self, _: &Key) -> Option<Found> {
            None
        }

        fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
            Box::pin(async {
                self.calls.fetch_add(1, Ordering::SeqCst);
                let order = Ordering::SeqCst;
                let slow = self.slow_calls.fetch_update(order, order, |left| left.checked_sub(1));
                let mock_state =
                    if slow.is_ok() { MockState::Slow } else { *self.mock_state.lock().unwrap() };
                match mock_state {
                    MockState::Well => Ok(None),
                    MockState::Slow => {
                        sleep(Duration::from_secs(60)).await;
                        Ok(None)
                    }
                    MockState::Fails => Err(StoreError::Backend("down".into())),
                    MockState::Undecodable => Err(StoreError::Decode(DecodeError::Checksum)),
                }
            })
        }

        fn put(
            &self,
            _: &Key,
            _: &Arc<Entry>,
        ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
            Some(Box::pin(std::future::pending()))
        }

        fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
            Box::pin(async { self.get(key).await.map(drop) })
        }

        fn lease<'a>(
            &'a self,
            key: &'a Key,
            _: Duration,
        ) -> BoxFuture<'a, Result<Lease, StoreError>> {
            Box::pin(async { self.get(key).await.map(|_| Lease::Granted(None)) })
        }

        fn is_large(&self, _: &Key) -> bool {
            self.is_large.load(Ordering::SeqCst)
        }

        fn is_read_together(&self, key: &Key) -> bool {
            !self.is_large(key)
        }

        fn get_many<'a>(
            &'a self,
            keys: &'a [&'a Key],
        ) -> BoxFuture<'a, Vec<Result<Option<Found>, StoreError>>> {
            let kept = keys.len() - self.leaves_out.load(Ordering::SeqCst);
            Box::pin(join_all(keys[..kept].iter().map(|key| self.get(key))))
        }
    }

    fn guarded_mock(mock_state: MockState) -> (Guard, Arc<Mock>, Key) {
        let mock = Arc::new(Mock::default());
        *mock.mock_state.lock().unwrap() = mock_state;
        let guard = Guard::new(mock.clone()).breaker(3, COOL_DOWN);
        (guard, mock, Key::new("t").finish())
    }

    fn calls(mock: &Mock) -> usize {
        mock.calls.load(Ordering::SeqCst)
    }

    #[cfg(feature = "memory")]
    #[test]
    fn only_a_store_with_a_shared_tier_is_shared() {
        use crate::store::{Memory, Tiered};
        let memory = || Memory::new(1 << 20);
        assert!(!Guard::new(memory()).is_shared());
        assert!(!Tiered::new(memory(), memory()).is_shared());
        let mock = || Arc::new(Mock::default());
        assert!(Guard::new(mock()).is_shared());
        assert!(Tiered::new(memory(), mock()).is_shared());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_store_times_out_and_is_then_skipped() {
        let (guard, mock, key) = guarded_mock(MockState::Slow);
        for _ in 0..3 {
            assert!(matches!(guard.get(&key).await, Err(StoreError::Timeout(_))));
        }
        assert!(matches!(guard.get(&key).await, Err(StoreError::Open)));
        assert_eq!(calls(&mock), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn timeouts_of_large_values_do_not_open_the_breaker_and_other_errors_do() {
        let (guard, mock, key) = guarded_mock(MockState::Slow);
        mock.is_large.store(true, Ordering::SeqCst);
        for _ in 0..5 {
            assert!(matches!(guard.get(&key).await, Err(StoreError::Timeout(_))));
        }
        assert!(!guard.is_open());
        *mock.mock_state.lock().unwrap() = MockState::Fails;
        for _ in 0..3 {
            assert!(matches!(guard.get(&key).await, Err(StoreError::Backend(_))));
        }
        assert!(guard.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_fails_counts_as_one_failure_and_fails_for_each_key() {
        for mock_state in [MockState::Fails, MockState::Slow] {
            let (guard, mock, key) = guarded_mock(mock_state);
            // Several commands.
            let keys = vec![&key; 5 * MOST_TOGETHER];
            let batch = async || guard.get_many(&keys).await;
            for batches in 0..3 {
                assert!(!guard.is_open(), "after {batches} batches");
                let found = batch().await;
                assert_eq!(found.len(), keys.len());
                for found in found {
                    match mock_state {
                        MockState::Slow => assert!(matches!(found, Err(StoreError::Timeout(_)))),
                        _ => assert!(matches!(found, Err(StoreError::Backend(_)))),
                    }
                }
            }
            let asked_before = calls(&mock);
            let found = batch().await;
            assert!(guard.is_open() && found.len() == keys.len());
            assert!(found.iter().all(|found| matches!(found, Err(StoreError::Open))));
            assert_eq!(calls(&mock), asked_before);
            *mock.mock_state.lock().unwrap() = MockState::Well;
            advance(COOL_DOWN * 2).await;
            let found = batch().await;
            assert!(found.iter().all(Result::is_ok), "the whole batch is the probe");
            assert!(!guard.is_open());
        }
        let (guard, _mock, key) = guarded_mock(MockState::Undecodable);
        for _ in 0..20 {
            let found = guard.get_many(&[&key, &key]).await;
            assert!(found.iter().all(|found| matches!(found, Err(StoreError::Decode(_)))));
        }
        assert!(!guard.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_is_split_so_that_a_slow_part_fails_alone() {
        let (guard, mock, key) = guarded_mock(MockState::Well);
        let keys = vec![&key; 2 * MOST_TOGETHER + 1];
        mock.slow_calls.store(MOST_TOGETHER, Ordering::SeqCst);
        let found = guard.get_many(&keys).await;
        assert_eq!(found.len(), keys.len());
        let (slow, others) = found.split_at(MOST_TOGETHER);
        assert!(slow.iter().all(|found| matches!(found, Err(StoreError::Timeout(_)))));
        assert!(others.iter().all(|found| matches!(found, Ok(None))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_value_of_a_batch_times_out_alone() {
        let (guard, mock, key) = guarded_mock(MockState::Well);
        mock.is_large.store(true, Ordering::SeqCst);
        mock.slow_calls.store(1, Ordering::SeqCst);
        let found = guard.get_many(&[&key; 3]).await;
        assert!(matches!(&found[..], [Err(StoreError::Timeout(_)), Ok(None), Ok(None)]));
        *mock.mock_state.lock().unwrap() = MockState::Slow;
        for _ in 0..5 {
            guard.get_many(&[&key; 3]).await;
        }
        assert!(!guard.is_open(), "these timeouts say nothing");
        *mock.mock_state.lock().unwrap() = MockState::Fails;
        for batches in 0..3 {
            assert!(!guard.is_open(), "after {batches} batches");
            guard.get_many(&[&key; 9]).await;
        }
        assert!(guard.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_with_the_wrong_number_of_results_is_an_error_for_each_key() {
        let (guard, mock, key) = guarded_mock(MockState::Well);
        mock.leaves_out.store(1, Ordering::SeqCst);
        let found = guard.get_many(&[&key; 3]).await;
        assert_eq!(found.len(), 3);
        assert!(found.iter().all(|found| matches!(found, Err(StoreError::Backend(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_batch_is_no_call() {
        let (guard, _mock, key) = guarded_mock(MockState::Fails);
        for _ in 0..3 {
            assert!(guard.get_many(&[]).await.is_empty());
            assert!(guard.get(&key).await.is_err());
        }
        assert!(guard.is_open(), "three calls failed");
        advance(COOL_DOWN * 2).await;
        assert!(guard.get_many(&[]).await.is_empty() && guard.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_that_a_stalled_runtime_notices_late_does_not_fail_the_call() {
        assert!(within(READ_WITHIN, sleep(READ_WITHIN * 2)).await.is_err());
        let late = tokio::spawn(within(READ_WITHIN, sleep(READ_WITHIN * 2)));
        tokio::task::yield_now().await;
        advance(READ_WITHIN + READ_WITHIN / 2).await;
        assert!(late.await.unwrap().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_cool_down_one_probe_decides_for_all() {
        let (guard, mock, key) = guarded_mock(MockState::Fails);
        for _ in 0..3 {
            assert!(guard.get(&key).await.is_err());
        }
        advance(COOL_DOWN * 2).await;
        *mock.mock_state.lock().unwrap() = MockState::Slow;
        let probe = tokio::spawn({
            let (guard, key) = (guard.clone(), key.clone());
            async move { guard.get(&key).await.is_err() }
        });
        while calls(&mock) < 4 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(guard.get(&key).await, Err(StoreError::Open)), "one at a time");
        assert!(probe.await.unwrap());
        assert!(guard.is_open(), "the probe failed");
        advance(COOL_DOWN * 2).await;
        *mock.mock_state.lock().unwrap() = MockState::Well;
        assert!(guard.get(&key).await.is_ok());
        assert!(!guard.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_probe_lets_the_next_call_probe() {
        let (guard, mock, key) = guarded_mock(MockState::Fails);
        for _ in 0..3 {
            assert!(guard.get(&key).await.is_err());
        }
        advance(COOL_DOWN * 2).await;
        *mock.mock_state.lock().unwrap() = MockState::Slow;
        assert!(timeout(Duration::from_millis(1), guard.get(&key)).await.is_err());
        *mock.mock_state.lock().unwrap() = MockState::Well;
        assert!(guard.get(&key).await.is_ok());
    }

    /// Such as a probe that began on a runtime that is no longer polled.
    #[tokio::test(start_paused = true)]
    async fn a_stalled_probe_lets_another_one_through() {
        let (guard, mock, key) = guarded_mock(MockState::Fails);
        for _ in 0..3 {
            assert!(guard.get(&key).await.is_err());
        }
        advance(COOL_DOWN * 2).await;
        *mock.mock_state.lock().unwrap() = MockState::Slow;
        let mut probe = guard.get(&key);
        assert!(futures_util::poll!(&mut probe).is_pending());
        *mock.mock_state.lock().unwrap() = MockState::Well;
        assert!(matches!(guard.get(&key).await, Err(StoreError::Open)), "one at a time");
        advance(COOL_DOWN * 2).await;
        assert!(guard.get(&key).await.is_ok());
        drop(probe);
        assert!(!guard.is_open(), "the store has answered since");
    }

    #[tokio::test(start_paused = true)]
    async fn an_undecodable_entry_does_not_open_the_breaker() {
        let (guard, mock, key) = guarded_mock(MockState::Undecodable);
        for _ in 0..20 {
            assert!(matches!(guard.get(&key).await, Err(StoreError::Decode(_))));
        }
        assert_eq!(calls(&mock), 20);
        assert!(!guard.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn writes_past_the_limit_are_dropped_and_counted() {
        let (guard, _mock, key) = guarded_mock(MockState::Well);
        let guard = guard.puts(2);
        let life = crate::entry::Lifetime::starting_now(COOL_DOWN, COOL_DOWN, COOL_DOWN);
        let basis = crate::LogPosition::new(crate::Epoch::new(1), crate::Position::ZERO);
        let empty = bytes::Bytes::new();
        let entry = Arc::new(Entry::new(&key, basis, [].into(), life, empty.clone(), empty));
        let held = [guard.put(&key, &entry), guard.put(&key, &entry)];
        assert!(matches!(guard.put(&key, &entry).unwrap().await, Err(StoreError::Busy)));
        assert_eq!(guard.dropped_puts(), 1);
        drop(held);
        assert!(guard.put(&key, &entry).is_some());
        assert_eq!(guard.dropped_puts(), 1);
    }

    /// As a Redis that is full does: SET fails, DEL does not.
    #[tokio::test(start_paused = true)]
    async fn removals_and_releases_do_not_fail_because_writes_do() {
        let (guard, mock, key) = guarded_mock(MockState::Fails);
        for _ in 0..3 {
            assert!(guard.lease(&key, COOL_DOWN).await.is_err());
        }
        assert!(guard.is_open());
        *mock.mock_state.lock().unwrap() = MockState::Well;
        assert!(matches!(guard.lease(&key, COOL_DOWN).await, Err(StoreError::Open)));
        assert!(guard.remove(&key).await.is_ok());
        assert!(guard.release(&key, LeaseToken(1)).await.is_ok());
        *mock.mock_state.lock().unwrap() = MockState::Slow;
        for _ in 0..3 {
            assert!(matches!(guard.remove(&key).await, Err(StoreError::Timeout(_))));
        }
        assert!(matches!(guard.remove(&key).await, Err(StoreError::Open)), "of their own");
    }
}
