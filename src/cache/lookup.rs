//! The steps of cache-aside, up to the point where somebody has to make the answer.
//!
//! `search` finds and judges what is stored, `flight` waits for other requests of this node and `claim` for those of other
//! nodes, `follow` catches up with what a session has written, and `result` is what is left to do.

use std::sync::Arc;

use super::cache::Cache;
use super::fill::FillGuard;
use super::freshness::AgeLimits;
use super::permit::{PendingPermit, Permit};
use super::policy::Policy;
use super::protocol::must_see;
use super::record::{Arrival, EndedStrays, Needs, Record, Stray};
use super::refresh::{EntryUse, decide};
use super::template::PolicyTag;
use crate::entry::{Entry, Epoch, Key, Position};
use crate::outcome::{BypassReason, Outcome};
use crate::store::Found;
use crate::traffic::Traffic;

mod claim;
mod flight;
mod follow;
mod result;
mod search;

use search::LookupTask;

/// What a request asks for beyond the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookupOptions {
    pub(crate) tags: Vec<PolicyTag>,
    /// What the session has written must be in the answer: everything up to here.
    pub(crate) session: Option<(Epoch, Position)>,
    /// How old or stale an answer the client takes.
    pub(crate) limits: AgeLimits,
    /// Where what is read is noted for those who look on.
    pub(crate) watch: Option<Arc<Traffic>>,
    /// Whether an entry holds a value of the requested type; `None` where every entry under the key does.
    pub(crate) holds: Option<fn(&Entry) -> bool>,
    /// It is a request to a layer: unless it comes from within another, the process's own writes are none of its.
    pub(crate) is_request: bool,
    /// Reads and lookups in no scope that had ended when it was asked; as of the lookup where that is not said.
    pub(crate) strays: Option<EndedStrays>,
    /// When the call began that this is one lookup of; with the lookup where that is not said.
    pub(crate) arrival: Option<Arrival>,
}

/// What came of a lookup.
#[derive(Debug)]
pub(crate) enum LookupResult {
    /// Serve this.
    Hit(Hit),
    /// Make the answer.
    Miss(Box<FillGuard>),
    /// Make an answer, and keep it to yourself.
    Bypass(Bypass),
}

/// An answer that may be served.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The answer.
    pub found: Found,
    /// How it came about.
    pub outcome: Outcome,
    /// The duty to make it anew in the background, if it is due and nobody else is at it.
    pub renew: Option<Box<FillGuard>>,
}

/// Leave to go past the cache.
#[derive(Debug)]
pub(crate) struct Bypass {
    /// Why.
    pub reason: BypassReason,
    /// What may be served if no answer can be made.
    pub fallback: Option<Hit>,
    /// The scope to work in.
    pub record: Record,
    /// Held while the answer is made.
    _permit: Option<Arc<Permit>>,
}

impl LookupOptions {
    /// Of a request to a layer.
    pub(crate) fn for_request(session: Option<(Epoch, Position)>) -> Self {
        Self { session, is_request: true, ..Self::default() }
    }

    /// Of a value, by a lookup that is marked if it is in no scope.
    pub(crate) fn for_value(stray: Option<&Stray>) -> Self {
        Self { strays: Some(EndedStrays::within(stray)), ..Self::default() }
    }
}

impl LookupResult {
    /// What an answer to be made will depend on, where that was not said when it was asked for.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        match self {
            Self::Hit(_) => {}
            Self::Miss(lead) => lead.tag(tags),
            Self::Bypass(bypass) => bypass.record.tag(tags),
        }
    }
}

impl Cache {
    /// What can be answered at once: an entry in memory, proven fresh, for a session that this node
    /// need not first catch up with. Waits for nothing and counts only what it answers.
    pub(crate) fn at_hand(&self, key: &Key, policy: &Policy, ask: &LookupOptions) -> Option<Hit> {
        if self.is_off() || !self.is_confirmed(policy) || !self.has_followed(ask.session) {
            return None;
        }
        let Needs::Position(own) = self.own_writes_seen(ask) else { return None };
        if !self.has_followed(own) {
            return None;
        }
        let found = self.shared.store.peek(key)?;
        let verdict = self.shared.fences.judge(&found.entry);
        (decide(verdict, &found.entry, policy, &ask.limits) == EntryUse::Serve).then(|| {
            let outcome = Outcome::Hit(found.tier);
            Hit { found, outcome, renew: None }
        })
    }

