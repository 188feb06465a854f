//! Counts what the simulated cache would have served.

use std::sync::atomic::{AtomicU64, Ordering};

/// The results of the simulation for one route.
#[derive(Debug, Default)]
pub(crate) struct SimulationTally {
    eligible: AtomicU64,
    lookups: AtomicU64,
    hits: AtomicU64,
    changed: AtomicU64,
    personal: AtomicU64,
}

/// What a request found.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum SimulatedLookup {
    Nothing,
    /// An entry that a change has invalidated.
    Changed,
    Valid,
}

impl SimulationTally {
    /// Records a request whose response could have been stored.
    pub(super) fn note_eligible(&self) {
        self.eligible.fetch_add(1, Ordering::Relaxed);
    }

    /// Records what an eligible request with a sampled key found.
    pub(super) fn note_found(&self, found: SimulatedLookup) {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        self.hits.fetch_add((found == SimulatedLookup::Valid).into(), Ordering::Relaxed);
        self.changed.fetch_add((found == SimulatedLookup::Changed).into(), Ordering::Relaxed);
    }

    /// Records a request that identifies the client.
    pub(crate) fn note_personal(&self) {
        self.personal.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(feature = "admin")]
impl SimulationTally {
    pub(crate) fn personal(&self) -> u64 {
        self.personal.load(Ordering::Relaxed)
    }

    /// The number of requests whose responses could have been stored.
    pub(crate) fn eligible(&self) -> u64 {
        self.eligible.load(Ordering::Relaxed)
    }

    /// The share of sampled requests that the cache would have served, from 0 to 1, and the number of sampled requests.
    pub(crate) fn hit_ratio(&self) -> (f64, u64) {
        let lookups = self.lookups.load(Ordering::Relaxed);
        (share(&self.hits, lookups), lookups)
    }

    /// The share of sampled requests that found an entry which a change had invalidated.
    pub(crate) fn changed_ratio(&self) -> f64 {
        share(&self.changed, self.lookups.load(Ordering::Relaxed))
    }
}

#[cfg(feature = "admin")]
#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
fn share(count: &AtomicU64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { count.load(Ordering::Relaxed) as f64 / all as f64 }
}
