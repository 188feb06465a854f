//! The outcome of a request: one value that feeds `Cache-Status`, counters and traces.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::available_parallelism;

use crate::store::{StoreError, Tier};

/// How the cache handled a request or a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Served from the cache, proven fresh.
    Hit(Tier),
    /// Served with the result of another request, which was computing the response or looking it up in the shared
    /// store.
    Collapsed,
    /// Served stale from the cache, as the policy allows.
    Stale(StaleReason),
    /// Computed, since the cache had nothing to serve.
    Miss(MissReason),
    /// Passed to the handler without using the cache.
    Bypass(BypassReason),
}

/// Why a stale response was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaleReason {
    /// Its TTL has passed, and a new response is being computed (RFC 5861, section 3).
    Revalidating,
    /// Computing a new response failed (RFC 5861, section 4).
    Error,
    /// It was stored before a failover or a crash of the primary, and a new response is being computed.
    Failover,
    /// The client accepts a stale response, by `max-stale` (RFC 9111, section 5.2.1.2).
    Requested,
}

/// Why the cache had nothing to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// No entry is stored for the key.
    Absent,
    /// Its TTL has passed.
    Expired,
    /// Something that it depends on has changed.
    Changed,
    /// The entry is of another epoch: it was stored before a failover, or a crash or restore of the primary.
    OldEpoch,
    /// The shared store failed or took too long.
    StoreFailed,
    /// The stored bytes can't be decoded as an entry of this version of Tidegate.
    Undecodable,
    /// The client requested a fresher response (RFC 9111, section 5.2.1).
    Requested,
    /// The stored value is of a type other than the requested one, or was stored by a node with another version of the
    /// type.
    OtherShape,
}

/// Why the cache was not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BypassReason {
    /// The cache is switched off.
    Off,
    /// The request's method can't be cached. GET can be; QUERY, if the policy has
    /// [`query_content`](crate::Policy::query_content); and a POST request that only reads, if the policy has
    /// [`post_reads`](crate::Policy::post_reads). HEAD is served from a stored response; without one, it goes to the
    /// handler.
    Method,
    /// No policy for the route.
    NoPolicy,
    /// A tag uses a parameter that the route does not have, or has more than once; or a parameter of the path is not
    /// UTF-8, and the policy is strict or has tags with parameters; or a strict policy can't pass on a parameter because
    /// of its name.
    NoParameter,
    /// The request identifies the client, and the policy does not say how responses depend on the client.
    Personal,
    /// The request has an undeclared extension, which may identify the client; see
    /// [`CacheLayer::extension`](crate::CacheLayer::extension).
    Extensions,
    /// A GET or HEAD request has a body, or the content of a QUERY or POST request can't be part of the key, for example
    /// because it is too large.
    Body,
    /// A header overrides the request's method (`X-HTTP-Method-Override` and the like).
    MethodOverride,
    /// The request has `Cache-Control: no-store`.
    NoStore,
    /// The node's last read of the change log is longer ago than the policy's `max_staleness`.
    Unconfirmed,
    /// The node could not read the change log up to the session's last write.
    Session,
    /// The stored entry is not an HTTP response.
    Unreadable,
    /// A range request for a response that is not stored.
    Range,
    /// The request has a condition that the origin must evaluate: `If-Match`, `If-Unmodified-Since`, or, in a POST
    /// request, `If-None-Match`.
    Precondition,
    /// The request asks to switch to another protocol, such as WebSocket.
    Upgrade,
    /// The request has `only-if-cached`, and no response is stored; it gets 504.
    OnlyIfCached,
    /// The policy is in shadow mode: a stored response was found, and the handler's response was served in its place.
    Shadow,
    /// The computation of this key requested the same key, directly or in a cycle, so waiting would deadlock.
    Recursive,
}

