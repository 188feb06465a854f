//! What reads through `Database` must see, and pools that it hands out.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::observations::Observation;
use super::{DatabaseId, Needs, Requirement};
use crate::clock::{self, Instant};
use crate::sync::{MutexExt, MutexGuard};

/// Once a pool was handed out this long ago, it counts as unused if it has no connection in use.
pub(super) const GRACE: Duration = Duration::from_secs(1);

impl Requirement {
    /// The requirement of all code outside any scope.
    pub(crate) fn for_process() -> Self {
        Self { is_of_process: true, ..Self::default() }
    }

    /// Whether this is the requirement of all code outside any scope.
    pub(crate) fn is_of_process(&self) -> bool {
        self.is_of_process
    }

    /// Records that a pool was handed out. What the caller does with it can't be observed.
    pub(crate) fn lend(&self) {
        if self.is_of_process {
            let mut lent_at = self.lent_at();
            *lent_at = Some(clock::now());
            self.lent.fetch_add(1, Ordering::AcqRel);
        } else {
            self.open.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Takes back the pools that were handed out to code outside any scope, if the last one was handed out more than
    /// [`GRACE`] ago and no connection is in use.
    pub(crate) fn take_back(&self, is_idle: impl FnOnce() -> bool) {
        // The lock is held, so only one caller at a time does this.
        let lent_at = self.lent_at();
        let lent = self.lent.load(Ordering::Acquire);
        if lent > 0 && lent_at.is_some_and(|at| at.elapsed() > GRACE) && is_idle() {
            self.ended.fetch_add(1, Ordering::AcqRel);
            self.lent.fetch_sub(lent, Ordering::AcqRel);
        }
    }

    /// Whether all reads of the scope go to the primary, no matter what it writes.
    pub(crate) fn stays_on_primary(&self) -> bool {
        self.may_write.load(Ordering::Acquire)
    }

    /// What a read of the database needs.
    pub(crate) fn for_reads(&self, database: DatabaseId) -> Needs {
        let observed = self.observed(database);
        if self.may_write.load(Ordering::Acquire) || self.is_open() || self.is_ahead_of(observed) {
            Needs::Primary
        } else {
            Needs::Position(observed.at)
        }
    }

    /// Begins an observation if it would let replicas serve reads again and none is in progress.
    pub(crate) fn try_observe(&self, database: DatabaseId) -> Option<Observation> {
        let can_be_observed = !self.is_open() && self.is_ahead_of(self.observed(database));
        can_be_observed.then(|| self.observations(database).try_begin()).flatten()
    }

    fn lent_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.lent_at.lock_unpoisoned()
    }
}
