//! Permits to compute: the bound on how many fills run at a time.
//!
//! Each route, and each `ValuePolicy`, has a bound, and so has the whole cache. A fill takes a slot of its route's gate,
//! then one of the cache's. The bounds protect the database from a rush, and must not make a request fail:
//!
//! - A route's bound is smaller than the cache's, so a route whose handler hangs leaves slots for the others. If several
//!   routes hang, they can hold all of the cache's slots. So a fill that has held one for as long as its policy's `wait` is
//!   overdue: while others wait, it no longer counts against the cache's bound. It still counts against its route's, so a
//!   route that hangs takes no further slots.
//! - If no fill of its route ends while another one waits, that one proceeds without a slot. In each `wait`, only as many
//!   do so as the bound allows fills: otherwise all would, as soon as the database is slower than `wait`.
//! - After ten times `wait`, a fill proceeds in any case.
//!
//! A fill holds one permit for everything that is computed within it: a lookup in its scope inherits the permit, at any
//! depth. A request that already leads a flight and still waits for a permit borrows the permit of a fill that waits for
//! this flight, since that fill is idle meanwhile. So two fills never deadlock, one waiting for the other's permit and the
//! other for the first one's result.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::cache::Cache;
use super::flight::FlightLeader;
use super::policy::Policy;
use super::record::Record;
use crate::clock::{self, Instant};
use crate::outcome::Event;
use crate::sync::{Mutex, MutexGuard};

/// The default number of concurrent fills.
const DEFAULT: usize = 512;

/// Concurrent fills per connection to the primary: a handler uses its connection for only a part of its time, and several
/// short waits for a connection are still a short wait. Connections to replicas do not count: most fills begin after a
/// change or a failover, when perhaps no replica is far enough, and then all of them read from the primary.
const FOR_EACH_CONNECTION: usize = 4;

/// The longest wait for a permit, as a multiple of the policy's `wait`.
const LONGEST: u32 = 10;

/// A fill is overdue after its policy's `wait`, and no earlier than this.
const OVERDUE: Duration = Duration::from_secs(1);

/// Longer than any process runs.
const FAR: Duration = Duration::from_hours(24 * 365 * 30);

/// A bound on fills that run at a time.
#[derive(Debug)]
pub(crate) struct FillGate {
    slots: Semaphore,
    most: AtomicUsize,
    /// Whether overdue fills no longer count.
    forgets_overdue: bool,
    state: Mutex<GateState>,
}

#[derive(Debug)]
struct GateState {
    /// How often a slot was freed.
    freed: usize,
    /// The slots in use, by when their fills are overdue, if such fills no longer count.
    held: BTreeSet<HeldSlot>,
    next: u64,
    /// How many fills proceeded without a slot since this moment.
    passed: (Instant, usize),
}

/// When a slot's fill is overdue, and a number of its own.
type HeldSlot = (Instant, u64);

impl FillGate {
    /// The bound of a cache.
    fn of_cache(most: usize) -> Arc<Self> {
        Self::new(most, true)
    }

    /// The bound of a route, or of a policy's values.
    fn of_policy(most: usize) -> Arc<Self> {
        Self::new(most, false)
    }

