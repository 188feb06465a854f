//! Single flight: one request at a time computes the entry for a key, and the others wait for it.
//!
//! A flight is a semaphore with one permit, and its holder is the leader. When the leader lands (delivers a result),
//! it closes the semaphore, which wakes all waiting requests at once. If the leader is dropped without a result, the
//! permit goes to the next request in line, so after a panic or a cancellation another one takes over and none hangs.
//!
//! A slow leader is overtaken: once it has computed for as long as a request is willing to wait, one more request computes
//! in parallel, and the first of the two to land ends the flight. No request waits for a body of unknown length.
//!
//! After a failure, another request tries once more. If that fails too, and the failure is a response that can be shared, all
//! waiting requests get it. A failure that can't be shared (an error of a loader's own type) hands over to two waiting
//! requests, and each of these, if it fails, to two more. So a brief failure costs few extra runs, and during a lasting
//! failure no request waits long.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::permit::{LentPermits, Permit};
use crate::clock::Instant;
use crate::entry::Entry;
use crate::sync::{Mutex, MutexExt, MutexGuard};
use pace::{Pace, QueuedFill, WaitStep};

mod pace;

const SHARDS: usize = 64;

type KeyHash = [u8; 32];
type FlightTable = HashMap<KeyHash, Open, BuildHasherDefault<HashPrefix>>;
type FlightShard = Mutex<FlightTable>;

/// Hashes a key by the first bytes of its hash, which are already uniformly distributed.
#[derive(Debug, Default)]
pub(crate) struct HashPrefix(u64);

impl Hasher for HashPrefix {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.first_chunk().map_or(0, |first| u64::from_le_bytes(*first));
    }

    fn write_usize(&mut self, _length: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// All flights of a node.
#[derive(Debug)]
pub(crate) struct Flights(Arc<[FlightShard]>);

/// How a flight ended.
#[derive(Clone, Debug)]
pub(crate) enum FlightResult {
    /// With an entry, which each follower judges for itself.
    Entry(Arc<Entry>),
    /// With a response that can't be shared: each follower computes its own.
    Nothing,
    /// With a response for an identified client. Nothing is known about the response to anonymous requests.
    Personal,
    /// With a failure, after which the leader served this stale entry. Followers may serve it too, if their policies allow.
    Instead(Arc<Entry>),
    /// With a second failure in a row: this response, which is not stored, of a run that began then.
    Failure(Arc<Entry>, Instant),
}

/// The role of a request that has joined a flight.
#[derive(Debug)]
pub(crate) enum FlightRole {
    Leader(FlightLeader),
    Follower(FlightResult),
}

#[derive(Debug)]
struct Flight {
    permit: Arc<Semaphore>,
    result: OnceLock<FlightResult>,
    /// The permits of outer fills that wait for this flight.
    lent_permits: LentPermits,
    pace: Pace,
    has_failed: AtomicBool,
}

/// A flight that others can join.
#[derive(Debug, Default)]
struct Open {
    flight: Arc<Flight>,
    /// The number of leaders and waiting requests. The reference count is not enough: a leaving request drops its reference
    /// only after it has released the lock.
    members: usize,
}

impl Flights {
    pub(crate) fn new() -> Self {
        Self((0..SHARDS).map(|_| FlightShard::default()).collect())
    }

    /// Joins the flight for a key. Returns at once as its leader if there is none; otherwise waits until the flight has
    /// landed, or until the leader is dropped and this request becomes the next leader. Meanwhile the leader may borrow the
    /// permit of the caller's own fill (`lent`). Once a leader has computed for `wait`, one waiting request overtakes it.
    pub(crate) async fn join(
        &self,
        key: KeyHash,
        wait: Duration,
        lent: Option<&Arc<Permit>>,
    ) -> FlightRole {
        let guard = self.guard(key);
        if let Some(permit) = lent {
            guard.flight.lent_permits.offer(permit);
        }
        let result = match guard.flight.turn(wait).await {
            WaitOutcome::Lead(permit) => {
                return FlightRole::Leader(FlightLeader::new(guard, permit));
            }
            WaitOutcome::Finished => guard.flight.result(),
            WaitOutcome::Leave => FlightResult::Nothing,
        };
        FlightRole::Follower(result)
    }

    /// Leads the flight for a key if it has no leader.
    pub(crate) fn try_lead(&self, key: KeyHash) -> Option<FlightLeader> {
        let guard = self.guard(key);
        let permit = guard.flight.permit.clone().try_acquire_owned().ok()?;
        Some(FlightLeader::new(guard, Some(permit)))
    }

    fn guard(&self, key: KeyHash) -> FlightGuard {
        let flights = self.0.clone();
        let mut shard = lock(&flights[shard(&key)]);
        let open = shard.entry(key).or_default();
        open.members += 1;
        let flight = open.flight.clone();
        drop(shard);
        FlightGuard { flights, key, flight }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.iter().map(|shard| lock(shard).len()).sum()
    }
}

impl Default for Flight {
    fn default() -> Self {
        Self {
            permit: Arc::new(Semaphore::new(1)),
            result: OnceLock::new(),
            lent_permits: LentPermits::default(),
            pace: Pace::new(),
            has_failed: AtomicBool::new(false),
        }
    }
}

/// What a waiting request does next.
enum WaitOutcome {
    /// Leads, with the flight's permit, or without it in parallel with a slow leader.
    Lead(Option<OwnedSemaphorePermit>),
    Finished,
    Leave,
}

impl Flight {
    /// Waits until this request may lead, the flight has ended, or waiting is no longer worthwhile.
    async fn turn(&self, wait: Duration) -> WaitOutcome {
        let mut permit = pin!(self.permit.clone().acquire_owned());
        loop {
            // Registered before the check, so that a leader that begins to stream in between is not missed.
            let streamed = pin!(self.pace.streamed());
            match self.pace.next(wait) {
                _ if self.result.get().is_some() => return WaitOutcome::Finished,
                WaitStep::Leave => return WaitOutcome::Leave,
                WaitStep::Overtake => return WaitOutcome::Lead(None),
                WaitStep::Wait => {}
            }
            let woken = timeout(self.pace.patience(wait), select(&mut permit, streamed));
            if let Ok(Either::Left((permit, _))) = woken.await {
                return permit
                    .map_or(WaitOutcome::Finished, |permit| WaitOutcome::Lead(Some(permit)));
            }
        }
    }

    fn result(&self) -> FlightResult {
        self.result.get().cloned().unwrap_or(FlightResult::Nothing)
    }
}

/// Membership in a flight, as leader or waiting. Dropping the last guard removes the flight from the table.
struct FlightGuard {
    flights: Arc<[FlightShard]>,
    key: KeyHash,
    flight: Arc<Flight>,
}

impl fmt::Debug for FlightGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FlightGuard").field("flight", &self.flight).finish_non_exhaustive()
    }
}

