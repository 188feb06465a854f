//! The steps of cache-aside, up to the point at which an entry has to be computed.
//!
//! `search` finds and judges stored entries, `flight` waits for other requests on this node and `claim` for other nodes,
//! `follow` catches up with the session's writes, and `result` builds what a miss or a bypass returns.

use std::sync::Arc;

use super::admission::PendingPermit;
use super::cache::Cache;
use super::fill::FillGuard;
use super::freshness::AgeLimits;
use super::permit::Permit;
use super::policy::Policy;
use super::protocol::must_see;
use super::reads::ReadStatistics;
use super::record::{Arrival, EndedStrays, Needs, Record, Stray};
use super::refresh::{EntryUse, decide};
use super::template::PolicyTag;
use crate::entry::{Entry, Key, LogPosition};
use crate::outcome::{BypassReason, MissReason, Outcome};
use crate::store::Found;

mod claim;
mod flight;
mod follow;
mod result;
mod search;

use search::LookupTask;

/// What a lookup does if no stored entry may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FlightMode {
    /// Waits while another request or node computes the entry, or computes it for all that wait.
    Join,
    /// Computes it for this request alone: no other request waits for its result.
    Solo,
    /// Computes nothing, and so takes no permit.
    Never,
}

/// The options of a lookup, in addition to the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookupOptions {
    pub(crate) tags: Vec<PolicyTag>,
    /// The session's last write: the entry must include everything up to this position.
    pub(crate) session: Option<LogPosition>,
    /// How old or stale an entry the client accepts.
    pub(crate) limits: AgeLimits,
    /// Where reads are recorded for the operators' page.
    pub(crate) watch: Option<Arc<ReadStatistics>>,
    /// Checks that an entry contains a value of the requested type; `None` if every entry under the key does.
    pub(crate) holds: Option<fn(&Entry) -> bool>,
    /// This is a request to a layer. Unless it is made within another scope, it need not see the process's own writes.
    pub(crate) is_request: bool,
    /// The request identifies its client, so the response may be for this client alone.
    pub(crate) is_identified: bool,
    /// Reads and lookups outside any scope that had ended before this call; if `None`, they are counted when the lookup
    /// begins.
    pub(crate) strays: Option<EndedStrays>,
    /// When the call that includes this lookup began; `None` if it begins with the lookup.
    pub(crate) arrival: Option<Arrival>,
}

/// The result of a lookup.
#[derive(Debug)]
pub(crate) enum LookupResult {
    /// Serve this entry.
    Hit(Hit),
    /// Compute the entry and store it.
    Miss(Box<FillGuard>),
    /// Compute a response without storing it.
    Bypass(Bypass),
}

/// An entry that may be served.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The entry and its tier.
    pub found: Found,
    /// The outcome to count.
    pub outcome: Outcome,
    /// The guard for recomputing it in the background, if it is due and no other request is recomputing it.
    pub renew: Option<Box<FillGuard>>,
    /// Why it was not served at once, if it is served in place of an error.
    pub missed: Option<MissReason>,
}

impl Hit {
    pub(crate) const fn new(found: Found, outcome: Outcome) -> Self {
        Self { found, outcome, renew: None, missed: None }
    }

    /// Begins to recompute the entry in the background, if it is due.
    pub(crate) fn take_renewal(&mut self) -> Option<Box<FillGuard>> {
        let lead = self.renew.take()?;
        self.found.entry.note_renewal();
        Some(lead)
    }
}

/// A lookup that bypasses the cache.
#[derive(Debug)]
pub(crate) struct Bypass {
    /// Why.
    pub reason: BypassReason,
    /// A stale entry that may be served if computing a response fails.
    pub fallback: Option<Hit>,
    /// The scope to work in.
    pub record: Record,
    /// Held while the response is computed.
    _permit: Option<Arc<Permit>>,
}

impl LookupOptions {
    /// The options of a request to a layer.
    pub(crate) fn for_request(session: Option<LogPosition>) -> Self {
        Self { session, is_request: true, ..Self::default() }
    }