    fn new(most: usize, forgets_overdue: bool) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let passed = (clock::now(), 0);
        let state = Mutex::new(GateState { freed: 0, held: BTreeSet::new(), next: 0, passed });
        let (slots, most) = (Semaphore::new(most), AtomicUsize::new(most));
        Arc::new(Self { slots, most, forgets_overdue, state })
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn state(&self) -> MutexGuard<'_, GateState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lowers the bound. Call it before any fill runs.
    fn lower(&self, most: usize) {
        while self.most() > most.max(1) {
            // One at a time, since shuttle's semaphore has no other way.
            let Ok(slot) = self.slots.try_acquire() else { return };
            slot.forget();
            self.most.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Turns one of the semaphore's permits into a slot.
    fn slot(self: &Arc<Self>, permit: SemaphorePermit<'_>, wait: Duration) -> PermitSlot {
        permit.forget();
        let held = self.forgets_overdue.then(|| {
            let mut state = self.state();
            let held = (after(clock::now(), wait.max(OVERDUE)), state.next);
            state.next += 1;
            state.held.insert(held);
            held
        });
        PermitSlot { gate: self.clone(), held }
    }

    fn try_enter(self: &Arc<Self>, wait: Duration) -> Option<PermitSlot> {
        let permit = self.slots.try_acquire().ok()?;
        Some(self.slot(permit, wait))
    }

    /// Waits for a slot, until `limit` at most. `None` if the fill has to proceed without one. `note` is called for each
    /// fill that loses its slot, since it is overdue.
    async fn enter(
        self: &Arc<Self>,
        wait: Duration,
        limit: Instant,
        note: impl Fn(),
    ) -> Option<PermitSlot> {
        let mut acquired = pin!(self.slots.acquire());
        let (mut freed, mut since) = (self.state().freed, clock::now());
        loop {
            let overdue = self.state().held.first().map(|held| held.0);
            let wake = after(since, wait).min(limit).min(overdue.unwrap_or(limit));
            let pause = wake.saturating_duration_since(clock::now());
            if let Ok(permit) = timeout(pause, &mut acquired).await {
                return Some(self.slot(permit.ok()?, wait));
            }
            let now = clock::now();
            let mut state = self.state();
            for _ in 0..self.forget_overdue(&mut state, now) {
                note();
            }
            if now >= limit {
                return None;
            }
            if state.freed != freed {
                (freed, since) = (state.freed, now);
            } else if now >= after(since, wait) {
                if state.may_pass(now, wait, self.most()) {
                    return None;
                }
                since = now;
            }
        }
    }

    /// Frees the slots of overdue fills; returns how many there were.
    fn forget_overdue(&self, state: &mut GateState, now: Instant) -> usize {
        let before = state.held.len();
        state.held = state.held.split_off(&(now, u64::MAX));
        let overdue = before - state.held.len();
        state.freed += overdue;
        self.slots.add_permits(overdue);
        overdue
    }
}

impl GateState {
    /// Whether a fill may proceed without a slot: in each `wait`, as many may as there are slots.
    fn may_pass(&mut self, now: Instant, wait: Duration, most: usize) -> bool {
        if now >= after(self.passed.0, wait) {
            self.passed = (now, 0);
        }
        self.passed.1 += 1;
        self.passed.1 <= most
    }
}

/// A moment, or one far in the future if there is none so late.
fn after(moment: Instant, wait: Duration) -> Instant {
    moment.checked_add(wait).unwrap_or_else(|| moment + FAR)
}

/// One of a gate's slots; dropping it frees the slot.
#[derive(Debug)]
struct PermitSlot {
    gate: Arc<FillGate>,
    held: Option<HeldSlot>,
}

impl Drop for PermitSlot {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        // An overdue fill has lost its slot.
        if self.held.is_none_or(|held| state.held.remove(&held)) {
            state.freed += 1;
            self.gate.slots.add_permits(1);
        }
    }
}

/// The bound of one policy; its clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FillBound {
    most: Option<usize>,
    gate: Arc<OnceLock<Arc<FillGate>>>,
}

impl FillBound {
    pub(crate) fn new(most: usize) -> Self {
        Self { most: Some(most), gate: Arc::default() }
    }

    /// An independent gate with the same bound.
    pub(crate) fn apart(&self) -> Self {
        Self { most: self.most, gate: Arc::default() }
    }

    fn gate(&self, all: &FillGate) -> &Arc<FillGate> {
        self.gate.get_or_init(|| {
            let all = all.most();
            // Leaves a quarter to the other routes.
            FillGate::of_policy(self.most.unwrap_or(all - (all / 4).max(1)))
        })
    }
}

/// The permits of a cache.
#[derive(Debug)]
pub(crate) struct Permits {
    all: Arc<FillGate>,
    /// No limit was configured.
    is_default: AtomicBool,
    running: Arc<AtomicUsize>,
}

impl Permits {
    pub(crate) fn new(most: Option<usize>) -> Self {
        let is_default = AtomicBool::new(most.is_none());
        let all = FillGate::of_cache(most.unwrap_or(DEFAULT));
        Self { all, is_default, running: Arc::default() }
    }

    /// Derives the default from the size of a database's pool, if no limit was configured.
    pub(crate) fn suit(&self, connections: usize) {
        if self.is_default.swap(false, Ordering::AcqRel) {
            self.all.lower(connections.saturating_mul(FOR_EACH_CONNECTION));
        }
    }

