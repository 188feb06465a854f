//! What a miss or a bypass returns: the guard or the scope for computing a response, and the stale entry that may be
//! served if that fails.

use std::sync::Arc;

use super::search::LookupTask;
use super::{Bypass, Hit};
use crate::cache::fill::FillGuard;
use crate::cache::flight::FlightLeader;
use crate::cache::permit::Permit;
use crate::cache::protocol::Verdict;
use crate::cache::record::Record;
use crate::entry::Entry;
use crate::outcome::{BypassReason, Outcome, StaleReason};
use crate::store::Found;

impl LookupTask<'_> {
    /// The guard for recomputing an entry in the background, if no other request holds it, a permit is free, and the last
    /// attempt is not too recent.
    pub(super) fn renewal(&self, due: &Found) -> Option<Box<FillGuard>> {
        if !due.entry.may_renew() {
            return None;
        }
        let leader = self.cache.shared.flights.try_lead(*self.key.hash())?;
        let permit = self.cache.try_permit(self.policy)?;
        let mut lead = self.fill_guard(Some(leader), Some(permit));
        lead.stale = self.confirmable(due);
        lead.replaced = Some(due.entry.clone());
        Some(Box::new(lead))
    }

    pub(super) fn fill_guard(
        &self,
        leader: Option<FlightLeader>,
        permit: Option<Arc<Permit>>,
    ) -> FillGuard {
        let record = self.record(permit.as_ref());
        let mut lead = FillGuard::new(self.cache, self.key, self.policy, record);
        lead.reason = self.reason;
        lead.fallback = self.fallback();
        lead.stale = self.passed_over.as_ref().and_then(|found| self.confirmable(found));
        lead.replaced = self.passed_over.as_ref().map(|found| found.entry.clone());
        lead.flight = leader;
        lead.permit = permit;
        lead
    }

    /// An entry that has only expired, so the handler may confirm it. An entry that a change has invalidated is recomputed,
    /// even if the handler would confirm it.
    fn confirmable(&self, found: &Found) -> Option<Arc<Entry>> {
        let verdict = self.cache.shared.fences.judge(&found.entry);
        (verdict == Verdict::Valid).then(|| found.entry.clone())
    }

    /// The stale entry that may be served if computing a response fails.
    pub(super) fn fallback(&self) -> Option<Hit> {
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
        let has_own_writes =
            self.ask.session.is_none_or(|session| entry.basis.has_reached(session));
        let hit = Hit::new(found, Outcome::Stale(StaleReason::Error));
        (lasts && has_own_writes && !self.is_blind)
            .then_some(Hit { missed: Some(self.reason), ..hit })
    }

    fn record(&self, permit: Option<&Arc<Permit>>) -> Record {
        self.cache.record_for((&[self.key], permit), Some(self.policy), self.ask.clone())
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