impl Drop for FlightGuard {
    fn drop(&mut self) {
        // The leader that landed has removed the flight from the table, or is about to.
        if self.flight.result.get().is_some() {
            return;
        }
        let mut shard = lock(&self.flights[shard(&self.key)]);
        let Slot::Occupied(mut slot) = shard.entry(self.key) else { return };
        if Arc::ptr_eq(&slot.get().flight, &self.flight) {
            slot.get_mut().members -= 1;
            if slot.get().members == 0 {
                slot.remove();
            }
        }
    }
}

/// The leader of a flight. If it is dropped without a result, the next waiting request leads.
#[derive(Debug)]
pub(crate) struct FlightLeader {
    guard: FlightGuard,
    /// `None` if it has overtaken another leader.
    permit: Option<OwnedSemaphorePermit>,
}

impl FlightLeader {
    fn new(guard: FlightGuard, permit: Option<OwnedSemaphorePermit>) -> Self {
        guard.flight.pace.begin();
        Self { guard, permit }
    }

    /// Whether this leader has overtaken a slow one, which still computes.
    pub(crate) fn overtakes(&self) -> bool {
        self.permit.is_none()
    }

    /// Marks the leader as waiting for a permit until the result is dropped; meanwhile it is not overtaken.
    pub(crate) fn queue(&self) -> QueuedFill<'_> {
        self.guard.flight.pace.queue()
    }

    /// Notes the first byte of a body of unknown length: the waiting requests soon stop waiting for it.
    pub(crate) fn stream(&self) {
        self.guard.flight.pace.stream();
    }

    /// Hands over to two waiting requests. (A leader that is merely dropped hands over to one.)
    pub(crate) fn fail(self) {
        self.guard.flight.permit.add_permits(if self.overtakes() { 2 } else { 1 });
    }

    /// Hands over to one waiting request, or after a second failure, to none: all get this response.
    pub(crate) fn fail_with(self, response: Arc<Entry>, began: Instant) {
        if self.guard.flight.has_failed.swap(true, Ordering::AcqRel) {
            self.finish(FlightResult::Failure(response, began));
        }
    }

    /// The permits that waiting fills lend to this leader.
    pub(crate) fn lent_permits(&self) -> &LentPermits {
        &self.guard.flight.lent_permits
    }

    /// Ends the flight: all waiting requests get `result`, and later requests start another flight.
    pub(crate) fn finish(self, result: FlightResult) {
        let FlightGuard { flights, key, flight } = &self.guard;
        drop(flight.result.set(result));
        let mut shard = lock(&flights[shard(key)]);
        if shard.get(key).is_some_and(|open| Arc::ptr_eq(&open.flight, flight)) {
            shard.remove(key);
        }
        drop(shard);
        flight.permit.close();
    }
}

