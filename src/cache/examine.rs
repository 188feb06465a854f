//! Previews the outcome of a lookup without side effects.

use super::cache::Cache;
use super::options::LookupOptions;
use super::policy::Policy;
use super::refresh::{EntryUse, assess};
use crate::entry::Key;
use crate::outcome::{BypassReason, MissReason, Outcome};
use crate::store::Found;

/// The outcome that a lookup would have, and the entry that decides it.
#[derive(Clone, Debug)]
pub(crate) struct LookupPreview {
    pub(crate) outcome: Outcome,
    pub(crate) found: Option<Found>,
}

impl Cache {
    /// The outcome of a lookup for `key` at this moment, if no other request is computing it. This counts and recomputes
    /// nothing, and waits only for the store.
    pub(crate) async fn examine(
        &self,
        key: &Key,
        policy: &Policy,
        options: &LookupOptions,
    ) -> LookupPreview {
        let in_memory = self.shared.store.peek(key);
        let in_memory = in_memory.map(|found| self.verdict(found, policy, options));
        let examined = match in_memory {
            Some(examined) if examined.outcome.is_hit() => examined,
            passed_over => match self.shared.store.get(key).await {
                Ok(Some(found)) => self.verdict(found, policy, options),
                Ok(None) => {
                    passed_over.unwrap_or_else(|| LookupPreview::missed(MissReason::Absent))
                }
                Err(error) => {
                    let reason = MissReason::from_store_error(&error);
                    let found = passed_over.and_then(|examined| examined.found);
                    LookupPreview { found, ..LookupPreview::missed(reason) }
                }
            },
        };
        match self.why_not_asked(policy) {
            Some(reason) => LookupPreview { outcome: Outcome::Bypass(reason), ..examined },
            None => examined,
        }
    }

    fn why_not_asked(&self, policy: &Policy) -> Option<BypassReason> {
        if self.is_off() {
            return Some(BypassReason::Off);
        }
        (!self.is_confirmed(policy)).then_some(BypassReason::Unconfirmed)
    }

    fn verdict(&self, found: Found, policy: &Policy, options: &LookupOptions) -> LookupPreview {
        let outcome = match assess(&self.shared.fences, &found.entry, policy, &options.limits) {
            EntryUse::Serve | EntryUse::Renew => Outcome::Hit(found.tier),
            EntryUse::Stale(reason) => Outcome::Stale(reason),
            EntryUse::Miss(reason) => Outcome::Miss(reason),
        };
        LookupPreview { outcome, found: Some(found) }
    }
}

impl LookupPreview {
    fn missed(reason: MissReason) -> Self {
        Self { outcome: Outcome::Miss(reason), found: None }
    }
}
