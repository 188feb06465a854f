//! Shares one observed position of a primary among all lookups that need one.
//!
//! A lookup may use any position whose observation began after the lookup did: everything written by then was visible when
//! the position was observed. An observation that began earlier may have read the position before the write. So of all
//! lookups that begin during an observation, one makes the next observation and the others wait for it.
//!
//! A lookup observes within its own task. If it is cancelled, a waiting lookup takes over at once; if its task stalls, one
//! takes over after [`OVERTAKE`].

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::entry::LogPosition;
use crate::expiring::{ExpiringGuard, ExpiringLock};
use crate::sync::{Mutex, MutexExt, MutexGuard};

/// How long an observation may take before another one begins in parallel.
pub(super) const OVERTAKE: Duration = Duration::from_millis(250);

/// The observations of one primary that share their results.
#[derive(Clone, Debug, Default)]
pub(super) struct Observations(Arc<ObservationsInner>);

#[derive(Debug, Default)]
struct ObservationsInner {
    state: Mutex<ObservationState>,
    /// Held by the task that observes.
    lock: ExpiringLock,
    /// Notifies when an observation ends or is abandoned.
    ended: Notify,
}

#[derive(Debug, Default)]
struct ObservationState {
    /// How many have begun.
    begun: u64,
    /// The number of the last one that has ended.
    done: u64,
    /// Its result; `None` if it failed.
    found: Option<LogPosition>,
}

/// What a lookup that needs a position does next.
pub(super) enum Next {
    /// Use this result; `None` if the observation failed.
    Use(Option<LogPosition>),
    Observe(Observation),
    /// Wait until an observation ends, and for this long at most.
    Wait(Duration),
}

/// The observation in progress. If it is dropped before its end, another task begins one.
#[derive(Debug)]
pub(crate) struct Observation {
    all: Observations,
    lock: Option<ExpiringGuard>,
    number: u64,
}

impl Observations {
    /// The number of observations that have begun. Later ones get larger numbers.
    pub(super) fn begun(&self) -> u64 {
        self.state().begun
    }

    /// The next step of a lookup that may use observations with numbers larger than `after`.
    pub(super) fn next(&self, after: u64) -> Next {
        let mut state = self.state();
        if state.done > after {
            return Next::Use(state.found);
        }
        match self.0.lock.try_lock(OVERTAKE) {
            Ok(lock) => {
                state.begun += 1;
                Next::Observe(Observation {
                    all: self.clone(),
                    lock: Some(lock),
                    number: state.begun,
                })
            }
            Err(left) => Next::Wait(left),
        }
    }

    /// Begins an observation unless one is in progress.
    #[cfg(feature = "postgres")]
    pub(super) fn try_begin(&self) -> Option<Observation> {
        match self.next(u64::MAX) {
            Next::Observe(observation) => Some(observation),
            _ => None,
        }
    }

    /// Resolves when an observation ends, or is abandoned, after this call.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.0.ended.notified()
    }

    fn state(&self) -> MutexGuard<'_, ObservationState> {
        self.0.state.lock_unpoisoned()
    }
}

impl Observation {
    /// Ends the observation and passes its result, or its failure, to all waiting lookups.
    pub(super) fn end(self, found: Option<LogPosition>) {
        let mut state = self.all.state();
        // An overtaken observation may end after the one that overtook it.
        if state.done < self.number {
            (state.done, state.found) = (self.number, found);
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        self.lock = None;
        self.all.0.ended.notify_waiters();
    }
}