    /// The options of a value's lookup. `stray` is its mark if the lookup is outside any scope.
    pub(crate) fn for_value(stray: Option<&Stray>) -> Self {
        Self { strays: Some(EndedStrays::within(stray)), ..Self::default() }
    }
}

impl LookupResult {
    /// Adds tags to the response that will be computed, if they were not given in the options.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        match self {
            Self::Hit(_) => {}
            Self::Miss(lead) => lead.tag(tags),
            Self::Bypass(bypass) => bypass.record.tag(tags),
        }
    }

    /// Notes the vary marker that led to the key.
    pub(crate) fn note_marker(&mut self, marker: &Arc<Entry>) {
        let lead = match self {
            Self::Hit(hit) => hit.renew.as_mut(),
            Self::Miss(lead) => Some(lead),
            Self::Bypass(_) => None,
        };
        if let Some(lead) = lead {
            lead.marker = Some(marker.clone());
        }
    }
}

impl Cache {
    /// A hit that needs no waiting: an entry in memory that is proven fresh, for a session whose writes this node has
    /// already followed. Counts only hits.
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
            Hit::new(found, outcome)
        })
    }

    /// Finds an entry, or returns the guard for computing it.
    pub(crate) async fn lookup(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        ask: LookupOptions,
        mode: FlightMode,
    ) -> LookupResult {
        let mut search = LookupTask::new(self, key, policy, ask);
        if self.is_off() {
            return LookupResult::Bypass(search.bypass(BypassReason::Off, None));
        }
        if let Err(reason) = search.can_prove().await {
            self.warn_if_unfollowed();
            if mode == FlightMode::Join {
                search.find_fallback().await;
            }
            return LookupResult::Bypass(match mode {
                FlightMode::Never => search.bypass(reason, None),
                FlightMode::Join | FlightMode::Solo => search.bypass_limited(reason).await,
            });
        }
        if mode == FlightMode::Join {
            return match search.peek() {
                Some(hit) => LookupResult::Hit(hit),
                None => search.make().await,
            };
        }
        if let Some(hit) = search.look().await {
            return LookupResult::Hit(hit);
        }
        if mode == FlightMode::Never {
            return LookupResult::Bypass(search.bypass(BypassReason::OnlyIfCached, None));
        }
        let PendingPermit { permit, has_waited } = self.permit(policy, []).await;
        if has_waited && let Some(hit) = search.look().await {
            return LookupResult::Hit(hit);
        }
        LookupResult::Miss(Box::new(search.fill_guard(None, Some(permit))))
    }

    /// Finds an entry, or returns the guard for computing it; `None` if another request is computing it. Waits for no other
    /// request, and takes no permit.
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
            self.warn_if_unfollowed();
            search.find_fallback().await;
            return Some(LookupResult::Bypass(search.bypass(reason, None)));
        }
        if let Some(hit) = search.look().await {
            return Some(LookupResult::Hit(hit));
        }
        if search.is_unlikely_shared() {
            return Some(LookupResult::Miss(Box::new(search.fill_guard(None, None))));
        }
        let leader = self.shared.flights.try_lead(*key.hash())?;
        // Another request may have stored it in the meantime.
        if let Some(hit) = search.peek() {
            return Some(LookupResult::Hit(hit));
        }
        Some(LookupResult::Miss(Box::new(search.fill_guard(Some(leader), None))))
    }

    /// The entry that is stored under a key, valid or not.
    pub(crate) async fn stored(&self, key: &Key) -> Option<Found> {
        let store = &self.shared.store;
        match store.peek(key) {
            Some(found) => Some(found),
            None => store.get(key).await.ok().flatten(),
        }
    }

    /// The stale entry that may be served under a key if computing a response fails.
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

    /// Logs a warning, once, if the cache's log is no longer followed.
    fn warn_if_unfollowed(&self) {
        if let Some(log) = self.log() {
            log.warn_if_ended();
        }
    }

    /// Whether this node's last drain of the log is within the policy's `max_staleness`.
    pub(super) fn is_confirmed(&self, policy: &Policy) -> bool {
        self.log().is_none()
            || self.shared.fences.age().is_some_and(|age| age <= policy.max_staleness)
    }
}
