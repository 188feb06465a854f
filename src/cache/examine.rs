//! What would become of a request, without a trace of the question.

use super::cache::Cache;
use super::lookup::Ask;
use super::policy::Policy;
use super::refresh::{Use, assess};
use crate::entry::Key;
use crate::outcome::{BypassReason, MissReason, Outcome};
use crate::store::{Found, StoreError};

/// What would become of a request, and the entry that decides it.
#[derive(Clone, Debug)]
pub(crate) struct Examined {
    pub(crate) outcome: Outcome,
    pub(crate) found: Option<Found>,
}

impl Cache {
    /// What a request for a key would be answered with now, if nobody is at it already. Nothing is counted,
    /// made anew or waited for but the store.
    pub(crate) async fn examine(&self, key: &Key, policy: &Policy, ask: &Ask) -> Examined {
        let at_hand = self.shared.store.peek(key);
        let at_hand = at_hand.map(|found| self.verdict(found, policy, ask));
        let examined = match at_hand {
            Some(examined) if examined.outcome.is_hit() => examined,
            passed_over => match self.shared.store.get(key).await {
                Ok(Some(found)) => self.verdict(found, policy, ask),
                Ok(None) => passed_over.unwrap_or_else(|| Examined::missed(MissReason::Absent)),
                Err(error) => {
                    let reason = match error {
                        StoreError::Decode(_) => MissReason::Undecodable,
                        _ => MissReason::StoreFailed,
                    };
                    let found = passed_over.and_then(|examined| examined.found);
                    Examined { found, ..Examined::missed(reason) }
                }
            },
        };
        match self.why_not_asked(policy) {
            Some(reason) => Examined { outcome: Outcome::Bypass(reason), ..examined },
            None => examined,
        }
    }

    fn why_not_asked(&self, policy: &Policy) -> Option<BypassReason> {
        if self.is_off() {
            return Some(BypassReason::Off);
        }
        (!self.is_confirmed(policy)).then_some(BypassReason::Unconfirmed)
    }

    fn verdict(&self, found: Found, policy: &Policy, ask: &Ask) -> Examined {
        let outcome = match assess(&self.shared.fences, &found.entry, policy, &ask.limits) {
            Use::Serve | Use::Renew => Outcome::Hit(found.tier),
            Use::Stale(reason) => Outcome::Stale(reason),
            Use::Miss(reason) => Outcome::Miss(reason),
        };
        Examined { outcome, found: Some(found) }
    }
}

impl Examined {
    fn missed(reason: MissReason) -> Self {
        Self { outcome: Outcome::Miss(reason), found: None }
    }
}
