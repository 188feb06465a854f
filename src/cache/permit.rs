//! Permits to compute.
//!
//! A fill takes a slot of its route's gate, then one of the cache's. After ten times `wait`, it proceeds in any case.
//!
//! A fill holds one permit for everything that is computed within it: a lookup in its scope inherits the permit, at any
//! depth. A request that already leads a flight and still waits for a permit borrows the permit of a fill that waits for
//! this flight, since that fill is idle meanwhile. So two fills never deadlock, one waiting for the other's permit and the
//! other for the first one's result.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Notify;

use super::gate::{FillBound, FillGate, PermitSlot, after};
use crate::clock;
use crate::sync::{Mutex, MutexExt};

/// The default number of concurrent fills.
const DEFAULT: usize = 512;

/// The longest wait for a permit, as a multiple of the policy's `wait`.
const LONGEST: u32 = 10;

/// The permits of a cache.
#[derive(Debug)]
pub(crate) struct Permits {
    all: Arc<FillGate>,
    /// No limit was configured.
    #[cfg(feature = "postgres")]
    is_default: std::sync::atomic::AtomicBool,
    running: Arc<AtomicUsize>,
}

impl Permits {
    pub(crate) fn new(most: Option<usize>) -> Self {
        Self {
            all: FillGate::for_cache(most.unwrap_or(DEFAULT)),
            #[cfg(feature = "postgres")]
            is_default: most.is_none().into(),
            running: Arc::default(),
        }
    }

    /// How many fills run.
    pub(crate) fn running(&self) -> usize {
        self.running.load(Ordering::Relaxed)
    }

    pub(super) fn permit(&self, slots: PermitSlots) -> Arc<Permit> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Arc::new(Permit { _slots: slots, running: self.running.clone() })
    }

    /// Waits for a slot of a policy's gate, then for one of the cache's. `wait` is the policy's.
    pub(super) async fn enter(
        &self,
        bound: &FillBound,
        wait: Duration,
        note: impl Fn(),
    ) -> PermitSlots {
        let limit = after(clock::now(), wait.saturating_mul(LONGEST));
        let own = bound.gate(&self.all).enter(wait, limit, &note).await;
        if own.is_none() {
            return PermitSlots::default();
        }
        PermitSlots { _own: own, all: self.all.enter(wait, limit, &note).await }
    }

    /// Takes both slots, if they are free.
    pub(super) fn try_enter(&self, bound: &FillBound, wait: Duration) -> Option<PermitSlots> {
        let own = bound.gate(&self.all).try_enter(wait)?;
        let all = self.all.try_enter(wait)?;
        Some(PermitSlots { _own: Some(own), all: Some(all) })
    }
}

#[cfg(feature = "postgres")]
impl Permits {
    /// Concurrent fills per connection to the primary: a handler uses its connection for only a part of its time, and
    /// several short waits for a connection are still a short wait. Connections to replicas do not count: most fills begin
    /// after a change or a failover, when perhaps no replica is far enough, and then all of them read from the primary.
    const FOR_EACH_CONNECTION: usize = 4;

    /// Derives the default from the size of a database's pool, if no limit was configured.
    pub(crate) fn suit(&self, connections: usize) {
        if self.is_default.swap(false, Ordering::AcqRel) {
            self.all.lower(connections.saturating_mul(Self::FOR_EACH_CONNECTION));
        }
    }
}

/// The slots that a fill holds, of its policy's gate and of the cache's.
#[derive(Debug, Default)]
pub(super) struct PermitSlots {
    /// Held until it is dropped.
    _own: Option<PermitSlot>,
    all: Option<PermitSlot>,
}

impl PermitSlots {
    /// Whether the fill proceeds without one of the slots.
    pub(super) fn lacks_one(&self) -> bool {
        self.all.is_none()
    }
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

/// The permits of fills that wait for one flight, which its leader may borrow.
#[derive(Debug, Default)]
pub(crate) struct LentPermits {
    offers: Mutex<Vec<Weak<Permit>>>,
    offered: Notify,
}

impl LentPermits {
    /// Offers the permit of a waiting fill, for as long as that fill holds it.
    pub(crate) fn offer(&self, permit: &Arc<Permit>) {
        let mut offers = self.offers.lock_unpoisoned();
        offers.retain(|offer| offer.strong_count() > 0);
        offers.push(Arc::downgrade(permit));
        drop(offers);
        self.offered.notify_waiters();
    }

    /// Waits for the permit of a waiting fill.
    pub(super) async fn borrow(&self) -> Arc<Permit> {
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
        let offers = self.offers.lock_unpoisoned();
        offers.iter().find_map(Weak::upgrade)
    }
}