fn shard(key: &KeyHash) -> usize {
    usize::from(key[31]) % SHARDS
}

fn lock(shard: &FlightShard) -> MutexGuard<'_, FlightTable> {
    // No critical section can panic half-way, so the table is consistent even if the lock is poisoned.
    shard.lock_unpoisoned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use tokio::task::JoinSet;

    use super::*;
    use crate::entry::Lifetime;
    use crate::{Epoch, Key, LogPosition, Position};

    const KEY: KeyHash = [7; 32];
    const HOUR: Duration = Duration::from_hours(1);

    fn entry() -> Arc<Entry> {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        Arc::new(Entry::new(
            &Key::new("t").finish(),
            basis,
            [].into(),
            life,
            Bytes::new(),
            Bytes::new(),
        ))
    }

    async fn lead(flights: &Flights) -> FlightLeader {
        match flights.join(KEY, HOUR, None).await {
            FlightRole::Leader(leader) => leader,
            FlightRole::Follower(result) => panic!("expected to lead, followed to {result:?}"),
        }
    }

    #[tokio::test]
    async fn one_request_leads_and_a_thousand_followers_share_its_entry() {
        let flights = Arc::new(Flights::new());
        let leader = lead(&flights).await;
        let mut followers = JoinSet::new();
        for _ in 0..1000 {
            let flights = flights.clone();
            followers.spawn(async move { flights.join(KEY, HOUR, None).await });
        }
        while Arc::strong_count(&leader.guard.flight) < 1002 {
            tokio::task::yield_now().await;
        }
        let made = entry();
        leader.finish(FlightResult::Entry(made.clone()));
        while let Some(joined) = followers.join_next().await {
            match joined.unwrap() {
                FlightRole::Follower(FlightResult::Entry(got)) => assert!(Arc::ptr_eq(&got, &made)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_leader_that_is_dropped_hands_over_to_a_follower() {
        let flights = Arc::new(Flights::new());
        let first = lead(&flights).await;
        let next = tokio::spawn({
            let flights = flights.clone();
            async move { lead(&flights).await }
        });
        while Arc::strong_count(&first.guard.flight) < 3 {
            tokio::task::yield_now().await;
        }
        assert!(!next.is_finished());
        drop(first);
        next.await.unwrap().finish(FlightResult::Nothing);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_leader_that_panics_hands_the_flight_to_a_waiter() {
        let flights = Arc::new(Flights::new());
        let leader = lead(&flights).await;
        let next = tokio::spawn({
            let flights = flights.clone();
            async move { lead(&flights).await }
        });
        while Arc::strong_count(&leader.guard.flight) < 3 {
            tokio::task::yield_now().await;
        }
        let panicked = tokio::spawn(async move {
            let _leader = leader;
            panic!("the handler did");
        });
        assert!(panicked.await.is_err());
        drop(next.await.unwrap());
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_cancelled_follower_leaves_no_flight_behind() {
        let flights = Flights::new();
        let leader = lead(&flights).await;
        assert!(tokio::time::timeout(Duration::ZERO, flights.join(KEY, HOUR, None)).await.is_err());
        drop(leader);
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_request_after_the_end_of_a_flight_starts_another() {
        let flights = Flights::new();
        lead(&flights).await.finish(FlightResult::Nothing);
        assert!(flights.try_lead(KEY).is_some());
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_key_has_one_leader_at_a_time() {
        let flights = Flights::new();
        let leader = flights.try_lead(KEY).unwrap();
        assert!(flights.try_lead(KEY).is_none());
        drop(leader);
        assert!(flights.try_lead(KEY).is_some());
    }

    /// A leaving thread drops its reference only after it has released the lock. A second thread that leaves in between is
    /// the last member of the flight, but does not hold the last reference.
    #[tokio::test]
    async fn dropping_the_last_guard_removes_the_flight_even_if_references_remain() {
        let flights = Flights::new();
        let (first, second) = (flights.guard(KEY), flights.guard(KEY));
        let reference = first.flight.clone();
        drop(first);
        assert_eq!(flights.len(), 1);
        drop(second);
        assert_eq!(flights.len(), 0);
        drop(reference);
    }
}
