//! Decides whether a stored entry is served, recomputed, or both.

use std::time::Duration;

use super::fence::Fences;
use super::freshness::AgeLimits;
use super::policy::Policy;
use super::protocol::Verdict;
use crate::entry::Entry;
use crate::outcome::{MissReason, StaleReason};

/// What to do with a stored entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EntryUse {
    /// Serve it.
    Serve,
    /// Serve it, and recompute it before it expires.
    Renew,
    /// Serve it although it is stale, and recompute it.
    Stale(StaleReason),
    /// Recompute it.
    Miss(MissReason),
}

/// Decides by the current fences.
pub(crate) fn assess(
    fences: &Fences,
    entry: &Entry,
    policy: &Policy,
    limits: &AgeLimits,
) -> EntryUse {
    match decide(fences.judge(entry), entry, policy, limits) {
        // An entry that a change had invalidated before the failover is not served after it.
        EntryUse::Stale(StaleReason::Failover) if !fences.was_valid(entry) => {
            EntryUse::Miss(MissReason::OldEpoch)
        }
        decided => decided,
    }
}

/// Decides by the verdict of the fences first, and then by time.
pub(crate) fn decide(
    verdict: Verdict,
    entry: &Entry,
    policy: &Policy,
    limits: &AgeLimits,
) -> EntryUse {
    let age = entry.age();
    let ttl = entry.ttl().min(policy.longest());
    let window = entry.life.while_revalidating.min(policy.longest_while_revalidating());
    // RFC 9111, section 5.2.1.1: a request with `max-age` accepts no stale response, unless it also has
    // `max-stale`.
    let window = limits.max_age.map_or(window, |_| window.min(limits.max_stale));
    match verdict {
        Verdict::Valid if entry.is_vary_marker() => EntryUse::Serve,
        Verdict::Fenced => EntryUse::Miss(MissReason::Changed),
        Verdict::OldEpoch
            if policy.stale_after_failover && age < ttl && !limits.refuse(age, ttl) =>
        {
            EntryUse::Stale(StaleReason::Failover)
        }
        Verdict::OldEpoch => EntryUse::Miss(MissReason::OldEpoch),
        Verdict::Valid if limits.refuse(age, ttl) => EntryUse::Miss(match age < ttl {
            true => MissReason::Requested,
            false => MissReason::Expired,
        }),
        Verdict::Valid if age < ttl && is_due(age, ttl, entry, policy) => EntryUse::Renew,
        Verdict::Valid if age < ttl => EntryUse::Serve,
        Verdict::Valid if age < ttl.saturating_add(window) => {
            EntryUse::Stale(StaleReason::Revalidating)
        }
        Verdict::Valid if !entry.life.is_strict && age < ttl.saturating_add(limits.max_stale) => {
            EntryUse::Stale(StaleReason::Requested)
        }
        Verdict::Valid => EntryUse::Miss(MissReason::Expired),
    }
}

/// The largest negative logarithm of the random numbers from which [`is_due`] draws: the smallest is 2 to the power of -53.
const LONGEST_AHEAD: f64 = 37.0;

