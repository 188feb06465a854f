//! How long an answer may be used: in the eyes of who made it, and of who asks for it.

use std::time::Duration;

use super::policy::Policy;
use crate::entry::Lifetime;

/// A time of more is as good as this: a hundred years. Redis takes no more milliseconds than 63 bits hold.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How long an answer may be used, as the one who made it says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// How old it is already.
    pub(crate) age: Duration,
    /// The age up to which it is fresh.
    pub(crate) ttl: Duration,
    /// How long past its TTL it may be served while it is made anew.
    pub(crate) while_revalidating: Duration,
    /// How long past its TTL it may be served if it can't be made anew.
    pub(crate) if_error: Duration,
    /// How long past its TTL it is worth keeping to ask whether it still holds.
    pub(crate) to_revalidate: Duration,
    /// Nobody gets it past its TTL, whatever they ask for.
    pub(crate) is_strict: bool,
}

impl Freshness {
    /// The terms of a policy, for an answer that has none of its own.
    pub(crate) fn from_policy(policy: &Policy, negative: bool) -> Self {
        let ttl = if negative { policy.negative_ttl.unwrap_or_default() } else { policy.ttl };
        Self {
            ttl,
            while_revalidating: policy.stale_while_revalidate,
            if_error: policy.stale_if_error,
            ..Self::default()
        }
    }

    /// The life of an entry that begins now, its TTL shortened by a random part of `jitter`.
    pub(super) fn life(&self, jitter: f64, cost: Duration) -> Lifetime {
        let ttl = self.ttl.min(LONGEST).mul_f64(1.0 - jitter * fastrand::f64());
        let beyond =
            self.while_revalidating.max(self.if_error).max(self.to_revalidate).min(LONGEST);
        Lifetime {
            age_on_arrival: self.age,
            while_revalidating: self.while_revalidating,
            if_error: self.if_error,
            is_strict: self.is_strict,
            ..Lifetime::starting_now(ttl, ttl.saturating_add(beyond), cost)
        }
    }
}

/// How old or stale an answer may be, as the one who asks for it says (RFC 9111, section 5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AgeLimits {
    /// None that is older.
    pub(crate) max_age: Option<Duration>,
    /// None that expires sooner.
    pub(crate) min_fresh: Duration,
    /// One that has expired no longer ago than this will do.
    pub(crate) max_stale: Duration,
    /// None that is not made, or confirmed, for this request.
    pub(crate) is_anew: bool,
}

impl AgeLimits {
    /// Whether an answer of this age and TTL is not good enough, though fresh.
    pub(super) fn refuse(&self, age: Duration, ttl: Duration) -> bool {
        self.is_anew
            || self.max_age.is_some_and(|limit| age > limit)
            || !self.min_fresh.is_zero() && ttl.saturating_sub(age) < self.min_fresh
    }
}
