//! Takes the lease that makes this node the only one that computes an entry.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::search::UsableEntry;
use super::task::LookupTask;
use crate::cache::lease::{Claimed, LeaseGuard, PendingLease};
use crate::outcome::{Event, MissReason};
use crate::store::StoreError;

/// The pauses between attempts to take a lease that another node holds: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(8)];

/// The right to compute the entry, or one that was found instead.
pub(super) type ClaimResult = Result<Option<Box<LeaseGuard>>, UsableEntry>;

impl LookupTask<'_> {
    /// Takes the lease, or finds an entry that may be used in some way. While another node holds the lease, waits for that
    /// node's entry and tries again: the other node may give up, or store an entry that this request can't use.
    pub(super) async fn claim(&mut self) -> ClaimResult {
        let first = self.try_claim().await;
        self.policy.miss_hint.note(!matches!(first, Some(Err(_))));
        if let Some(done) = first {
            return done;
        }
        self.cache.shared.counters.note(Event::LeaseHeld);
        let limit = self.policy.lease.min(self.policy.wait);
        // Boxed, so that a hit's future does not include its size.
        let claimed = Box::pin(timeout(limit, self.await_lease()));
        claimed.await.unwrap_or(Ok(None))
    }

    async fn await_lease(&mut self) -> ClaimResult {
        let mut pause = PAUSES[0];
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
            if let Some(done) = self.try_claim().await {
                return done;
            }
        }
    }

    /// `None` if another node holds the lease.
    async fn try_claim(&mut self) -> Option<ClaimResult> {
        let (cache, key, ttl) = (self.cache, self.key, self.policy.lease);
        // The second time, the lease is taken in spite of an entry that was found to be unusable.
        for _ in 0..2 {
            match PendingLease::or_entry(cache, key, ttl, self.unusable).claim().await {
                Ok(Claimed::Found(found)) => {
                    if let Some(usable) = self.accept(found) {
                        return Some(Err(usable));
                    }
                }
                Err(error) => {
                    let is_undecodable = matches!(error, StoreError::Decode(_));
                    if is_undecodable || self.reason == MissReason::Absent {
                        self.note_failure(&error);
                    }
                    cache.noted(Err(error));
                    if is_undecodable {
                        break;
                    }
                    return Some(Ok(None));
                }
                claimed => return self.granted(claimed),
            }
        }
        let claimed = PendingLease::new(cache, key, ttl).claim().await;
        self.granted(claimed)
    }

    fn granted(&self, claimed: Result<Claimed, StoreError>) -> Option<ClaimResult> {
        match claimed {
            Ok(Claimed::Granted(lease)) => Some(Ok(Some(lease))),
            Ok(Claimed::Unneeded | Claimed::Found(_)) => Some(Ok(None)),
            Ok(Claimed::Held) => None,
            Err(error) => {
                self.cache.noted(Err(error));
                Some(Ok(None))
            }
        }
    }
}