    /// Finds an answer, or says who makes it.
    pub(crate) async fn lookup(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        ask: LookupOptions,
    ) -> LookupResult {
        let mut search = LookupTask::new(self, key, policy, ask);
        if self.is_off() {
            return LookupResult::Bypass(search.bypass(BypassReason::Off, None));
        }
        if let Err(reason) = search.can_prove().await {
            // What the store has may be better than an error.
            if !policy.longest_if_error().is_zero()
                && let Some(unproven) = search.look().await
            {
                search.passed_over = Some(unproven.found);
            }
            return LookupResult::Bypass(search.bypass_limited(reason).await);
        }
        if let Some(hit) = search.peek() {
            return LookupResult::Hit(hit);
        }
        search.make().await
    }

    /// Finds an answer, or takes the duty to make it if nobody else has it; `None` if somebody does. Waits
    /// for nobody's work, and holds no place among the makers.
    pub(crate) async fn try_lookup(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        ask: LookupOptions,
    ) -> Option<LookupResult> {
        let mut search = LookupTask::new(self, key, policy, ask);
        if self.is_off() {
            return Some(LookupResult::Bypass(search.bypass(BypassReason::Off, None)));
        }
        if let Err(reason) = search.can_prove().await {
            return Some(LookupResult::Bypass(search.bypass(reason, None)));
        }
        if let Some(hit) = search.look().await {
            return Some(LookupResult::Hit(hit));
        }
        let leader = self.shared.flights.try_lead(*key.hash())?;
        // It may have turned up meanwhile.
        if let Some(hit) = search.peek() {
            return Some(LookupResult::Hit(hit));
        }
        Some(LookupResult::Miss(Box::new(search.fill_guard(Some(leader), None))))
    }

    /// Finds an answer, and leaves it at that: on a miss nobody else waits for what the caller makes.
    pub(crate) async fn look(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        ask: LookupOptions,
    ) -> LookupResult {
        let mut search = LookupTask::new(self, key, policy, ask);
        if self.is_off() {
            return LookupResult::Bypass(search.bypass(BypassReason::Off, None));
        }
        if let Err(reason) = search.can_prove().await {
            return LookupResult::Bypass(search.bypass_limited(reason).await);
        }
        if let Some(hit) = search.look().await {
            return LookupResult::Hit(hit);
        }
        let PendingPermit { permit, has_waited } = self.permit(policy, []).await;
        if has_waited && let Some(hit) = search.look().await {
            return LookupResult::Hit(hit);
        }
        LookupResult::Miss(Box::new(search.fill_guard(None, Some(permit))))
    }

    /// What is stored under a key, whatever has become of it.
    pub(crate) async fn stored(&self, key: &Key) -> Option<Found> {
        let store = &self.shared.store;
        match store.peek(key) {
            Some(found) => Some(found),
            None => store.get(key).await.ok().flatten(),
        }
    }

    /// What may be served under a key if no answer can be made.
    pub(crate) async fn fallback(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        ask: &LookupOptions,
    ) -> Option<Hit> {
        let mut search = LookupTask::new(self, key, policy, ask.clone());
        search.passed_over = self.stored(key).await;
        let Needs::Position(own) = self.own_writes_seen(ask) else { return None };
        search.ask.session = must_see(ask.session, own);
        search.fallback()
    }

    /// Whether this node has heard from the source of changes as lately as the policy asks.
    pub(super) fn is_confirmed(&self, policy: &Policy) -> bool {
        self.log().is_none()
            || self.shared.fences.age().is_some_and(|age| age <= policy.max_staleness)
    }
}
