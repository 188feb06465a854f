//! When an entry is used, and when it is made anew.

use std::time::Duration;

use super::policy::Policy;
use super::protocol::Verdict;
use crate::entry::{Entry, Life};
use crate::outcome::{MissReason, StaleReason};

/// What may be done with an entry that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Serve it.
    Serve,
    /// Serve it, and make it anew before it expires.
    Renew,
    /// It is stale; serve it and make it anew.
    Stale(StaleReason),
    /// Make it anew.
    Miss(MissReason),
}

/// Decides by the verdict of the fences first, and by time only then.
pub(crate) fn decide(verdict: Verdict, entry: &Entry, policy: &Policy) -> Use {
    let age = entry.age();
    let ttl = entry.ttl().min(policy.ttl.max(policy.negative_ttl.unwrap_or_default()));
    match verdict {
        Verdict::Fenced => Use::Miss(MissReason::Changed),
        Verdict::OldEpoch if policy.stale_after_failover && age < ttl => {
            Use::Stale(StaleReason::Failover)
        }
        Verdict::OldEpoch => Use::Miss(MissReason::OldEpoch),
        Verdict::Valid if age < ttl && is_due(age, ttl, entry, policy) => Use::Renew,
        Verdict::Valid if age < ttl => Use::Serve,
        Verdict::Valid if age < ttl.saturating_add(policy.stale_while_revalidate) => {
            Use::Stale(StaleReason::Revalidating)
        }
        Verdict::Valid => Use::Miss(MissReason::Expired),
    }
}

/// XFetch: an entry is made anew before it expires with a probability that rises towards the end,
/// the earlier the longer it takes to make.
fn is_due(age: Duration, ttl: Duration, entry: &Entry, policy: &Policy) -> bool {
    if policy.early_refresh == 0.0 || entry.life.cost.is_zero() {
        return false;
    }
    let ahead =
        entry.life.cost.as_secs_f64() * policy.early_refresh * -(1.0 - fastrand::f64()).ln();
    age.as_secs_f64() + ahead >= ttl.as_secs_f64()
}

/// The life of a new entry under a policy.
pub(crate) fn life(policy: &Policy, negative: bool, cost: Duration) -> Life {
    let ttl = if negative { policy.negative_ttl.unwrap_or_default() } else { policy.ttl };
    let ttl = ttl.mul_f64(1.0 - policy.jitter * fastrand::f64());
    Life::starting_now(ttl, ttl.saturating_add(policy.grace()), cost)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::time::advance;

    use super::*;
    use crate::{Epoch, Key, Position};

    const TTL: Duration = Duration::from_secs(100);

    fn entry(cost: Duration) -> Entry {
        let life = Life::starting_now(TTL, TTL * 2, cost);
        let basis = (Epoch::new(1), Position::ZERO);
        Entry::new(&Key::new("t").finish(), basis, [].into(), life, (Bytes::new(), Bytes::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_is_fresh_then_stale_then_gone() {
        let policy = Policy::ttl(TTL).stale_while_revalidate(Duration::from_secs(10));
        let entry = entry(Duration::ZERO);
        assert_eq!(decide(Verdict::Valid, &entry, &policy), Use::Serve);
        advance(TTL).await;
        let stale = Use::Stale(StaleReason::Revalidating);
        assert_eq!(decide(Verdict::Valid, &entry, &policy), stale);
        advance(Duration::from_secs(10)).await;
        assert_eq!(decide(Verdict::Valid, &entry, &policy), Use::Miss(MissReason::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_change_made_invalid_is_not_served_while_it_is_made_anew() {
        let policy = Policy::ttl(TTL).stale_while_revalidate(TTL).stale_after_failover();
        let entry = entry(Duration::ZERO);
        assert_eq!(decide(Verdict::Fenced, &entry, &policy), Use::Miss(MissReason::Changed));
        assert_eq!(decide(Verdict::OldEpoch, &entry, &policy), Use::Stale(StaleReason::Failover));
    }

    #[tokio::test(start_paused = true)]
    async fn a_shorter_ttl_of_today_counts_for_entries_of_yesterday() {
        let entry = entry(Duration::ZERO);
        advance(Duration::from_mins(1)).await;
        let shorter = Policy::ttl(Duration::from_mins(1));
        assert_eq!(decide(Verdict::Valid, &entry, &shorter), Use::Miss(MissReason::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn costly_entries_are_renewed_before_they_expire() {
        let renewed = async |age: u64, beta: f64| {
            let policy = Policy::ttl(TTL).early_refresh(beta);
            let entry = entry(Duration::from_secs(1));
            advance(Duration::from_secs(age)).await;
            (0..1000).filter(|_| decide(Verdict::Valid, &entry, &policy) == Use::Renew).count()
        };
        assert_eq!(renewed(50, 1.0).await, 0);
        assert_eq!(renewed(99, 0.0).await, 0);
        // exp(-1) of the draws are at or past one second: 368 in a thousand, give or take.
        assert!((250..500).contains(&renewed(99, 1.0).await));
    }

    #[test]
    fn jitter_only_shortens_and_keeps_to_its_share() {
        let policy = Policy::ttl(TTL).jitter(0.5);
        for _ in 0..1000 {
            let ttl = life(&policy, false, Duration::ZERO).ttl;
            assert!((TTL / 2..=TTL).contains(&ttl), "{ttl:?}");
        }
    }
}
