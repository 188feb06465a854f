//! What became of a request: one value that feeds `Cache-Status`, counters and traces.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Tier;

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Outcome {
    /// Answered from the cache, proven fresh.
    Hit(Tier),
    /// Answered with what another request was making at the time, or was looking for in the shared store.
    Collapsed,
    /// Answered from the cache though stale, as the policy allows.
    Stale(StaleReason),
    /// Made anew.
    Miss(MissReason),
    /// The cache had no part in it.
    Bypass(BypassReason),
}

/// Why a stale answer was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StaleReason {
    /// Its TTL has passed and a new one is being made (RFC 5861, section 3).
    Revalidating,
    /// No new one could be made (RFC 5861, section 4).
    Error,
    /// It is of before a failover, or a crash of the primary, and a new one is being made.
    Failover,
    /// The client takes a stale one (RFC 9111, section 5.2.1.2).
    Requested,
}

/// Why the cache had no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MissReason {
    /// There is none for the key.
    Absent,
    /// Its TTL has passed.
    Expired,
    /// Something that it depends on has changed.
    Changed,
    /// It is of another epoch.
    OldEpoch,
    /// The shared store failed or took too long.
    StoreFailed,
    /// What is stored is not an entry of this version.
    Undecodable,
    /// The client asked for a younger one (RFC 9111, section 5.2.1).
    Requested,
    /// The stored value is of another type than the requested one, or of another version of it.
    OtherShape,
}

/// Why the cache was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BypassReason {
    /// The cache is switched off.
    Off,
    /// Neither GET nor HEAD, nor QUERY where the policy says [`query_content`](crate::Policy::query_content).
    Method,
    /// No policy for the route.
    NoPolicy,
    /// A tag's parameter is not in the route.
    NoParameter,
    /// The request is somebody's, and the policy does not say by what answers differ.
    Personal,
    /// The request has an extension that the key does not hold; see [`CacheLayer::extension`](crate::CacheLayer::extension).
    Extensions,
    /// The request has a body that is no part of its key.
    Body,
    /// A header asks for another method than the request has.
    MethodOverride,
    /// The request asks that its answer not be stored.
    NoStore,
    /// The node has not heard from the primary for longer than the policy allows.
    Unconfirmed,
    /// The node could not follow the log to where the session has written.
    Session,
    /// What is stored is an entry, and no HTTP answer.
    Unreadable,
    /// The request is for a part of an answer that is not stored whole.
    Range,
    /// The request is to be carried out only if nothing has changed, which the origin must judge.
    Precondition,
    /// The request asks to switch to another protocol, such as WebSocket.
    Upgrade,
    /// The client wants no answer but a stored one, and there is none.
    OnlyIfCached,
    /// The policy is only tried: there is an answer, and the handler gives its own.
    Shadow,
    /// What computes it asked for it, or waits for what asked for it: both would wait for ever.
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

    /// Whether the answer came from the cache, without the handler.
    pub const fn is_hit(self) -> bool {
        matches!(self, Self::Hit(_) | Self::Collapsed | Self::Stale(_))
    }

    /// A short word for the reason or the place, unique among outcomes.
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

/// How often each thing happened since the cache was made.
#[derive(Debug)]
pub struct Counters {
    outcomes: [AtomicU64; 33],
    events: [AtomicU64; Event::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        let outcomes = [const { AtomicU64::new(0) }; _];
        Self { outcomes, events: Default::default() }
    }
}

/// What else is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Event {
    /// An answer was stored.
    Stored,
    /// An answer was made and not stored.
    NotStored,
    /// An answer was out of date before it could be stored, since a change came in between.
    Overtaken,
    /// The shared store failed.
    StoreError,
    /// An entry was made invalid by a change to another tag that shares its slots.
    FalseAlarm,
    /// A lease was held by another node.
    LeaseHeld,
    /// A session token that was not ours, or not whole.
    BadToken,
    /// A fill waited for its turn in vain, and went on.
    NoPermit,
    /// A handler was called in the background, to renew a stored response or to audit it.
    BackgroundLoad,
}

impl Event {
    const ALL: [Self; 9] = [
        Self::Stored,
        Self::NotStored,
        Self::Overtaken,
        Self::StoreError,
        Self::FalseAlarm,
        Self::LeaseHeld,
        Self::BadToken,
        Self::NoPermit,
        Self::BackgroundLoad,
    ];
}

impl Counters {
    /// How often this became of a request.
    pub fn outcome(&self, outcome: Outcome) -> u64 {
        self.outcomes[outcome.index()].load(Ordering::Relaxed)
    }

    /// How often this happened.
    pub fn event(&self, event: Event) -> u64 {
        self.events[event as usize].load(Ordering::Relaxed)
    }

    /// The share of requests that were answered from the cache, of those that asked it; 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "a ratio needs no more")]
    pub fn hit_ratio(&self) -> f64 {
        let (mut hits, mut asked) = (0, 0);
        for outcome in Outcome::all().filter(|outcome| !matches!(outcome, Outcome::Bypass(_))) {
            let count = self.outcome(outcome);
            asked += count;
            hits += if outcome.is_hit() { count } else { 0 };
        }
        if asked == 0 { 0.0 } else { hits as f64 / asked as f64 }
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.outcomes[outcome.index()].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn note(&self, event: Event) {
        self.events[event as usize].fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn each_outcome_has_a_counter_and_a_token_of_its_own() {
        let counters = Counters::default();
        let indexes: Vec<usize> = Outcome::all().map(Outcome::index).collect();
        assert_eq!(indexes, (0..counters.outcomes.len()).collect::<Vec<_>>());
        let tokens: HashSet<&str> = Outcome::all().map(Outcome::token).collect();
        assert_eq!(tokens.len(), counters.outcomes.len());
    }

    #[test]
    fn the_hit_ratio_is_of_those_who_asked() {
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
