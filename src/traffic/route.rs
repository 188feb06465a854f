//! The statistics of one route, and the timers of its requests.

use std::sync::Arc;

use super::Histogram;
use super::reads::ReadStatistics;
use super::tally::SimulationTally;
use crate::cache::ReadObserver;
use crate::clock::{self, Instant};
use crate::outcome::{Counters, Outcome};

/// The statistics of one route since the recorder was switched on.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) outcomes: Counters,
    /// Response times from the cache.
    pub(crate) served: Histogram,
    /// Response times from the handler.
    pub(crate) computed: Histogram,
    pub(crate) simulated: SimulationTally,
    pub(crate) reads: Arc<ReadStatistics>,
}

/// One request in progress, with its start time.
#[derive(Clone, Debug)]
pub(crate) struct RequestTimer {
    pub(crate) traffic: Arc<Traffic>,
    began: Instant,
}

impl RequestTimer {
    pub(super) fn on(traffic: &Arc<Traffic>) -> Self {
        Self { traffic: traffic.clone(), began: clock::now() }
    }

    /// What learns of the request's reads.
    pub(crate) fn observer(&self) -> Arc<dyn ReadObserver> {
        self.traffic.reads.clone()
    }

    /// Records the outcome and the time until the response's head is ready.
    pub(crate) fn end(&self, outcome: Outcome) {
        self.traffic.outcomes.count(outcome);
        let times = if outcome.is_hit() { &self.traffic.served } else { &self.traffic.computed };
        times.note(self.began.elapsed());
    }
}
