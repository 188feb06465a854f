//! Gates: the bounds on how many fills run at a time.
//!
//! Each route, and each `ValuePolicy`, has a gate, and so has the whole cache. The bounds protect the database from a rush,
//! and must not make a request fail:
//!
//! - A route's bound is smaller than the cache's, so a route whose handler hangs leaves slots for the others. If several
//!   routes hang, they can hold all of the cache's slots. So a fill that has held one for as long as its policy's `wait` is
//!   overdue: while others wait, it no longer counts against the cache's bound. It still counts against its route's, so a
//!   route that hangs takes no further slots.
//! - If no fill of its route ends while another one waits, that one proceeds without a slot. In each `wait`, only as many
//!   do so as the bound allows fills: otherwise all would, as soon as the database is slower than `wait`.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::clock::{self, Instant};
use crate::sync::{Mutex, MutexExt, MutexGuard};

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
    pub(super) fn for_cache(most: usize) -> Arc<Self> {
        Self::new(most, true)
    }

    /// The bound of a route, or of a policy's values.
    fn for_policy(most: usize) -> Arc<Self> {
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
        self.state.lock_unpoisoned()
    }

    /// Lowers the bound. Call it before any fill runs.
    #[cfg(feature = "postgres")]
    pub(super) fn lower(&self, most: usize) {
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

    pub(super) fn try_enter(self: &Arc<Self>, wait: Duration) -> Option<PermitSlot> {
        let permit = self.slots.try_acquire().ok()?;
        Some(self.slot(permit, wait))
    }

    /// Waits for a slot, until `limit` at most. `None` if the fill has to proceed without one. `note` is called for each
    /// fill that loses its slot, since it is overdue.
    pub(super) async fn enter(
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
pub(super) fn after(moment: Instant, wait: Duration) -> Instant {
    moment.checked_add(wait).unwrap_or_else(|| moment + FAR)
}

/// One of a gate's slots; dropping it frees the slot.
#[derive(Debug)]
pub(super) struct PermitSlot {
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

    pub(super) fn gate(&self, all: &FillGate) -> &Arc<FillGate> {
        self.gate.get_or_init(|| {
            let all = all.most();
            // Leaves a quarter to the other routes.
            FillGate::for_policy(self.most.unwrap_or(all - (all / 4).max(1)))
        })
    }
}
