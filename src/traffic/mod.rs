//! Traffic statistics of a layer, by route, for the operators' page.
//!
//! [`TrafficRecorder`] belongs to a layer. It is off until an `Admin` is created, and while it is off a request costs one
//! load of a flag. [`Traffic`] has the statistics of one route: outcomes, response times, and the tables that were read.
//! For routes without a policy, [`Simulation`] estimates what the cache would have done.

mod histogram;
mod recent;
pub(crate) mod simulation;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

pub(crate) use histogram::Histogram;
pub(crate) use recent::Recent;
pub(crate) use simulation::Simulation;

use crate::cache::ReadStatistics;
use crate::clock::{self, Instant};
use crate::outcome::{Counters, Outcome};

/// The most routes without a policy that are counted separately.
const MOST: usize = 512;

/// The traffic statistics of one layer.
#[derive(Debug, Default)]
pub(crate) struct TrafficRecorder {
    is_on: AtomicBool,
    /// Routes without a policy, added as requests arrive.
    others: RwLock<BTreeMap<Box<str>, Arc<Traffic>>>,
    pub(crate) rehearsal: Simulation,
}

/// The statistics of one route since the recorder was switched on.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) outcomes: Counters,
    /// Response times from the cache.
    pub(crate) served: Histogram,
    /// Response times from the handler.
    pub(crate) made: Histogram,
    pub(crate) rehearsed: simulation::SimulationTally,
    pub(crate) reads: Arc<ReadStatistics>,
}

/// One request in progress, with its start time.
#[derive(Clone, Debug)]
pub(crate) struct RequestTimer {
    pub(crate) traffic: Arc<Traffic>,
    began: Instant,
}

impl TrafficRecorder {
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// Begins a request on a route with a policy, if the recorder is on.
    pub(crate) fn request(&self, traffic: &Arc<Traffic>) -> Option<RequestTimer> {
        self.is_on.load(Ordering::Relaxed).then(|| RequestTimer::on(traffic))
    }

    /// Begins a request on a route without a policy, if the recorder is on.
    pub(crate) fn other_request(&self, pattern: Option<&str>) -> Option<RequestTimer> {
        if !self.is_on.load(Ordering::Relaxed) {
            return None;
        }
        let pattern = pattern.unwrap_or("(no route)");
        let known = self.others.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(traffic) = known.get(pattern) {
            return Some(RequestTimer::on(traffic));
        }
        drop(known);
        let mut others = self.others.write().unwrap_or_else(PoisonError::into_inner);
        let pattern = if others.len() < MOST { pattern } else { "(further routes)" };
        Some(RequestTimer::on(others.entry(pattern.into()).or_default()))
    }

    /// The routes without a policy that have had requests.
    pub(crate) fn others(&self) -> BTreeMap<Box<str>, Arc<Traffic>> {
        self.others.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RequestTimer {
    fn on(traffic: &Arc<Traffic>) -> Self {
        Self { traffic: traffic.clone(), began: clock::now() }
    }

    /// Records the outcome and the time until the response's head is ready.
    pub(crate) fn end(&self, outcome: Outcome) {
        self.traffic.outcomes.count(outcome);
        let times = if outcome.is_hit() { &self.traffic.served } else { &self.traffic.made };
        times.note(self.began.elapsed());
    }
}
