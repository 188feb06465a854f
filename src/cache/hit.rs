//! An entry that may be served: as the result of a lookup, or in place of what a fill failed to compute.

use super::cache::Cache;
use super::fill::FillGuard;
use super::flight::FlightResult;
use super::policy::Policy;
use super::record::Record;
use super::uncacheable::Uncacheable;
use crate::outcome::{MissReason, Outcome, StaleReason};
use crate::store::Found;

/// An entry that may be served.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The entry and its tier.
    pub found: Found,
    /// The outcome to count.
    pub outcome: Outcome,
    /// The guard for recomputing it in the background, if it is due and no other request is recomputing it.
    pub renew: Option<Box<FillGuard>>,
    /// Why it was not served at once, if it is served in place of an error.
    pub missed: Option<MissReason>,
}

impl Hit {
    pub(crate) const fn new(found: Found, outcome: Outcome) -> Self {
        Self { found, outcome, renew: None, missed: None }
    }

    /// A stale entry in place of an error, after a miss for this reason.
    pub(crate) fn in_place_of_error(found: Found, missed: MissReason) -> Self {
        let hit = Self::new(found, Outcome::Stale(StaleReason::Error));
        Self { missed: Some(missed), ..hit }
    }

    /// Begins to recompute the entry in the background, if it is due.
    pub(crate) fn take_renewal(&mut self) -> Option<Box<FillGuard>> {
        let guard = self.renew.take()?;
        self.found.entry.note_renewal();
        Some(guard)
    }
}

impl Cache {
    /// Counts a hit, and adds its dependencies to the current scope, if there is one.
    pub(crate) fn serves(&self, hit: &Hit, policy: &Policy) {
        self.shared.counters.count(hit.outcome);
        self.shows(hit, policy);
    }

    /// Adds the dependencies of an entry that is about to be served to the current scope, if there is one.
    pub(crate) fn shows(&self, hit: &Hit, policy: &Policy) {
        let is_stale = matches!(hit.outcome, Outcome::Stale(_));
        Record::note_served(&hit.found.entry, &self.shared.fences, policy, is_stale);
    }
}

impl FillGuard {
    /// The stale entry that the policy allows to serve if the work fails.
    pub(crate) fn fallback(&mut self) -> Option<Hit> {
        let found = self.stale_if_error.take()?;
        Some(Hit::in_place_of_error(found, self.reason))
    }

    /// Ends the fill with an entry that another request has stored in the meantime.
    pub(crate) fn finish_with(mut self, hit: &Hit) {
        if let Some(flight) = self.flight.take() {
            flight.finish(FlightResult::Entry(hit.found.entry.clone()));
        }
    }

    /// Ends the fill after a failure. Waiting requests may serve `instead`; if there is none, two of them take over.
    pub(crate) fn fail(mut self, instead: Option<&Hit>) {
        match (self.flight.take(), instead) {
            (Some(flight), Some(hit)) => {
                flight.finish(FlightResult::Instead(hit.found.entry.clone()));
            }
            (Some(flight), None) => flight.fail(),
            (None, _) => {}
        }
    }

    /// Like [`fail`](Self::fail), and also marks the outer scope as uncacheable for this reason.
    pub(crate) fn fail_for(self, uncacheable: Uncacheable, instead: Option<&Hit>) -> Uncacheable {
        self.refuse(&uncacheable);
        self.fail(instead);
        uncacheable
    }
}