impl Outcome {
    /// Every outcome, for tables of counters.
    pub fn all() -> impl Iterator<Item = Self> {
        use {BypassReason as B, MissReason as M, StaleReason as S};
        [Self::Hit(Tier::Memory), Self::Hit(Tier::Shared), Self::Collapsed]
            .into_iter()
            .chain([S::Revalidating, S::Error, S::Failover, S::Requested].map(Self::Stale))
            .chain(
                [
                    M::Absent,
                    M::Expired,
                    M::Changed,
                    M::OldEpoch,
                    M::StoreFailed,
                    M::Undecodable,
                    M::Requested,
                    M::OtherShape,
                ]
                .map(Self::Miss),
            )
            .chain(
                [
                    B::Off,
                    B::Method,
                    B::NoPolicy,
                    B::NoParameter,
                    B::Personal,
                    B::Extensions,
                    B::Body,
                    B::MethodOverride,
                    B::NoStore,
                    B::Unconfirmed,
                    B::Session,
                    B::Unreadable,
                    B::Range,
                    B::Precondition,
                    B::Upgrade,
                    B::OnlyIfCached,
                    B::Shadow,
                    B::Recursive,
                ]
                .map(Self::Bypass),
            )
    }

    /// Whether the response came from the cache without a handler call of its own: a hit, collapsed or stale.
    pub const fn is_hit(self) -> bool {
        matches!(self, Self::Hit(_) | Self::Collapsed | Self::Stale(_))
    }

    /// A short word for the tier or the reason, unique among outcomes, as in `Cache-Status` and the metric label `reason`.
    pub const fn token(self) -> &'static str {
        match self {
            Self::Hit(Tier::Memory) => "memory",
            Self::Hit(Tier::Shared) => "shared",
            Self::Collapsed => "collapsed",
            Self::Stale(StaleReason::Revalidating) => "stale-while-revalidate",
            Self::Stale(StaleReason::Error) => "stale-if-error",
            Self::Stale(StaleReason::Failover) => "stale-after-failover",
            Self::Stale(StaleReason::Requested) => "max-stale",
            Self::Miss(reason) => reason.token(),
            Self::Bypass(reason) => reason.token(),
        }
    }

    /// What kind of outcome it is, in a word: `hit`, `collapsed`, `stale`, `miss` or `bypass`.
    pub const fn result(self) -> &'static str {
        match self {
            Self::Hit(_) => "hit",
            Self::Collapsed => "collapsed",
            Self::Stale(_) => "stale",
            Self::Miss(_) => "miss",
            Self::Bypass(_) => "bypass",
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::Hit(tier) => tier as usize,
            Self::Collapsed => 2,
            Self::Stale(reason) => 3 + reason as usize,
            Self::Miss(reason) => 7 + reason as usize,
            Self::Bypass(reason) => 15 + reason as usize,
        }
    }
}

impl MissReason {
    pub(crate) fn from_store_error(error: &StoreError) -> Self {
        match error {
            StoreError::Decode(_) => Self::Undecodable,
            _ => Self::StoreFailed,
        }
    }

    const fn token(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Expired => "expired",
            Self::Changed => "changed",
            Self::OldEpoch => "old-epoch",
            Self::StoreFailed => "store-failed",
            Self::Undecodable => "undecodable",
            Self::Requested => "requested",
            Self::OtherShape => "other-shape",
        }
    }
}

impl BypassReason {
    const fn token(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Method => "method",
            Self::NoPolicy => "no-policy",
            Self::NoParameter => "no-parameter",
            Self::Personal => "personal",
            Self::Extensions => "extensions",
            Self::Body => "request-body",
            Self::MethodOverride => "method-override",
            Self::NoStore => "no-store",
            Self::Unconfirmed => "unconfirmed",
            Self::Session => "session",
            Self::Unreadable => "unreadable",
            Self::Range => "range",
            Self::Precondition => "precondition",
            Self::Upgrade => "upgrade",
            Self::OnlyIfCached => "only-if-cached",
            Self::Shadow => "shadow",
            Self::Recursive => "recursive",
        }
    }
}

/// Counts of [`Outcome`]s and [`Event`]s since the cache was created; see [`Cache::counters`](crate::Cache::counters).
#[derive(Debug)]
pub struct Counters {
    /// Each thread counts in one of these, so that the cores that serve hits do not contend for one cache line.
    stripes: Box<[Stripe]>,
}

#[derive(Debug)]
#[repr(align(128))]
struct Stripe {
    outcomes: [AtomicU64; OUTCOMES],
    events: [AtomicU64; Event::ALL.len()],
}

/// The number of [`Outcome`]s.
const OUTCOMES: usize = 33;

/// The most stripes: more cores share some.
const MOST_STRIPES: usize = 32;

