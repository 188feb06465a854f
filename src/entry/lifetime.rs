//! How long an entry lives.

use std::time::Duration;

use crate::clock::{self, Instant};

/// How long an entry lives, and how old it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// When this node computed or received the entry.
    pub(crate) arrived: Instant,
    /// The same on the wall clock, in milliseconds since 1970.
    pub(crate) arrived_at: u64,
    /// How old the entry was then.
    pub(crate) age_on_arrival: Duration,
    /// The age up to which it is fresh.
    pub(crate) ttl: Duration,
    /// The age up to which it is stored, for use when it is stale. At least the TTL.
    pub(crate) keep: Duration,
    /// How long it took to compute, for early refresh.
    pub(crate) cost: Duration,
    /// How long past its TTL it may be served while it is recomputed.
    pub(crate) while_revalidating: Duration,
    /// How long past its TTL it may be served if recomputing it fails.
    pub(crate) if_error: Duration,
    /// It is never served past its TTL, whatever the client allows.
    pub(crate) is_strict: bool,
    /// Only a TTL bounds a part of it, so a response that contains it must not last longer.
    pub(crate) is_timed: bool,
}

impl Lifetime {
    pub(crate) fn starting_now(ttl: Duration, keep: Duration, cost: Duration) -> Self {
        Self {
            arrived: clock::now(),
            arrived_at: clock::unix_millis(),
            age_on_arrival: Duration::ZERO,
            ttl,
            keep: keep.max(ttl),
            cost,
            while_revalidating: Duration::ZERO,
            if_error: Duration::ZERO,
            is_strict: false,
            is_timed: false,
        }
    }

    /// When the entry was computed, in milliseconds since 1970.
    pub(crate) fn computed_at(&self) -> u64 {
        self.arrived_at.saturating_sub(clock::millis(self.age_on_arrival))
    }
}
