//! Simulates the cache for routes without a policy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Recent;
use super::Traffic;
use crate::cache::{Fences, SimulatedProof};
use crate::clock::{self, Instant};

/// The simulated TTL.
pub(crate) const TTL: Duration = Duration::from_secs(60);

/// The most simulated entries, which have no bodies.
const MOST: usize = 1 << 16;

/// Remembers which responses would have been stored, and counts the requests that they would have served: those with the
/// same key within [`TTL`], if nothing that the response depends on has changed since.
#[derive(Debug)]
pub(crate) struct Simulation(Recent<(SimulatedProof, Instant)>);

/// The results of the simulation for one route.
#[derive(Debug, Default)]
pub(crate) struct SimulationTally {
    eligible: AtomicU64,
    asked: AtomicU64,
    hits: AtomicU64,
    changed: AtomicU64,
    personal: AtomicU64,
}

impl Default for Simulation {
    fn default() -> Self {
        Self(Recent::new(MOST))
    }
}

impl Simulation {
    /// Records a request for a key and the reads of its handler.
    pub(crate) fn note(&self, key: u64, read: SimulatedProof, fences: &Fences, route: &Traffic) {
        route.rehearsed.eligible.fetch_add(1, Ordering::Relaxed);
        let found = self.0.exchange(key, |stored| {
            let found = Found::of(stored.as_ref(), fences);
            if found != Found::Valid {
                *stored = Some((read, clock::now()));
            }
            found
        });
        let Some(found) = found else { return };
        route.rehearsed.asked.fetch_add(1, Ordering::Relaxed);
        route.rehearsed.hits.fetch_add((found == Found::Valid).into(), Ordering::Relaxed);
        route.rehearsed.changed.fetch_add((found == Found::Changed).into(), Ordering::Relaxed);
    }
}

/// What a request found.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    /// An entry that a change has invalidated.
    Changed,
    Valid,
}

impl Found {
    fn of(stored: Option<&(SimulatedProof, Instant)>, fences: &Fences) -> Self {
        match stored.filter(|(_, since)| since.elapsed() < TTL) {
            None => Self::Nothing,
            Some((proof, _)) if proof.is_valid(fences) => Self::Valid,
            Some(_) => Self::Changed,
        }
    }
}

impl SimulationTally {
    /// Records a request that identifies the client.
    pub(crate) fn note_personal(&self) {
        self.personal.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn personal(&self) -> u64 {
        self.personal.load(Ordering::Relaxed)
    }

    /// The number of requests whose responses could have been stored.
    pub(crate) fn eligible(&self) -> u64 {
        self.eligible.load(Ordering::Relaxed)
    }

    /// The share of sampled requests that the cache would have served, from 0 to 1, and the number of sampled requests.
    pub(crate) fn hit_ratio(&self) -> (f64, u64) {
        let asked = self.asked.load(Ordering::Relaxed);
        (share(&self.hits, asked), asked)
    }

    /// The share of sampled requests that found an entry which a change had invalidated.
    pub(crate) fn changed_ratio(&self) -> f64 {
        share(&self.changed, self.asked.load(Ordering::Relaxed))
    }
}

#[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
fn share(count: &AtomicU64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { count.load(Ordering::Relaxed) as f64 / all as f64 }
}
