//! A miss: the request waits for another one's result, or leads the flight and looks for the entry elsewhere.

use std::sync::Arc;

use super::search::LookupTask;
use super::{Hit, LookupResult};
use crate::broken::is_broken;
use crate::cache::flight::{FlightLeader, FlightResult, FlightRole};
use crate::cache::permit::PendingPermit;
use crate::cache::protocol::{Verdict, has_all_since};
use crate::cache::record::Record;
use crate::cache::refresh::{EntryUse, decide};
use crate::cache::waits::WaitGuard;
use crate::clock;
use crate::entry::Entry;
use crate::observe;
use crate::outcome::{BypassReason, MissReason, Outcome};
use crate::store::{Found, Tier};

impl LookupTask<'_> {
    /// Joins those who are looking for the answer or making it, or begins to. So the shared store is asked
    /// once, however many want the same at a time.
    pub(super) async fn make(&mut self) -> LookupResult {
        if Record::is_computing(&self.cache.shared.fences, self.key.hash()) {
            return self.recursive();
        }
        let alone = self.is_unlikely_shared();
        if !alone && let Some(leader) = self.cache.shared.flights.try_lead(*self.key.hash()) {
            return self.lead(Some(leader)).await;
        }
        let mut attempts = if alone { 0 } else { 2 };
        while attempts > 0 {
            attempts -= 1;
            // Apart, so that who leads needs no room for it.
            match Box::pin(self.join()).await {
                None => return self.recursive(),
                Some(FlightRole::Leader(leader)) => return self.lead(Some(leader)).await,
                Some(FlightRole::Follower(FlightResult::Entry(entry))) => {
                    if let Some(hit) = self.collapsed(entry) {
                        return LookupResult::Hit(hit);
                    }
                }
                Some(FlightRole::Follower(FlightResult::Instead(entry))) => {
                    if let Some(hit) = self.instead(entry) {
                        return LookupResult::Hit(hit);
                    }
                }
                Some(FlightRole::Follower(FlightResult::Nothing)) => break,
            }
        }
        self.lead(None).await
    }

    /// Whether waiting for another request would be in vain: responses here could not be stored of late, or none of the
    /// policy's was and nothing is known of this one.
    fn is_unlikely_shared(&self) -> bool {
        self.cache.shared.alone.has(self.key)
            || self.passed_over.is_none() && self.policy.streak.is_long()
    }

    /// To wait would be to wait for oneself.
    fn recursive(&self) -> LookupResult {
        tracing::warn!(key = %self.key, "a value is computed by what asks for it, or waits for it: it is computed twice");
        LookupResult::Bypass(self.bypass(BypassReason::Recursive, None))
    }

    /// Waits for what others look for or make; or leads them, beside the present leader if that is slower than the
    /// policy allows. `None` if they wait for what the present scope computes.
    async fn join(&self) -> Option<FlightRole> {
        let began = clock::now();
        let _waiting = WaitGuard::new(Record::computing(), self.cache.place(self.key))?;
        let lent = Record::permit();
        let (flights, key) = (&self.cache.shared.flights, *self.key.hash());
        let joined = flights.join(key, self.policy.wait, lent.as_ref()).await;
        if !matches!(joined, FlightRole::Leader(_)) {
            observe::flight_wait(began.elapsed());
        }
        Some(joined)
    }

    /// What another request was making, judged by what is known now and asked here. If what it depends on has changed
    /// meanwhile, it will do as well for a request that came before: else, where changes come faster than one can compute,
    /// each of those who wait would compute it for itself.
    fn collapsed(&mut self, entry: Arc<Entry>) -> Option<Hit> {
        let tier = Tier::Memory;
        if !entry.answers(self.key) {
            return None;
        }
        if is_broken("delivery") {
            let found = Found { entry, tier };
            return Some(Hit { found, outcome: Outcome::Collapsed, renew: None });
        }
        let found = Found { entry, tier };
        let decided = match self.decide(&found) {
            EntryUse::Miss(MissReason::Changed) if self.was_computed_since(&found.entry) => {
                EntryUse::Serve
            }
            decided => decided,
        };
        self.follow_up(decided, found, Outcome::Collapsed)
    }

    /// Whether a response has all that was known when this request came, and is in use otherwise.
    fn was_computed_since(&self, entry: &Entry) -> bool {
        let computed = (entry.epoch(), entry.as_of());
        self.since.is_some_and(|since| has_all_since(computed, since))
            && self.holds(entry)
            && decide(Verdict::Valid, entry, self.policy, &self.ask.limits) == EntryUse::Serve
    }

    /// What another request served when its fill failed, if this one may be answered so too.
    fn instead(&mut self, entry: Arc<Entry>) -> Option<Hit> {
        if entry.answers(self.key) {
            self.pass_over(Found { entry, tier: Tier::Memory }, self.reason);
        }
        self.fallback()
    }

    /// Looks in the shared store for all who wait, and becomes the one who makes the answer if it is not there.
    async fn lead(&mut self, mut leader: Option<FlightLeader>) -> LookupResult {
        if leader.is_some()
            && let Some(hit) = self.peek()
        {
            return LookupResult::Hit(hit);
        }
        let found = self.cache.shared.store.get(self.key).await;
        if let Some(found) = self.read(found) {
            let (decided, outcome) = (self.decide(&found), Outcome::Hit(found.tier));
            if !matches!(decided, EntryUse::Miss(_))
                && let Some(leader) = leader.take()
            {
                // First of all: if it is due to be recomputed, that is another flight.
                leader.land(FlightResult::Entry(found.entry.clone()));
            }
            if let Some(hit) = self.follow_up(decided, found, outcome) {
                return LookupResult::Hit(hit);
            }
        }
        // Other nodes may have left it to the one that is overtaken here.
        let is_first = leader.as_ref().is_some_and(|leader| !leader.overtakes());
        let lease = match self.claim(is_first).await {
            Ok(lease) => lease,
            Err(hit) => {
                if let Some(leader) = leader {
                    leader.land(FlightResult::Entry(hit.found.entry.clone()));
                }
                return LookupResult::Hit(hit);
            }
        };
        let PendingPermit { permit, has_waited } = self.cache.permit(self.policy, &leader).await;
        let mut lead = self.fill_guard(leader, Some(permit));
        lead.lease = lease;
        if has_waited && let Some(hit) = self.look().await {
            lead.finish_with(&hit);
            return LookupResult::Hit(hit);
        }
        LookupResult::Miss(Box::new(lead))
    }
}
