//! What the cache would have done for routes that have no policy.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Recent;
use super::Traffic;
use crate::cache::{Fences, SimulatedProof};
use crate::clock::{self, Instant};

/// The TTL that is tried.
pub(crate) const TTL: Duration = Duration::from_secs(60);

/// Answers that are remembered, without their bodies.
const MOST: usize = 1 << 16;

/// Remembers what answers would be stored, and finds out which requests they would answer: the same key
/// within a minute, and no change since to what was read.
#[derive(Debug)]
pub(crate) struct Simulation(Recent<(SimulatedProof, Instant)>);

/// How that went for one route.
#[derive(Debug, Default)]
pub(crate) struct SimulationTally {
    eligible: AtomicU64,
    asked: AtomicU64,
    hits: AtomicU64,
    personal: AtomicU64,
}

impl Default for Simulation {
    fn default() -> Self {
        Self(Recent::new(MOST))
    }
}

impl Simulation {
    /// A request for a key was answered, with what was read meanwhile.
    pub(crate) fn note(&self, key: u64, read: SimulatedProof, fences: &Fences, route: &Traffic) {
        route.rehearsed.eligible.fetch_add(1, Ordering::Relaxed);
        let is_hit = self.0.exchange(key, |stored| {
            let is_hit = stored.as_ref().is_some_and(|(rehearsed, since)| {
                since.elapsed() < TTL && rehearsed.is_valid(fences)
            });
            if !is_hit {
                *stored = Some((read, clock::now()));
            }
            is_hit
        });
        let Some(is_hit) = is_hit else { return };
        route.rehearsed.asked.fetch_add(1, Ordering::Relaxed);
        route.rehearsed.hits.fetch_add(is_hit.into(), Ordering::Relaxed);
    }
}

impl SimulationTally {
    /// The request said who sends it.
    pub(crate) fn note_personal(&self) {
        self.personal.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn personal(&self) -> u64 {
        self.personal.load(Ordering::Relaxed)
    }

    /// Requests whose answers could have been kept.
    pub(crate) fn eligible(&self) -> u64 {
        self.eligible.load(Ordering::Relaxed)
    }

    /// The share of requests that the cache would have answered, 0 to 1; and of how many that is.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
    pub(crate) fn hit_ratio(&self) -> (f64, u64) {
        let asked = self.asked.load(Ordering::Relaxed);
        let hits = self.hits.load(Ordering::Relaxed);
        (if asked == 0 { 0.0 } else { hits as f64 / asked as f64 }, asked)
    }
}
