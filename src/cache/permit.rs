//! Permits to compute: the bound on how many fills run at a time.
//!
//! A fill holds one permit, and so does everything that is computed within it: a lookup in its scope inherits the
//! permit, however deep. A request that already leads a flight and still waits for a permit takes the permit of a fill
//! that waits for this flight, since that fill does nothing meanwhile. So no fill waits for a permit that another one
//! holds while it waits for the first.

use std::pin::pin;
use std::sync::{Arc, PoisonError, Weak};

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::cache::Cache;
use super::record::Record;
use crate::sync::Mutex;

/// A permit to compute, shared by a fill and by all that is computed within it.
#[derive(Debug)]
pub(crate) struct Permit {
    _slot: OwnedSemaphorePermit,
}

impl Permit {
    pub(crate) fn new(slot: OwnedSemaphorePermit) -> Arc<Self> {
        Arc::new(Self { _slot: slot })
    }
}

impl Cache {
    /// A permit to compute: that of the present scope, or the first one that comes free, or that one of the fills lends
    /// that wait for what is to be computed.
    pub(super) async fn permit<'a>(
        &self,
        loans: impl IntoIterator<Item = &'a Loans>,
    ) -> Option<Arc<Permit>> {
        if let Some(permit) = Record::permit() {
            return Some(permit);
        }
        let own = pin!(self.shared.loads.clone().acquire_owned());
        let lent: FuturesUnordered<_> = loans.into_iter().map(Loans::borrow).collect();
        let lent = pin!(lent.into_future());
        match select(own, lent).await {
            Either::Left((slot, _)) => slot.ok().map(Permit::new),
            Either::Right(((Some(permit), _), _)) => Some(permit),
            Either::Right(((None, _), own)) => own.await.ok().map(Permit::new),
        }
    }

    /// A permit to compute, if one is free.
    pub(super) fn try_permit(&self) -> Option<Arc<Permit>> {
        self.shared.loads.clone().try_acquire_owned().ok().map(Permit::new)
    }
}

/// Permits of the fills that wait for one flight.
#[derive(Debug, Default)]
pub(crate) struct Loans {
    offers: Mutex<Vec<Weak<Permit>>>,
    offered: Notify,
}

impl Loans {
    /// Lends a permit, for as long as the fill holds it that waits.
    pub(crate) fn offer(&self, permit: &Arc<Permit>) {
        let mut offers = self.offers.lock().unwrap_or_else(PoisonError::into_inner);
        offers.retain(|offer| offer.strong_count() > 0);
        offers.push(Arc::downgrade(permit));
        drop(offers);
        self.offered.notify_waiters();
    }

    /// Waits for a permit that a waiting fill lends.
    pub(crate) async fn borrow(&self) -> Arc<Permit> {
        loop {
            // Registered before the look, so that no offer comes in between.
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
