//! Simulates the cache for routes without a policy.

use std::time::Duration;

use super::tally::SimulatedLookup;
use super::{Recent, Traffic};
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

impl Default for Simulation {
    fn default() -> Self {
        Self(Recent::new(MOST))
    }
}

impl Simulation {
    /// Records a request for a key and the reads of its handler.
    pub(crate) fn note(&self, key: u64, read: SimulatedProof, fences: &Fences, route: &Traffic) {
        route.simulated.note_eligible();
        let found = self.0.exchange(key, |stored| {
            let found = find(stored.as_ref(), fences);
            if found != SimulatedLookup::Valid {
                *stored = Some((read, clock::now()));
            }
            found
        });
        if let Some(found) = found {
            route.simulated.note_found(found);
        }
    }
}

/// What a request finds under its key.
fn find(stored: Option<&(SimulatedProof, Instant)>, fences: &Fences) -> SimulatedLookup {
    match stored.filter(|(_, since)| since.elapsed() < TTL) {
        None => SimulatedLookup::Nothing,
        Some((proof, _)) if proof.is_valid(fences) => SimulatedLookup::Valid,
        Some(_) => SimulatedLookup::Changed,
    }
}
