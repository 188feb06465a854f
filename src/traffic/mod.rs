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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use histogram::Histogram;
pub(crate) use recent::Recent;
pub(crate) use simulation::Simulation;

use crate::cache::Uncacheable;
use crate::clock::{self, Instant};
use crate::outcome::{Counters, Outcome};

/// The most routes without a policy, and the most tables of a route, that are counted separately.
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
    reads: Mutex<RouteReads>,
}

/// What a route's handler reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteReads {
    /// The number of statements by tracked table.
    pub(crate) tables: BTreeMap<String, u64>,
    /// The number of statements by table without triggers.
    pub(crate) untracked: BTreeMap<String, u64>,
    /// The number of responses that were not stored and an explanation, by reason.
    pub(crate) uncacheable: BTreeMap<&'static str, (u64, String)>,
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

impl Traffic {
    /// Records a statement that reads these tables.
    pub(crate) fn reads<'a>(&self, tables: impl Iterator<Item = &'a str>) {
        let mut reads = self.locked();
        for table in tables {
            count(&mut reads.tables, table);
        }
    }

    /// Records a statement that reads a table without triggers.
    pub(crate) fn reads_untracked(&self, table: &str) {
        count(&mut self.locked().untracked, table);
    }

    /// Records a response that could not be stored.
    pub(crate) fn note_uncacheable(&self, uncacheable: &Uncacheable) {
        let mut reads = self.locked();
        let fresh = || (0, uncacheable.why.to_string());
        reads.uncacheable.entry(uncacheable.token).or_insert_with(fresh).0 += 1;
    }

    /// The reads so far.
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