thread_local! {
    /// The number of this thread, of those that have counted.
    static THREAD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

impl Default for Counters {
    fn default() -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let stripe = |_| Stripe {
            outcomes: [const { AtomicU64::new(0) }; _],
            events: [const { AtomicU64::new(0) }; _],
        };
        Self { stripes: (0..cores.next_power_of_two().min(MOST_STRIPES)).map(stripe).collect() }
    }
}

/// An event that is counted in addition to outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// A response was computed and stored.
    Stored,
    /// A response was computed and not stored, since it is uncacheable.
    NotStored,
    /// A response was computed and not stored, since a change had already made it stale.
    Overtaken,
    /// The shared store failed.
    StoreError,
    /// An entry was made invalid by a change to a tag that it does not depend on, because of a hash collision in the
    /// fence table.
    FalseAlarm,
    /// A lease was held by another node.
    LeaseHeld,
    /// A request had only invalid session tokens: truncated, or not issued by this service.
    BadToken,
    /// A fill got no permit in time and proceeded without one, or took long and lost its permit to another fill.
    NoPermit,
    /// A response was computed and not stored, since a read outside any scope may be part of it. Counts as
    /// [`NotStored`](Self::NotStored) too.
    UnscopedRead,
    /// A handler was called in the background, to renew a stored response or to audit it.
    BackgroundLoad,
}

impl Event {
    const ALL: [Self; 10] = [
        Self::Stored,
        Self::NotStored,
        Self::Overtaken,
        Self::StoreError,
        Self::FalseAlarm,
        Self::LeaseHeld,
        Self::BadToken,
        Self::NoPermit,
        Self::UnscopedRead,
        Self::BackgroundLoad,
    ];
}

impl Counters {
    /// The number of requests and lookups with this outcome.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.sum(|stripe| &stripe.outcomes[outcome.index()])
    }

    /// The number of times that this event happened.
    pub fn event(&self, event: Event) -> u64 {
        self.sum(|stripe| &stripe.events[event as usize])
    }

    /// The hit ratio, from 0 to 1: hits (also stale and collapsed ones) as a share of all requests that did not bypass the
    /// cache. 0 if there were none.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
    pub fn hit_ratio(&self) -> f64 {
        let (mut hits, mut lookups) = (0, 0);
        for outcome in Outcome::all().filter(|outcome| !matches!(outcome, Outcome::Bypass(_))) {
            let count = self.outcome(outcome);
            lookups += count;
            hits += if outcome.is_hit() { count } else { 0 };
        }
        if lookups == 0 { 0.0 } else { hits as f64 / lookups as f64 }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.stripe().outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, event: Event) {
        self.stripe().events[event as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// That of this thread. Once its thread-local value is gone, a thread counts in the first one.
    fn stripe(&self) -> &Stripe {
        let thread = THREAD.try_with(|thread| *thread).unwrap_or(0);
        &self.stripes[thread & (self.stripes.len() - 1)]
    }

    fn sum(&self, counter: impl Fn(&Stripe) -> &AtomicU64) -> u64 {
        self.stripes.iter().map(|stripe| counter(stripe).load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_outcome_has_its_own_counter_and_token() {
        let indexes: Vec<usize> = Outcome::all().map(Outcome::index).collect();
        assert_eq!(indexes, (0..OUTCOMES).collect::<Vec<_>>());
        let tokens: HashSet<&str> = Outcome::all().map(Outcome::token).collect();
        assert_eq!(tokens.len(), OUTCOMES);
    }

    #[test]
    fn counts_of_several_threads_add_up() {
        let counters = Counters::default();
        let hit = Outcome::Hit(Tier::Memory);
        std::thread::scope(|scope| {
            for _ in 0..5 {
                scope.spawn(|| (0..1000).for_each(|_| counters.count(hit)));
                scope.spawn(|| counters.note(Event::Stored));
            }
        });
        assert_eq!((counters.outcome(hit), counters.event(Event::Stored)), (5000, 5));
    }

    #[test]
    fn the_hit_ratio_does_not_count_bypasses() {
        let counters = Counters::default();
        counters.count(Outcome::Bypass(BypassReason::Method));
        assert!(counters.hit_ratio().abs() < f64::EPSILON);
        for _ in 0..3 {
            counters.count(Outcome::Hit(Tier::Memory));
        }
        counters.count(Outcome::Miss(MissReason::Absent));
        assert!((counters.hit_ratio() - 0.75).abs() < f64::EPSILON);
    }
}
