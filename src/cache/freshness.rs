//! How long a response may be used, according to the origin and according to the client.

use std::time::Duration;

use super::policy::Policy;
use crate::entry::Lifetime;

/// Longer times are cut to this: a hundred years. Redis accepts no more milliseconds than fit into 63 bits.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// How long a response may be used, as its origin or the policy says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Freshness {
    /// The age that the response already has.
    pub(crate) age: Duration,
    /// The age up to which it is fresh.
    pub(crate) ttl: Duration,
    /// How long past its TTL it may be served while it is recomputed.
    pub(crate) while_revalidating: Duration,
    /// How long past its TTL it may be served if recomputing it fails.
    pub(crate) if_error: Duration,
    /// How long past its TTL it stays stored so that the handler can confirm it.
    pub(crate) to_revalidate: Duration,
    /// It is never served past its TTL, whatever the client allows.
    pub(crate) is_strict: bool,
}

impl Freshness {
    /// The freshness that a policy gives to a response without freshness of its own.
    pub(crate) fn from_policy(policy: &Policy, negative: bool) -> Self {
        let ttl = if negative { policy.negative_ttl.unwrap_or_default() } else { policy.ttl };
        Self {
            ttl,
            while_revalidating: policy.stale_while_revalidate,
            if_error: policy.stale_if_error,
            ..Self::default()
        }
    }

    /// The lifetime of an entry that is stored now. Its TTL is shortened by a random part of `jitter`.
    pub(crate) fn life(&self, jitter: f64, cost: Duration) -> Lifetime {
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

/// How old or stale a response may be, as the request says (RFC 9111, section 5.2.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AgeLimits {
    /// Rejects a response that is older.
    pub(crate) max_age: Option<Duration>,
    /// Rejects a response that expires sooner.
    pub(crate) min_fresh: Duration,
    /// Accepts a response that expired no longer ago than this.
    pub(crate) max_stale: Duration,
    /// Requires revalidation: ignores every stored response unless the handler confirms it for this request.
    pub(crate) is_anew: bool,
}

impl AgeLimits {
    /// Whether the request rejects a response of this age and TTL although it is fresh.
    pub(super) fn refuse(&self, age: Duration, ttl: Duration) -> bool {
        self.is_anew
            || self.max_age.is_some_and(|limit| age > limit)
            || !self.min_fresh.is_zero() && ttl.saturating_sub(age) < self.min_fresh
    }
}
