//! Admits fills: a fill inherits a permit, takes one, or borrows one.

use std::pin::pin;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;

use super::cache::Cache;
use super::flight::FlightLeader;
use super::permit::Permit;
use super::policy::Policy;
use super::record::Record;
use crate::outcome::Event;

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
        match Record::permit().or_else(|| self.try_permit(policy)) {
            Some(permit) => PendingPermit { permit, has_waited: false },
            // Boxed, so that the future of a fill that need not wait does not include its size.
            None => Box::pin(self.await_permit(policy, leaders.into_iter().collect())).await,
        }
    }

    async fn await_permit(&self, policy: &Policy, leaders: Vec<&FlightLeader>) -> PendingPermit {
        let permits = &self.shared.permits;
        let _queued: Vec<_> = leaders.iter().map(|leader| leader.queue()).collect();
        let counters = &self.shared.counters;
        let own =
            pin!(permits.enter(&policy.fills, policy.wait, || counters.note(Event::NoPermit)));
        let lent: FuturesUnordered<_> =
            leaders.iter().map(|leader| leader.lent_permits().borrow()).collect();
        let slots = match select(own, lent.into_future()).await {
            Either::Left((slots, _)) => slots,
            Either::Right(((Some(permit), _), _)) => {
                return PendingPermit { permit, has_waited: true };
            }
            Either::Right(((None, _), own)) => own.await,
        };
        if slots.lacks_one() {
            counters.note(Event::NoPermit);
        }
        PendingPermit { permit: permits.permit(slots), has_waited: true }
    }

    /// A permit to compute, if one is free.
    pub(crate) fn try_permit(&self, policy: &Policy) -> Option<Arc<Permit>> {
        let permits = &self.shared.permits;
        permits.try_enter(&policy.fills, policy.wait).map(|slots| permits.permit(slots))
    }
}
