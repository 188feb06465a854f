//! A miss: the request waits for another one's result, or leads the flight and looks for the entry elsewhere.

use std::sync::Arc;

use super::result::LookupResult;
use super::search::UsableEntry;
use super::task::LookupTask;
use crate::broken::is_broken;
use crate::cache::admission::PendingPermit;
use crate::cache::flight::{FlightLeader, FlightResult, FlightRole};
use crate::cache::hit::Hit;
use crate::cache::protocol::{Verdict, has_all_since};
use crate::cache::record::Record;
use crate::cache::refresh::{EntryUse, decide};
use crate::cache::uncacheable::Uncacheable;
use crate::cache::waits::{WaitGuard, wait_key};
use crate::clock;
use crate::entry::Entry;
use crate::observe;
use crate::outcome::{BypassReason, MissReason, Outcome};
use crate::store::{Found, Tier};

impl LookupTask<'_> {
    /// Leads the key's flight, and takes no permit; `None` if another request leads it.
    pub(super) fn try_lead(mut self) -> Option<LookupResult> {
        if self.is_unlikely_shared() {
            return Some(LookupResult::Miss(self.fill_guard(None, None)));
        }
        let leader = self.cache.shared.flights.try_lead(*self.key.hash())?;
        // Another request may have stored it in the meantime.
        if let Some(hit) = self.peek() {
            return Some(LookupResult::Hit(hit));
        }
        Some(LookupResult::Miss(self.fill_guard(Some(leader), None)))
    }

    /// Joins the key's flight, or starts one. So the shared store is queried once, however many requests need the same
    /// entry at the same time.
    pub(super) async fn lead_or_join(&mut self) -> LookupResult {
        if Record::is_computing(&self.cache.shared.fences, self.key.hash()) {
            return self.recursive();
        }
        if self.is_unlikely_shared() {
            return self.lead(None).await;
        }
        if let Some(leader) = self.cache.shared.flights.try_lead(*self.key.hash()) {
            return self.lead(Some(leader)).await;
        }
        // Boxed, so that a leader's future does not include its size.
        Box::pin(self.join_or_lead()).await
    }

    /// Waits for the flight's result, and leads if that is of no use.
    async fn join_or_lead(&mut self) -> LookupResult {
        let arrived = clock::now();
        for _ in 0..2 {
            match self.join().await {
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
                Some(FlightRole::Follower(FlightResult::Failure(entry, began))) => {
                    if let Some(hit) = self.failed(entry, began >= arrived) {
                        return LookupResult::Hit(hit);
                    }
                }
                Some(FlightRole::Follower(FlightResult::Personal))
                    if !self.options.is_identified => {}
                Some(FlightRole::Follower(FlightResult::Personal | FlightResult::Nothing)) => break,
            }
        }
        self.lead(None).await
    }

    /// Whether waiting for another request is unlikely to help: the last response for this key could not be stored, or none
    /// of the policy's recent ones could and no entry for this key was found.
    pub(super) fn is_unlikely_shared(&self) -> bool {
        self.cache.shared.hit_for_pass.has(self.key, self.options.is_identified)
            || self.passed_over.is_none()
                && (self.policy.streak.is_long()
                    || self.options.is_identified && self.policy.identified_streak.is_long())
    }

    /// Waiting would deadlock, since this lookup is part of the computation of its own key.
    fn recursive(&self) -> LookupResult {
        tracing::warn!(
            key = %self.key,
            "the computation of this key looks up the same key, directly or through others: it is computed a second time"
        );
        LookupResult::Bypass(self.bypass(BypassReason::Recursive, None))
    }

    /// Waits for the flight's result, or becomes its leader: after the current one, or in parallel if that is slower than
    /// the policy allows. `None` if the flight waits, directly or in a cycle, for a key that the current scope computes.
    async fn join(&self) -> Option<FlightRole> {
        let began = clock::now();
        let _waiting = WaitGuard::new(
            Record::computing(),
            wait_key(&self.cache.shared.fences, self.key.hash()),
        )?;
        let lent = Record::permit();
        let (flights, key) = (&self.cache.shared.flights, *self.key.hash());
        let joined = flights.join(key, self.policy.wait, lent.as_ref()).await;
        if !matches!(joined, FlightRole::Leader(_)) {
            observe::flight_wait(began.elapsed());
        }
        Some(joined)
    }

    /// Judges the entry that another request computed, by the current fences and this request's options. If a dependency
    /// has changed in the meantime, the entry is still good for a request that arrived before that change. Otherwise, if
    /// changes came faster than the handler computes, every waiting request would compute its own.
    fn collapsed(&mut self, entry: Arc<Entry>) -> Option<Hit> {
        let tier = Tier::Memory;
        if !entry.is_for(self.key) {
            return None;
        }
        if is_broken("delivery") {
            let found = Found { entry, tier };
            return Some(Hit::new(found, Outcome::Collapsed));
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

    /// Whether an entry includes every change that was known when this request arrived, and is usable otherwise.
    fn was_computed_since(&self, entry: &Entry) -> bool {
        self.since.is_some_and(|since| has_all_since(entry.basis, since))
            && self.holds(entry)
            && decide(Verdict::Valid, entry, self.policy, &self.options.limits) == EntryUse::Serve
    }

    /// The stale entry that another request served after its fill failed, if this request may be served it too.
    fn instead(&mut self, entry: Arc<Entry>) -> Option<Hit> {
        if entry.is_for(self.key) {
            self.pass_over(Found { entry, tier: Tier::Memory }, self.reason);
        }
        self.fallback()
    }

    /// The response of a run that failed, for this request, if the run began after it had arrived. One with a session has
    /// writes that the run may not have seen.
    fn failed(&self, entry: Arc<Entry>, is_later: bool) -> Option<Hit> {
        if let Some(stale) = self.fallback() {
            return Some(stale);
        }
        let is_for_it = is_later
            && self.options.is_request
            && !self.options.is_identified
            && self.session.is_none();
        if is_for_it && let Some(outer) = Record::current() {
            outer.note_uncacheable(Uncacheable::new(
                "failed",
                "it contains a response whose handler failed",
            ));
        }
        let found = Found { entry, tier: Tier::Memory };
        is_for_it.then_some(Hit::new(found, Outcome::Collapsed))
    }

    /// Whether the shared store probably has no usable entry: the one in memory is outdated, or the policy's last lookup found
    /// none.
    fn expects_miss(&self) -> bool {
        self.unusable.is_some() || self.policy.miss_hint.expects_miss()
    }

    /// Looks in the shared store on behalf of all waiting requests, and prepares the fill if the entry is not there.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of one has room for its arguments twice"
    )]
    fn lead(
        &mut self,
        mut leader: Option<FlightLeader>,
    ) -> impl Future<Output = LookupResult> + Send {
        async move {
            if leader.is_some()
                && let Some(hit) = self.peek()
            {
                return LookupResult::Hit(hit);
            }
            // The overtaken leader of this node may hold the lease already.
            let is_first = leader.as_ref().is_some_and(|leader| !leader.overtakes());
            let claims = is_first && self.cache.leases(self.policy);
            let (mut usable, mut lease) = (None, None);
            if !(claims && self.expects_miss()) {
                let found = self.cache.shared.store.get(self.key).await;
                usable = self.read(found).and_then(|found| self.accept(found));
                self.policy.miss_hint.note(usable.is_none());
            }
            if claims && usable.is_none() {
                // Boxed, so that a hit's future does not include its size.
                match Box::pin(self.claim()).await {
                    Ok(granted) => lease = granted,
                    Err(found) => usable = Some(found),
                }
            }
            if let Some(UsableEntry { decided, found }) = usable {
                if let Some(leader) = leader.take() {
                    // Before anything else: recomputing an entry that is due needs a flight of its own.
                    leader.finish(FlightResult::Entry(found.entry.clone()));
                }
                let outcome = Outcome::Hit(found.tier);
                if let Some(hit) = self.follow_up(decided, found, outcome) {
                    return LookupResult::Hit(hit);
                }
            }
            let PendingPermit { permit, has_waited } =
                self.cache.permit(self.policy, &leader).await;
            let mut guard = self.fill_guard(leader, Some(permit));
            guard.lease = lease;
            if has_waited && let Some(hit) = self.find().await {
                guard.finish_with(&hit);
                return LookupResult::Hit(hit);
            }
            LookupResult::Miss(guard)
        }
    }
}
