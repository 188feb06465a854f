//! Takes the lease that makes this node the only one that computes an entry.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::task::LookupTask;
use crate::cache::hit::Hit;
use crate::cache::lease::{Claimed, LeaseGuard, PendingLease};
use crate::outcome::Event;

impl LookupTask<'_> {
    /// Takes the lease. While another node holds it, waits for that node's entry and tries again: the other node may give
    /// up, or store an entry that this request can't use.
    pub(super) async fn claim(&mut self, wanted: bool) -> Result<Option<Box<LeaseGuard>>, Hit> {
        if !wanted || !self.cache.leases(self.policy) {
            return Ok(None);
        }
        let limit = self.policy.lease.min(self.policy.wait);
        // Boxed, so that a hit's future does not include its size.
        let leased = Box::pin(timeout(limit, self.await_lease()));
        leased.await.unwrap_or(Ok(None))
    }

    async fn await_lease(&mut self) -> Result<Option<Box<LeaseGuard>>, Hit> {
        const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(8)];
        let mut pause = PAUSES[0];
        loop {
            match PendingLease::new(self.cache, self.key, self.policy.lease).claim().await {
                Ok(Claimed::Granted(lease)) => return self.look_up_again(lease).await,
                Ok(Claimed::Unneeded) => return Ok(None),
                Ok(Claimed::Held) if pause == PAUSES[0] => {
                    self.cache.shared.counters.note(Event::LeaseHeld);
                }
                Ok(Claimed::Held) => {}
                Err(error) => {
                    self.cache.noted(Err(error));
                    return Ok(None);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
            let found = self.cache.shared.store.get(self.key).await;
            let failed = found.is_err();
            if let Some(hit) = self.take(found) {
                return Err(hit);
            }
            if failed {
                return Ok(None);
            }
        }
    }

    /// Looks up again after taking the lease: its last holder may have stored the entry after our first lookup.
    async fn look_up_again(
        &mut self,
        lease: Box<LeaseGuard>,
    ) -> Result<Option<Box<LeaseGuard>>, Hit> {
        let found = self.cache.shared.store.get(self.key).await;
        match self.take(found) {
            Some(hit) => Err(hit),
            None => Ok(Some(lease)),
        }
    }
}
