//! The steps of cache-aside, up to the point at which an entry has to be computed.
//!
//! `task` is a lookup in progress and decides on an entry, `search` finds stored entries, `flight` waits for other requests
//! on this node and `claim` for other nodes, `follow` catches up with the session's writes, and `result` builds what a miss
//! or a bypass returns.

use std::sync::Arc;

use super::admission::PendingPermit;
use super::cache::Cache;
use super::hit::Hit;
use super::options::{LookupOptions, Peeked};
use super::policy::Policy;
use super::protocol::must_see;
use super::record::Needs;
use super::refresh::{EntryUse, decide};
use crate::entry::Key;
use crate::outcome::{BypassReason, Outcome};

mod claim;
mod flight;
mod follow;
mod result;
mod search;
mod task;

pub(crate) use result::{Bypass, LookupResult};
use task::LookupTask;

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

impl Cache {
    /// A hit that needs no waiting: an entry in memory that is proven fresh, for a session whose writes this node has
    /// already followed. Otherwise returns what was found, for the lookup that follows. Counts only hits.
    pub(crate) fn lookup_in_memory(
        &self,
        key: &Key,
        policy: &Policy,
        options: &LookupOptions,
    ) -> Result<Hit, Peeked> {
        if self.is_off() || !self.is_confirmed(policy) || !self.has_followed(options.session) {
            return Err(Peeked::Unknown);
        }
        let Needs::Position(own) = self.own_writes_seen(options) else {
            return Err(Peeked::Unknown);
        };
        if !self.has_followed(own) {
            return Err(Peeked::Unknown);
        }
        let found = self.shared.store.peek(key).ok_or(Peeked::Absent)?;
        let verdict = self.shared.fences.judge(&found.entry);
        if decide(verdict, &found.entry, policy, &options.limits) != EntryUse::Serve {
            return Err(Peeked::Found(found));
        }
        let outcome = Outcome::Hit(found.tier);
        Ok(Hit::new(found, outcome))
    }

    /// Finds an entry, or returns the guard for computing it.
    pub(crate) fn lookup<'a>(
        &'a self,
        key: &'a Key,
        policy: &'a Arc<Policy>,
        options: &'a LookupOptions,
        mode: FlightMode,
    ) -> impl Future<Output = LookupResult> + Send + 'a {
        let mut search = LookupTask::new(self, key, policy, options);
        async move {
            if let Some(reason) = self.begin(&mut search, mode == FlightMode::Join).await {
                return LookupResult::Bypass(match (mode, reason) {
                    (FlightMode::Never, _) | (_, BypassReason::Off) => search.bypass(reason, None),
                    // Boxed, so that a hit's future does not include its size.
                    (FlightMode::Join | FlightMode::Solo, _) => {
                        Box::pin(search.bypass_limited(reason)).await
                    }
                });
            }
            if mode == FlightMode::Join {
                return match search.peek() {
                    Some(hit) => LookupResult::Hit(hit),
                    None => search.lead_or_join().await,
                };
            }
            if let Some(hit) = search.find().await {
                return LookupResult::Hit(hit);
            }
            if mode == FlightMode::Never {
                return LookupResult::Bypass(search.bypass(BypassReason::OnlyIfCached, None));
            }
            let PendingPermit { permit, has_waited } = self.permit(policy, []).await;
            if has_waited && let Some(hit) = search.find().await {
                return LookupResult::Hit(hit);
            }
            LookupResult::Miss(search.fill_guard(None, Some(permit)))
        }
    }

    /// For each key, finds an entry, or returns the guard for computing it; `None` if another request is computing it. Waits
    /// for no other request, and takes no permit.
    pub(crate) async fn try_lookup_many(
        &self,
        keys: &[&Key],
        policy: &Arc<Policy>,
        options: &LookupOptions,
    ) -> Vec<Option<LookupResult>> {
        let Some(first) = keys.first() else { return Vec::new() };
        let mut proven = LookupTask::new(self, first, policy, options);
        let reason = self.begin(&mut proven, false).await;
        let mut tasks: Vec<_> = keys.iter().map(|key| proven.for_key(key)).collect();
        if let Some(reason) = reason {
            if reason != BypassReason::Off {
                LookupTask::find_fallbacks(&mut tasks).await;
            }
            let bypass = |task: LookupTask<'_>| LookupResult::Bypass(task.bypass(reason, None));
            return tasks.into_iter().map(|task| Some(bypass(task))).collect();
        }
        let hits = LookupTask::find_many(&mut tasks).await;
        let lookups = tasks.into_iter().zip(hits).map(|(task, hit)| match hit {
            Some(hit) => Some(LookupResult::Hit(hit)),
            None => task.try_lead(),
        });
        lookups.collect()
    }

    /// Begins a lookup. Returns why it must bypass the cache, if it must; then an entry that may replace an error has been
    /// looked for if `finds_fallback`.
    async fn begin(
        &self,
        search: &mut LookupTask<'_>,
        finds_fallback: bool,
    ) -> Option<BypassReason> {
        if self.is_off() {
            return Some(BypassReason::Off);
        }
        let reason = search.can_prove().await.err()?;
        self.warn_if_unfollowed();
        if finds_fallback {
            search.find_fallback().await;
        }
        Some(reason)
    }

    /// The stale entry that may be served under a key if computing a response fails.
    pub(crate) async fn fallback(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        options: &LookupOptions,
    ) -> Option<Hit> {
        let mut search = LookupTask::new(self, key, policy, options);
        search.passed_over = self.stored(key).await;
        let Needs::Position(own) = self.own_writes_seen(options) else { return None };
        search.session = must_see(options.session, own);
        search.fallback()
    }

    /// Logs a warning, once, if the cache's log is no longer followed.
    fn warn_if_unfollowed(&self) {
        if let Some(log) = self.log() {
            log.warn_if_ended();
        }
    }
}
