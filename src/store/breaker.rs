//! The circuit breaker, which decides when not to call a store.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::StoreError;
use crate::clock::{Instant, now};
use crate::sync::MutexExt;

/// A probe that takes longer counts as stalled, as on a runtime that is no longer polled, and another call is let through.
const PROBE_WITHIN: Duration = Duration::from_secs(2);

/// A circuit breaker: after several failures in a row, no call is let through for a while; then one call probes the store.
#[derive(Debug)]
pub(super) struct Breaker {
    failures: u32,
    cool_down: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Clone, Copy, Debug)]
enum BreakerState {
    Closed {
        failed: u32,
    },
    Open {
        until: Instant,
    },
    /// One call probes the store. After `until`, another one may.
    Probing {
        until: Instant,
    },
}

impl Breaker {
    pub(super) fn new(failures: u32, cool_down: Duration) -> Self {
        Self { failures, cool_down, state: Mutex::new(BreakerState::Closed { failed: 0 }) }
    }

    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.lock(), BreakerState::Closed { .. })
    }

    /// Permission for one call, or an error if the breaker is open.
    pub(super) fn enter(&self) -> Result<BreakerPass<'_>, StoreError> {
        let mut state = self.lock();
        let probe = match *state {
            BreakerState::Closed { .. } => false,
            BreakerState::Open { until } | BreakerState::Probing { until } if now() >= until => {
                *state = BreakerState::Probing { until: now() + PROBE_WITHIN };
                true
            }
            BreakerState::Open { .. } | BreakerState::Probing { .. } => {
                return Err(StoreError::Open);
            }
        };
        Ok(BreakerPass { breaker: self, probe, reported: false })
    }

    fn succeeded(&self, probe: bool) {
        let mut state = self.lock();
        // A call that began before the breaker opened says nothing about the store's current state.
        if probe || matches!(*state, BreakerState::Closed { .. }) {
            *state = BreakerState::Closed { failed: 0 };
        }
    }

    fn failed(&self, probe: bool) {
        let mut state = self.lock();
        let failed = match *state {
            BreakerState::Closed { failed } => failed + 1,
            _ if probe => self.failures,
            _ => return,
        };
        *state = if failed >= self.failures {
            BreakerState::Open { until: now() + self.pause() }
        } else {
            BreakerState::Closed { failed }
        };
    }

    /// How long the breaker stays open. Varied at random, so that nodes that lost the server together don't all return at
    /// once.
    fn pause(&self) -> Duration {
        self.cool_down.mul_f64(0.75 + 0.5 * fastrand::f64())
    }

    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock_unpoisoned()
    }
}

/// Permission for one call. Report its result; without a report, the call does not count.
#[derive(Debug)]
pub(super) struct BreakerPass<'a> {
    breaker: &'a Breaker,
    probe: bool,
    reported: bool,
}

impl BreakerPass<'_> {
    pub(super) fn report(mut self, well: bool) {
        self.reported = true;
        if well { self.breaker.succeeded(self.probe) } else { self.breaker.failed(self.probe) }
    }
}

impl Drop for BreakerPass<'_> {
    fn drop(&mut self) {
        if self.probe && !self.reported {
            let mut state = self.breaker.lock();
            // If the probe's caller was cancelled, the next call probes, unless another probe has already ended.
            if matches!(*state, BreakerState::Probing { .. }) {
                *state = BreakerState::Open { until: now() };
            }
        }
    }
}
