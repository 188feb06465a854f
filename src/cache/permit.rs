//! Permits to compute: the bound on how many fills run at a time.
//!
//! Each route, and each `ValuePolicy`, has a bound, and so has the whole cache. A route's bound is smaller than the
//! cache's, so a route whose handler hangs leaves permits for the others. If no fill ends while another one waits for a
//! permit, that one proceeds without: the bound protects the database from a rush, and must not make a request fail.
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
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::cache::Cache;
use super::flight::FlightLeader;
use super::policy::Policy;
use super::record::Record;
use crate::clock;
use crate::outcome::Event;
use crate::sync::Mutex;

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
    /// How often a fill ended.
    ended: AtomicUsize,
}

impl FillGate {
    fn new(most: usize) -> Arc<Self> {
        let most = most.clamp(1, Semaphore::MAX_PERMITS);
        let (slots, most) = (Semaphore::new(most), AtomicUsize::new(most));
        Arc::new(Self { slots, most, ended: AtomicUsize::new(0) })
    }

    fn most(&self) -> usize {
        self.most.load(Ordering::Relaxed)
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

    fn try_enter(self: &Arc<Self>) -> Option<PermitSlot> {
        self.slots.try_acquire().ok()?.forget();
        Some(PermitSlot(self.clone()))
    }

    /// Waits for a slot; `None` if no fill ends within `wait`, or after [`LONGEST`] times `wait`.
    async fn enter(self: &Arc<Self>, wait: Duration) -> Option<PermitSlot> {
        let (began, mut acquired) = (clock::now(), pin!(self.slots.acquire()));
        loop {
            let ended = self.ended.load(Ordering::Relaxed);
            match timeout(wait, &mut acquired).await {
                Ok(slot) => {
                    slot.ok()?.forget();
                    return Some(PermitSlot(self.clone()));
                }
                Err(_) if self.ended.load(Ordering::Relaxed) == ended => return None,
                Err(_) if began.elapsed() >= wait.saturating_mul(LONGEST) => return None,
                Err(_) => {}
            }
        }
    }
}

/// One of a gate's slots; dropping it frees the slot.
#[derive(Debug)]
struct PermitSlot(Arc<FillGate>);

impl Drop for PermitSlot {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        self.0.slots.add_permits(1);
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
            FillGate::new(self.most.unwrap_or(all - (all / 4).max(1)))
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
        Self { all: FillGate::new(most.unwrap_or(DEFAULT)), is_default, running: Arc::default() }
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
        Some([policy.fills.gate(&self.all).try_enter()?, self.all.try_enter()?])
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
