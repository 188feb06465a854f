//! Permits to compute: the bound on how many fills run at a time.
//!
//! Each route, and each `ValuePolicy`, has a bound, and so has the whole cache. A route's bound is smaller than the
//! cache's, so a route whose handler hangs leaves permits for the others. If several routes hang, they may hold all of the
//! cache's permits. So once none of these has come free for as long as the longest `wait`, the fills that hold them are
//! overdue and no longer count against the cache's bound, but still against their route's: each route that hangs delays
//! the others once.
//!
//! If no fill of its route ends while another one waits for a permit, that one proceeds without: the bound protects the
//! database from a rush, and must not make a request fail.
//!
//! A fill holds one permit for everything that is computed within it: a lookup in its scope inherits the permit, at any
//! depth. A request that already leads a flight and still waits for a permit borrows the permit of a fill that waits for
//! this flight, since that fill is idle meanwhile. So two fills never deadlock, one waiting for the other's permit and the
//! other for the first one's result.

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

/// The longest wait in a queue that moves, as a multiple of the policy's `wait`.
const LONGEST: u32 = 10;

/// A bound on fills that run at a time.
#[derive(Debug)]
pub(crate) struct FillGate {
    slots: Semaphore,
    most: AtomicUsize,
    /// Whether slots whose fills are overdue are replaced.
    replaces_overdue: bool,
    progress: Mutex<Progress>,
}

/// What a fill that waits at a gate has to know of the others.
#[derive(Debug)]
struct Progress {
    /// How often a slot was freed.
    freed: usize,
    /// When a slot was last taken or freed.
    at: Instant,
    /// The longest `wait` of the fills that took a slot.
    longest_wait: Duration,
    /// The number of slots in use that have not been replaced.
    held: usize,
    /// How often all slots in use were overdue and replaced.
    generation: usize,
}

impl FillGate {
    /// The bound of a cache.
    fn of_cache(most: usize) -> Arc<Self> {
        Self::new(most, true)
    }

    /// The bound of a route, or of a policy's values.
    fn of_policy(most: usize) -> Arc<Self> {
        Self::new(most, false)
    }

    fn new(most: usize, replaces_overdue: bool) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let (freed, held, generation) = (0, 0, 0);
        let (at, longest_wait) = (clock::now(), Duration::ZERO);
        let progress = Progress { freed, at, longest_wait, held, generation };
        let (slots, most) = (Semaphore::new(most), AtomicUsize::new(most));
        Arc::new(Self { slots, most, replaces_overdue, progress: Mutex::new(progress) })
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut progress = self.progress();
        progress.at = clock::now();
        progress.held += 1;
        progress.longest_wait = progress.longest_wait.max(wait);
        PermitSlot { gate: self.clone(), generation: progress.generation }
    }

    fn try_enter(self: &Arc<Self>, wait: Duration) -> Option<PermitSlot> {
        let permit = self.slots.try_acquire().ok()?;
        Some(self.slot(permit, wait))
    }

    /// Waits for a slot; `None` if none is freed within `wait`, or after [`LONGEST`] times `wait`.
    async fn enter(self: &Arc<Self>, wait: Duration) -> Option<PermitSlot> {
        let (began, mut acquired) = (clock::now(), pin!(self.slots.acquire()));
        loop {
            let freed = self.progress().freed;
            match timeout(wait, &mut acquired).await {
                Ok(permit) => return Some(self.slot(permit.ok()?, wait)),
                Err(_) if !self.moves(freed) => return None,
                Err(_) if began.elapsed() >= wait.saturating_mul(LONGEST) => return None,
                Err(_) => {}
            }
        }
    }

    /// Whether slots were freed since this many had been. Replaces the slots that are overdue.
    fn moves(&self, freed: usize) -> bool {
        let mut progress = self.progress();
        let is_stuck = progress.freed == freed;
        if is_stuck && self.replaces_overdue && progress.at.elapsed() >= progress.longest_wait {
            progress.generation += 1;
            let held = progress.held;
            self.free(&mut progress, held);
            return true;
        }
        !is_stuck
    }

    fn free(&self, progress: &mut Progress, slots: usize) {
        progress.freed += 1;
        progress.at = clock::now();
        progress.held -= slots;
        self.slots.add_permits(slots);
    }
}

/// One of a gate's slots; dropping it frees the slot.
#[derive(Debug)]
struct PermitSlot {
    gate: Arc<FillGate>,
    generation: usize,
}

impl Drop for PermitSlot {
    fn drop(&mut self) {
        let mut progress = self.gate.progress();
        if self.generation == progress.generation {
            self.gate.free(&mut progress, 1);
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

    fn permit(&self, slots: Option<[PermitSlot; 2]>) -> Arc<Permit> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Arc::new(Permit { _slots: slots, running: self.running.clone() })
    }

    /// Waits for a slot of the policy's gate, then for one of the cache's.
    async fn enter(&self, policy: &Policy) -> Option<[PermitSlot; 2]> {
        let own = policy.fills.gate(&self.all).enter(policy.wait).await?;
        Some([own, self.all.enter(policy.wait).await?])
    }

    fn try_enter(&self, policy: &Policy) -> Option<[PermitSlot; 2]> {
        let own = policy.fills.gate(&self.all).try_enter(policy.wait)?;
        Some([own, self.all.try_enter(policy.wait)?])
    }
}

/// A permit to compute, shared by a fill and by all that is computed within it.
#[derive(Debug)]
pub(crate) struct Permit {
    /// `None` if the fill proceeds without a slot.
    _slots: Option<[PermitSlot; 2]>,
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
        let own = pin!(permits.enter(policy));
        let lent: FuturesUnordered<_> =
            leaders.iter().map(|leader| leader.loans().borrow()).collect();
        let slots = match select(own, lent.into_future()).await {
            Either::Left((slots, _)) => slots,
            Either::Right(((Some(permit), _), _)) => {
                return PendingPermit { permit, has_waited: true };
            }
            Either::Right(((None, _), own)) => own.await,
        };
        if slots.is_none() {
            self.shared.counters.note(Event::NoPermit);
        }
        PendingPermit { permit: permits.permit(slots), has_waited: true }
    }

    /// A permit to compute, if one is free.
    pub(super) fn try_permit(&self, policy: &Policy) -> Option<Arc<Permit>> {
        let permits = &self.shared.permits;
        permits.try_enter(policy).map(|slots| permits.permit(Some(slots)))
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
