//! The traffic statistics of one layer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use super::{RequestTimer, Simulation, Traffic};
use crate::sync::RwLockExt;

/// The most routes without a policy that are counted separately.
const MOST: usize = 512;

/// The traffic statistics of one layer.
#[derive(Debug, Default)]
pub(crate) struct TrafficRecorder {
    is_on: AtomicBool,
    /// Routes without a policy, added as requests arrive.
    others: RwLock<BTreeMap<Box<str>, Arc<Traffic>>>,
    pub(crate) simulation: Simulation,
}

impl TrafficRecorder {
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
        let known = self.others.read_unpoisoned();
        if let Some(traffic) = known.get(pattern) {
            return Some(RequestTimer::on(traffic));
        }
        drop(known);
        let mut others = self.others.write_unpoisoned();
        let pattern = if others.len() < MOST { pattern } else { "(further routes)" };
        Some(RequestTimer::on(others.entry(pattern.into()).or_default()))
    }
}

#[cfg(feature = "admin")]
impl TrafficRecorder {
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// The routes without a policy that have had requests.
    pub(crate) fn others(&self) -> BTreeMap<Box<str>, Arc<Traffic>> {
        self.others.read_unpoisoned().clone()
    }
}
