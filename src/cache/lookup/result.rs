//! The result of a lookup. A miss or a bypass has the guard or the scope for computing a response, and the stale entry that
//! may be served if that fails.

use std::sync::Arc;

use super::task::LookupTask;
use crate::cache::fill::FillGuard;
use crate::cache::flight::FlightLeader;
use crate::cache::hit::Hit;
use crate::cache::options::LookupOptions;
use crate::cache::permit::Permit;
use crate::cache::protocol::Verdict;
use crate::cache::record::Record;
use crate::cache::template::PolicyTag;
use crate::entry::Entry;
use crate::outcome::BypassReason;
use crate::store::Found;

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

impl LookupResult {
    /// Adds tags to the response that will be computed, if they were not given in the options.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        match self {
            Self::Hit(_) => {}
            Self::Miss(guard) => guard.tag(tags),
            Self::Bypass(bypass) => bypass.record.tag(tags),
        }
    }

    /// Notes the vary marker that led to the key.
    pub(crate) fn note_marker(&mut self, marker: &Arc<Entry>) {
        let guard = match self {
            Self::Hit(hit) => hit.renew.as_mut(),
            Self::Miss(guard) => Some(guard),
            Self::Bypass(_) => None,
        };
        if let Some(guard) = guard {
            guard.marker = Some(marker.clone());
        }
    }
}

impl LookupTask<'_> {
    /// The guard for recomputing an entry in the background, if no other request holds it, a permit is free, and the last
    /// attempt is not too recent.
    pub(super) fn renewal(&self, due: &Found) -> Option<Box<FillGuard>> {
        if !due.entry.may_renew() {
            return None;
        }
        let leader = self.cache.shared.flights.try_lead(*self.key.hash())?;
        let permit = self.cache.try_permit(self.policy)?;
        let mut guard = self.fill_guard(Some(leader), Some(permit));
        guard.stale = self.confirmable(due);
        guard.replaced = Some(due.entry.clone());
        Some(guard)
    }

    pub(super) fn fill_guard(
        &self,
        leader: Option<FlightLeader>,
        permit: Option<Arc<Permit>>,
    ) -> Box<FillGuard> {
        let record = self.record(permit.as_ref());
        let mut guard = Box::new(FillGuard::new(self.cache, self.key, self.policy, record));
        guard.reason = self.reason;
        guard.stale_if_error = self.stale_if_error();
        guard.stale = self.passed_over.as_ref().and_then(|found| self.confirmable(found));
        guard.replaced = self.passed_over.as_ref().map(|found| found.entry.clone());
        guard.flight = leader;
        guard.permit = permit;
        guard
    }

    /// An entry that has only expired, so the handler may confirm it. An entry that a change has invalidated is recomputed,
    /// even if the handler would confirm it.
    fn confirmable(&self, found: &Found) -> Option<Arc<Entry>> {
        let verdict = self.cache.shared.fences.judge(&found.entry);
        (verdict == Verdict::Valid).then(|| found.entry.clone())
    }

    /// The stale entry that may be served if computing a response fails.
    pub(super) fn fallback(&self) -> Option<Hit> {
        self.stale_if_error().map(|found| Hit::in_place_of_error(found, self.reason))
    }

    fn stale_if_error(&self) -> Option<Found> {
        let found = self.passed_over.clone()?;
        let entry = &found.entry;
        let window = entry.life.if_error.min(self.policy.longest_if_error());
        // RFC 9111, section 4.4: a write makes validation mandatory.
        let must_validate =
            self.policy.is_standard && self.cache.shared.fences.judge(entry) == Verdict::Fenced;
        let lasts = !entry.is_vary_marker()
            && !must_validate
            && !window.is_zero()
            && entry.age() < entry.ttl().saturating_add(window);
        let has_own_writes = self.session.is_none_or(|session| entry.basis.has_reached(session));
        (lasts && has_own_writes && !self.is_blind).then_some(found)
    }

    fn record(&self, permit: Option<&Arc<Permit>>) -> Record {
        let (session, unscoped_reads) = (self.session, Some(self.unscoped_reads));
        let options = LookupOptions { session, unscoped_reads, ..self.options.clone() };
        self.cache.record_for(&[self.key], permit, Some(self.policy), options)
    }

    pub(super) fn bypass(&self, reason: BypassReason, permit: Option<Arc<Permit>>) -> Bypass {
        let record = self.record(permit.as_ref());
        Bypass { reason, fallback: self.fallback(), record, _permit: permit }
    }

    /// Bypasses a cache that can't prove freshness at the moment. It does so for all requests, so this takes a permit.
    pub(super) async fn bypass_limited(&self, reason: BypassReason) -> Bypass {
        let permit = self.cache.permit(self.policy, []).await.permit;
        self.bypass(reason, Some(permit))
    }
}
