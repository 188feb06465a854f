//! What goes through a layer, by route, for those who look on.
//!
//! [`TrafficRecorder`] belongs to a layer and is off until somebody looks on; a request then costs one load of a
//! flag. [`Traffic`] is what one route has seen: outcomes, how long answers took, and which tables were read.
//! For routes without a policy, [`Simulation`] works out what the cache would have done.

mod histogram;
mod recent;
pub(crate) mod simulation;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use histogram::Histogram;
pub(crate) use recent::Recent;
pub(crate) use simulation::Simulation;

use crate::cache::Uncacheable;
use crate::clock::{self, Instant};
use crate::outcome::{Counters, Outcome};

/// Routes without a policy, and tables of a route, that are told apart.
const MOST: usize = 512;

/// What goes through one layer.
#[derive(Debug, Default)]
pub(crate) struct TrafficRecorder {
    is_on: AtomicBool,
    /// Routes without a policy, as they were met.
    others: RwLock<BTreeMap<Box<str>, Arc<Traffic>>>,
    pub(crate) rehearsal: Simulation,
}

/// What one route has seen since somebody looks on.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) outcomes: Counters,
    /// Answers that the handler had no part in.
    pub(crate) served: Histogram,
    /// Answers that the handler made.
    pub(crate) made: Histogram,
    pub(crate) rehearsed: simulation::SimulationTally,
    reads: Mutex<RouteReads>,
}

/// What a route's handler reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteReads {
    /// Statements, by the tracked table that they read.
    pub(crate) tables: BTreeMap<String, u64>,
    /// Tables whose changes are not seen.
    pub(crate) untracked: BTreeMap<String, u64>,
    /// Why answers could not be kept, and how many.
    pub(crate) unfit: BTreeMap<&'static str, (u64, String)>,
}

/// One request under way on a route that is looked at.
#[derive(Clone, Debug)]
pub(crate) struct RequestTimer {
    pub(crate) traffic: Arc<Traffic>,
    began: Instant,
}

impl TrafficRecorder {
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// A request on a route with a policy, if anybody looks on.
    pub(crate) fn request(&self, traffic: &Arc<Traffic>) -> Option<RequestTimer> {
        self.is_on.load(Ordering::Relaxed).then(|| RequestTimer::on(traffic))
    }

    /// A request on a route without one, if anybody looks on.
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

    /// Routes without a policy that were met.
    pub(crate) fn others(&self) -> BTreeMap<Box<str>, Arc<Traffic>> {
        self.others.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl RequestTimer {
    fn on(traffic: &Arc<Traffic>) -> Self {
        Self { traffic: traffic.clone(), began: clock::now() }
    }

    /// The head of the answer is ready.
    pub(crate) fn end(&self, outcome: Outcome) {
        self.traffic.outcomes.count(outcome);
        let times = if outcome.is_hit() { &self.traffic.served } else { &self.traffic.made };
        times.note(self.began.elapsed());
    }
}

impl Traffic {
    /// A statement was met that reads these tables.
    pub(crate) fn reads<'a>(&self, tables: impl Iterator<Item = &'a str>) {
        let mut reads = self.locked();
        for table in tables {
            count(&mut reads.tables, table);
        }
    }

    /// A statement was met that reads a table without triggers.
    pub(crate) fn reads_untracked(&self, table: &str) {
        count(&mut self.locked().untracked, table);
    }

    /// An answer could not be kept.
    pub(crate) fn note_uncacheable(&self, unfit: &Uncacheable) {
        let mut reads = self.locked();
        let fresh = || (0, unfit.why.to_string());
        reads.unfit.entry(unfit.token).or_insert_with(fresh).0 += 1;
    }

    /// What was read so far.
    pub(crate) fn read(&self) -> RouteReads {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, RouteReads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else if counts.len() < MOST {
        counts.insert(name.to_owned(), 1);
    }
}
