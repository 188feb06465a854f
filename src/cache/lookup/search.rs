//! Finds stored entries, and judges them by the lookup's options.

use super::task::LookupTask;
use crate::cache::hit::Hit;
use crate::cache::options::Peeked;
use crate::cache::refresh::EntryUse;
use crate::entry::Key;
use crate::outcome::Outcome;
use crate::store::{Found, StoreError};

/// An entry that the lookup may use, and for what.
pub(super) struct UsableEntry {
    pub(super) decided: EntryUse,
    pub(super) found: Found,
}

impl LookupTask<'_> {
    /// Looks in memory, then in the shared store.
    pub(super) async fn find(&mut self) -> Option<Hit> {
        if let Some(hit) = self.peek() {
            return Some(hit);
        }
        let found = self.cache.shared.store.get(self.key).await;
        self.take(found)
    }

    /// The same for many keys, in the order of the tasks.
    pub(super) async fn find_many(tasks: &mut [Self]) -> Vec<Option<Hit>> {
        let Some(first) = tasks.first() else { return Vec::new() };
        let cache = first.cache;
        let mut hits: Vec<_> = tasks.iter_mut().map(Self::peek).collect();
        let absent = || hits.iter().zip(tasks.iter()).filter(|(hit, _)| hit.is_none());
        let keys: Vec<&Key> = absent().map(|(_, task)| task.key).collect();
        if keys.is_empty() {
            return hits;
        }
        let found = cache.shared.store.get_many(&keys).await;
        let absent = hits.iter_mut().zip(tasks).filter(|(hit, _)| hit.is_none());
        let mut failed = None;
        for ((hit, task), found) in absent.zip(found) {
            match found {
                Ok(found) => *hit = found.and_then(|found| task.accept_hit(found)),
                Err(error) => {
                    task.note_failure(&error);
                    failed.get_or_insert(error);
                }
            }
        }
        // A batch counts once, however many of its keys have failed.
        if let Some(error) = failed {
            cache.noted(Err(error));
        }
        hits
    }

    /// Finds the entry that may replace an error if freshness can't be proven.
    pub(super) async fn find_fallback(&mut self) {
        if !self.policy.longest_if_error().is_zero()
            && let Some(unproven) = self.find().await
        {
            self.passed_over = Some(unproven.found);
        }
    }

    /// The same for many keys of one policy.
    pub(super) async fn find_fallbacks(tasks: &mut [Self]) {
        if tasks.first().is_none_or(|task| task.policy.longest_if_error().is_zero()) {
            return;
        }
        let hits = Self::find_many(tasks).await;
        for (task, unproven) in tasks.iter_mut().zip(hits) {
            if let Some(unproven) = unproven {
                task.passed_over = Some(unproven.found);
            }
        }
    }

    /// Looks in memory. The first look is the one that the caller has already taken, if it has.
    pub(super) fn peek(&mut self) -> Option<Hit> {
        let peeked = match std::mem::replace(&mut self.has_peeked, true) {
            true => &Peeked::Unknown,
            false => &self.options.peeked,
        };
        let found = match peeked {
            Peeked::Unknown => self.cache.shared.store.peek(self.key)?,
            Peeked::Absent => return None,
            Peeked::Found(found) => found.clone(),
        };
        self.accept_hit(found)
    }

    pub(super) fn take(&mut self, found: Result<Option<Found>, StoreError>) -> Option<Hit> {
        let found = self.read(found)?;
        self.accept_hit(found)
    }

    fn accept_hit(&mut self, found: Found) -> Option<Hit> {
        let outcome = Outcome::Hit(found.tier);
        self.judge(found, outcome)
    }

    /// What an entry may be used for; `None` if it is passed over.
    pub(super) fn accept(&mut self, found: Found) -> Option<UsableEntry> {
        match self.decide(&found) {
            EntryUse::Miss(reason) => {
                self.pass_over(found, reason);
                None
            }
            decided => Some(UsableEntry { decided, found }),
        }
    }

    fn judge(&mut self, found: Found, outcome: Outcome) -> Option<Hit> {
        let decided = self.decide(&found);
        self.follow_up(decided, found, outcome)
    }

    /// Carries out the decision on an entry. One that can't be served is remembered as a fallback.
    pub(super) fn follow_up(
        &mut self,
        decided: EntryUse,
        found: Found,
        outcome: Outcome,
    ) -> Option<Hit> {
        match decided {
            EntryUse::Serve => Some(Hit::new(found, outcome)),
            EntryUse::Renew => {
                Some(Hit { renew: self.renewal(&found), ..Hit::new(found, outcome) })
            }
            EntryUse::Stale(reason) => {
                let renew = self.renewal(&found);
                Some(Hit { renew, ..Hit::new(found, Outcome::Stale(reason)) })
            }
            EntryUse::Miss(reason) => {
                self.pass_over(found, reason);
                None
            }
        }
    }
}