/// XFetch: an entry is recomputed before it expires, with a probability that rises towards the end, and earlier if
/// computing it takes longer.
fn is_due(age: Duration, ttl: Duration, entry: &Entry, policy: &Policy) -> bool {
    if policy.early_refresh == 0.0 || entry.life.cost.is_zero() {
        return false;
    }
    let (cost, left) =
        (entry.life.cost.as_secs_f64() * policy.early_refresh, ttl.saturating_sub(age));
    // Most entries are far from their end, and need no random number.
    left.as_secs_f64() <= cost * LONGEST_AHEAD
        && left.as_secs_f64() <= cost * -(1.0 - fastrand::f64()).ln()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::advance;

    use super::*;
    use crate::cache::Freshness;
    use crate::entry::Lifetime;
    use crate::{Epoch, Key, LogPosition, Position};

    const TTL: Duration = Duration::from_secs(100);

    fn entry(cost: Duration) -> Entry {
        let life =
            Lifetime { while_revalidating: TTL, ..Lifetime::starting_now(TTL, TTL * 2, cost) };
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        Entry::new(&Key::new("t").finish(), basis, [].into(), life, Bytes::new(), Bytes::new())
    }

    fn decide(verdict: Verdict, entry: &Entry, policy: &Policy) -> EntryUse {
        super::decide(verdict, entry, policy, &AgeLimits::default())
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_fresh_then_stale_then_gone() {
        let policy = Policy::ttl(TTL).stale_while_revalidate(Duration::from_secs(10));
        let entry = entry(Duration::ZERO);
        assert_eq!(decide(Verdict::Valid, &entry, &policy), EntryUse::Serve);
        advance(TTL).await;
        let stale = EntryUse::Stale(StaleReason::Revalidating);
        assert_eq!(decide(Verdict::Valid, &entry, &policy), stale);
        advance(Duration::from_secs(10)).await;
        assert_eq!(decide(Verdict::Valid, &entry, &policy), EntryUse::Miss(MissReason::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_entry_is_never_served_stale_and_one_of_an_old_epoch_may_be() {
        let policy = Policy::ttl(TTL).stale_while_revalidate(TTL).stale_after_failover();
        let entry = entry(Duration::ZERO);
        assert_eq!(decide(Verdict::Fenced, &entry, &policy), EntryUse::Miss(MissReason::Changed));
        assert_eq!(
            decide(Verdict::OldEpoch, &entry, &policy),
            EntryUse::Stale(StaleReason::Failover)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_shortened_later_applies_to_entries_already_stored() {
        let entry = entry(Duration::ZERO);
        advance(Duration::from_mins(1)).await;
        let shorter = Policy::ttl(Duration::from_mins(1));
        assert_eq!(decide(Verdict::Valid, &entry, &shorter), EntryUse::Miss(MissReason::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn costly_entries_are_renewed_before_they_expire() {
        let renewed = async |age: u64, beta: f64| {
            let policy = Policy::ttl(TTL).early_refresh(beta);
            let entry = entry(Duration::from_secs(1));
            advance(Duration::from_secs(age)).await;
            (0..1000).filter(|_| decide(Verdict::Valid, &entry, &policy) == EntryUse::Renew).count()
        };
        assert_eq!(renewed(50, 1.0).await, 0);
        assert_eq!(renewed(99, 0.0).await, 0);
        // exp(-1) of the draws are at or past one second: 368 in a thousand, give or take.
        assert!((250..500).contains(&renewed(99, 1.0).await));
    }

    #[test]
    fn jitter_only_shortens_the_ttl_and_by_no_more_than_its_share() {
        let policy = Policy::ttl(TTL).jitter(0.5);
        for _ in 0..1000 {
            let ttl =
                Freshness::from_policy(&policy, false).life(policy.jitter, Duration::ZERO).ttl;
            assert!((TTL / 2..=TTL).contains(&ttl), "{ttl:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_can_demand_a_younger_entry_or_accept_a_stale_one() {
        let policy = Policy::ttl(TTL);
        let mut entry = entry(Duration::ZERO);
        let by = |entry: &Entry, limits| super::decide(Verdict::Valid, entry, &policy, &limits);
        let requested = EntryUse::Miss(MissReason::Requested);
        let none = AgeLimits::default();
        advance(TTL / 2).await;
        assert_eq!(by(&entry, AgeLimits { max_age: Some(TTL / 2), ..none }), EntryUse::Serve);
        assert_eq!(by(&entry, AgeLimits { max_age: Some(TTL / 4), ..none }), requested);
        assert_eq!(by(&entry, AgeLimits { min_fresh: TTL / 2, ..none }), EntryUse::Serve);
        assert_eq!(by(&entry, AgeLimits { min_fresh: TTL, ..none }), requested);
        assert_eq!(by(&entry, AgeLimits { is_anew: true, ..none }), requested);
        advance(TTL).await;
        let lenient = AgeLimits { max_stale: TTL, ..none };
        assert_eq!(by(&entry, none), EntryUse::Miss(MissReason::Expired));
        assert_eq!(by(&entry, lenient), EntryUse::Stale(StaleReason::Requested));
        entry.life.is_strict = true;
        assert_eq!(by(&entry, lenient), EntryUse::Miss(MissReason::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_with_max_age_gets_nothing_stale_unless_it_sets_max_stale() {
        let policy = Policy::ttl(TTL).stale_while_revalidate(TTL);
        let entry = entry(Duration::ZERO);
        advance(TTL + Duration::from_secs(1)).await;
        let by = |limits| super::decide(Verdict::Valid, &entry, &policy, &limits);
        let none = AgeLimits::default();
        assert_eq!(by(none), EntryUse::Stale(StaleReason::Revalidating));
        let aged = AgeLimits { max_age: Some(TTL * 2), ..none };
        assert_eq!(by(aged), EntryUse::Miss(MissReason::Expired));
        assert_eq!(
            by(AgeLimits { max_stale: TTL, ..aged }),
            EntryUse::Stale(StaleReason::Revalidating)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_no_cache_request_gets_no_entry_from_before_a_failover() {
        let policy = Policy::ttl(TTL).stale_after_failover();
        let entry = entry(Duration::ZERO);
        let by = |limits| super::decide(Verdict::OldEpoch, &entry, &policy, &limits);
        assert_eq!(by(AgeLimits::default()), EntryUse::Stale(StaleReason::Failover));
        let anew = AgeLimits { is_anew: true, ..AgeLimits::default() };
        assert_eq!(by(anew), EntryUse::Miss(MissReason::OldEpoch));
    }

    #[test]
    fn the_longest_durations_can_be_jittered_and_encoded() {
        let freshness =
            Freshness { ttl: Duration::MAX, if_error: Duration::MAX, ..Freshness::default() };
        let life = freshness.life(0.5, Duration::ZERO);
        assert!(life.ttl > TTL);
        assert!(i64::try_from(life.keep.as_millis()).is_ok(), "{life:?}");
    }
}