    /// How many fills run.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    fn permit(&self, slots: PermitSlots) -> Arc<Permit> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Arc::new(Permit { _slots: slots, running: self.running.clone() })
    }

    /// Waits for a slot of the policy's gate, then for one of the cache's.
    async fn enter(&self, policy: &Policy, note: impl Fn()) -> PermitSlots {
        let limit = after(clock::now(), policy.wait.saturating_mul(LONGEST));
        let own = policy.fills.gate(&self.all).enter(policy.wait, limit, &note).await;
        if own.is_none() {
            return PermitSlots::default();
        }
        PermitSlots { own, all: self.all.enter(policy.wait, limit, &note).await }
    }

    fn try_enter(&self, policy: &Policy) -> Option<PermitSlots> {
        let own = policy.fills.gate(&self.all).try_enter(policy.wait)?;
        let all = self.all.try_enter(policy.wait)?;
        Some(PermitSlots { own: Some(own), all: Some(all) })
    }
}

/// The slots that a fill holds, of its policy's gate and of the cache's.
#[derive(Debug, Default)]
struct PermitSlots {
    #[expect(dead_code, reason = "it is held until it is dropped")]
    own: Option<PermitSlot>,
    all: Option<PermitSlot>,
}

/// A permit to compute, shared by a fill and by all that is computed within it.
#[derive(Debug)]
pub(crate) struct Permit {
    _slots: PermitSlots,
    running: Arc<AtomicUsize>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The result of a request for a permit.
pub(crate) struct PendingPermit {
    pub(crate) permit: Arc<Permit>,
    /// Whether it was not available at once.
    pub(crate) has_waited: bool,
}

impl Cache {
    /// A permit to compute: the one of the current scope, the next one that is free, or the one of a fill that waits for
    /// one of `leaders`. If none is available in time, the fill proceeds without slots.
    pub(super) async fn permit<'a>(
        &self,
        policy: &Policy,
        leaders: impl IntoIterator<Item = &'a FlightLeader>,
    ) -> PendingPermit {
        if let Some(permit) = Record::permit().or_else(|| self.try_permit(policy)) {
            return PendingPermit { permit, has_waited: false };
        }
        let permits = &self.shared.permits;
        let leaders: Vec<_> = leaders.into_iter().collect();
        let _queued: Vec<_> = leaders.iter().map(|leader| leader.queue()).collect();
        let counters = &self.shared.counters;
        let own = pin!(permits.enter(policy, || counters.note(Event::NoPermit)));
        let lent: FuturesUnordered<_> =
            leaders.iter().map(|leader| leader.loans().borrow()).collect();
        let slots = match select(own, lent.into_future()).await {
            Either::Left((slots, _)) => slots,
            Either::Right(((Some(permit), _), _)) => {
                return PendingPermit { permit, has_waited: true };
            }
            Either::Right(((None, _), own)) => own.await,
        };
        if slots.all.is_none() {
            counters.note(Event::NoPermit);
        }
        PendingPermit { permit: permits.permit(slots), has_waited: true }
    }

    /// A permit to compute, if one is free.
    pub(crate) fn try_permit(&self, policy: &Policy) -> Option<Arc<Permit>> {
        let permits = &self.shared.permits;
        permits.try_enter(policy).map(|slots| permits.permit(slots))
    }
}

/// The permits of fills that wait for one flight, which its leader may borrow.
#[derive(Debug, Default)]
pub(crate) struct LentPermits {
    offers: Mutex<Vec<Weak<Permit>>>,
    offered: Notify,
}

impl LentPermits {
    /// Offers the permit of a waiting fill, for as long as that fill holds it.
    pub(crate) fn offer(&self, permit: &Arc<Permit>) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|offer| offer.strong_count() > 0);
        offers.push(Arc::downgrade(permit));
        drop(offers);
        self.offered.notify_waiters();
    }

    /// Waits for the permit of a waiting fill.
    async fn borrow(&self) -> Arc<Permit> {
        loop {
            // Registered before the check, so that no offer in between is missed.
            let offered = self.offered.notified();
            if let Some(permit) = self.first() {
                return permit;
            }
            offered.await;
        }
    }

    fn first(&self) -> Option<Arc<Permit>> {
        let offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.iter().find_map(Weak::upgrade)
    }
}
