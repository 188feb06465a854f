//! One lookup: what it must prove, and how it decides on an entry.

use std::sync::Arc;

use super::follow::FOLLOW_WITHIN;
use crate::cache::Cache;
use crate::cache::options::LookupOptions;
use crate::cache::policy::Policy;
use crate::cache::protocol::must_see;
use crate::cache::record::EndedUnscopedReads;
use crate::cache::refresh::{EntryUse, assess};
use crate::entry::{Entry, EntryVersion, Key, LogPosition};
use crate::outcome::{BypassReason, Event, MissReason, StaleReason};
use crate::store::{Found, StoreError};

/// One lookup in progress: its options, and what it has found so far.
pub(super) struct LookupTask<'a> {
    pub(super) cache: &'a Cache,
    pub(super) key: &'a Key,
    pub(super) policy: &'a Arc<Policy>,
    pub(super) options: &'a LookupOptions,
    /// Whether memory has been looked in.
    pub(super) has_peeked: bool,
    /// The position that the entry must include: the options' one, and own writes once they are known.
    pub(super) session: Option<LogPosition>,
    pub(super) unscoped_reads: EndedUnscopedReads,
    pub(super) reason: MissReason,
    /// The youngest entry that was found and may not be served as it is.
    pub(super) passed_over: Option<Found>,
    /// The version of the entry that was passed over last.
    pub(super) unusable: Option<EntryVersion>,
    /// The session or scope wrote something at an unknown position, so no stored entry can be proven to include it.
    pub(super) is_blind: bool,
    /// The position on the primary that this node knew when the request arrived, at or past all fences.
    pub(super) since: Option<LogPosition>,
}

impl<'a> LookupTask<'a> {
    pub(super) fn new(
        cache: &'a Cache,
        key: &'a Key,
        policy: &'a Arc<Policy>,
        options: &'a LookupOptions,
    ) -> Self {
        Self {
            cache,
            key,
            policy,
            options,
            has_peeked: false,
            session: options.session,
            // Before anything is awaited: the computation may use reads that begin while this lookup waits.
            unscoped_reads: options.unscoped_reads.unwrap_or_else(EndedUnscopedReads::now),
            reason: MissReason::Absent,
            passed_over: None,
            unusable: None,
            is_blind: false,
            since: None,
        }
    }

    /// The lookup of another key that must prove the same, and has not begun to search.
    pub(super) fn for_key(&self, key: &'a Key) -> Self {
        let Self { cache, policy, options, session, unscoped_reads, is_blind, since, .. } = *self;
        Self { session, unscoped_reads, is_blind, since, ..Self::new(cache, key, policy, options) }
    }

    pub(super) async fn can_prove(&mut self) -> Result<(), BypassReason> {
        let limit = self.policy.max_staleness.min(FOLLOW_WITHIN);
        let own = self.cache.own_writes(self.options, limit).await;
        let Some(own) = own else {
            self.is_blind = true;
            return Err(BypassReason::Session);
        };
        let session = self.session;
        // First, since a stale entry that is served in place of an error must include these writes too.
        self.session = must_see(session, own);
        if !self.cache.follow(session, limit).await || !self.cache.follow(own, limit).await {
            return Err(BypassReason::Session);
        }
        if !self.cache.is_confirmed(self.policy) {
            return Err(BypassReason::Unconfirmed);
        }
        // Only now, so that it is past the session's writes. A drain may already have raised fences past `seen`.
        let fences = &self.cache.shared.fences;
        let seen = fences.seen();
        self.since =
            seen.map(|seen| LogPosition::new(seen.epoch, seen.position.max(fences.highest())));
        Ok(())
    }

    pub(super) fn read(&mut self, found: Result<Option<Found>, StoreError>) -> Option<Found> {
        found.unwrap_or_else(|error| {
            self.note_failure(&error);
            self.cache.noted(Err(error));
            None
        })
    }

    pub(super) fn note_failure(&mut self, error: &StoreError) {
        self.reason = MissReason::from_store_error(error);
    }

    pub(super) fn decide(&self, found: &Found) -> EntryUse {
        let fences = &self.cache.shared.fences;
        match assess(fences, &found.entry, self.policy, &self.options.limits) {
            EntryUse::Miss(reason) => EntryUse::Miss(reason),
            _ if !self.holds(&found.entry) => EntryUse::Miss(MissReason::OtherShape),
            // An entry from before the failover lacks the session's writes.
            EntryUse::Stale(StaleReason::Failover) if self.session.is_some() => {
                EntryUse::Miss(MissReason::OldEpoch)
            }
            used => used,
        }
    }

    pub(super) fn holds(&self, entry: &Entry) -> bool {
        self.options.holds.is_none_or(|holds| holds(entry))
    }

    pub(super) fn pass_over(&mut self, found: Found, reason: MissReason) {
        if self.cache.shared.fences.is_false_alarm(&found.entry) == Some(true) {
            self.cache.shared.counters.note(Event::FalseAlarm);
        }
        self.reason = reason;
        self.unusable = Some(found.entry.version());
        let known = self.passed_over.as_ref();
        if known.is_none_or(|known| found.entry.is_newer_than(&known.entry))
            // Only a policy with `stale_if_error` uses it, and the check may decode.
            && (self.policy.longest_if_error().is_zero() || self.holds(&found.entry))
        {
            self.passed_over = Some(found);
        }
    }
}
