//! Scopes within scopes.
//!
//! What an inner scope reads, the outer ones note as it happens, so that it counts whether the inner work comes to its
//! end or not. What was found in a cache counts like the reads that it was made of. At its end an inner scope passes on
//! what its policy says: its tags, and for how long it lasts where nothing but time bounds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;

use super::{
    CURRENT, DatabaseId, Needs, Record, RecordScope, Requirement, ScopeKind, Uncacheable,
    no_position,
};
use crate::broken::is_broken;
use crate::cache::fence::Fences;
use crate::cache::freshness::Freshness;
use crate::cache::permit::Permit;
use crate::cache::policy::Policy;
use crate::cache::template::PolicyTag;
use crate::cache::waits::WaitKey;
use crate::clock;
use crate::entry::{Entry, Tag};

impl Record {
    /// What a lookup here, in a cache that follows the database, must find of what the present scope's session and the
    /// scope itself have written; `None` in no scope.
    pub(crate) fn required(database: DatabaseId) -> Option<Needs> {
        let required = |record: &Self| Some(record.requirement()?.for_lookups(database));
        CURRENT.try_with(required).ok().flatten()
    }

    /// Whether the present code is in no scope.
    pub(crate) fn is_in_none() -> bool {
        CURRENT.try_with(|_| ()).is_err()
    }

    /// A response is about to be handed to the present scope, if there is one, whose service was called in none, such as
    /// by the worker of `tower::buffer`: what it depends on is noted nowhere.
    pub(crate) fn note_unknown_part() {
        let _ = CURRENT.try_with(Self::has_unknown_part);
    }

    /// Makes a future and runs it, both in this record's scope: what a service does when it is called counts as well.
    pub(crate) fn enter<F: Future>(&self, begin: impl FnOnce() -> F) -> TaskLocalFuture<Self, F> {
        let work = self.sync_scope(begin);
        self.scope(work)
    }

    /// A scope as this one that is part of nothing: for work in the background.
    pub(crate) fn apart(&self) -> Self {
        let scope = &self.0.scope;
        let session =
            self.requirement().and_then(|requirement| requirement.observed_at(scope.database));
        let (tags, watch, keys) = (scope.tags.clone(), scope.watch.clone(), scope.keys.clone());
        let permit = scope.permit.clone();
        let scope =
            RecordScope { tags, watch, keys, permit, session, kind: ScopeKind::Apart, ..*scope };
        Self::new(self.0.fences.clone(), scope)
    }

    /// What reads in this scope must see; `None` if that is for the process to say.
    pub(crate) fn requirement(&self) -> Option<&Arc<Requirement>> {
        self.0.requirement.as_ref()
    }

    /// Whether the present scope, or one that it is part of, is computing the answer for a key of the cache that has
    /// these fences: to wait for that would be to wait for itself.
    pub(crate) fn is_computing(fences: &Arc<Fences>, key: &[u8; 32]) -> bool {
        let is_computing = |record: &Self| {
            let same = |inner: &Self| Arc::ptr_eq(&inner.0.fences, fences);
            record.outward().any(|inner| same(inner) && inner.0.scope.keys.contains(key))
        };
        CURRENT.try_with(is_computing).unwrap_or(false)
    }

    /// The permit of the fill that the present scope is part of.
    pub(crate) fn permit() -> Option<Arc<Permit>> {
        let permit =
            |record: &Self| record.outward().find_map(|inner| inner.0.scope.permit.upgrade());
        CURRENT.try_with(permit).ok().flatten()
    }

    /// The keys whose answers are computed in the present scope, and in those that it is part of.
    pub(crate) fn computing() -> Vec<WaitKey> {
        let computing = |record: &Self| {
            let places = |inner: &Self| {
                let cache = Arc::as_ptr(&inner.0.fences).addr();
                inner.0.scope.keys.iter().map(|key| (cache, *key)).collect::<Vec<_>>()
            };
            record.outward().flat_map(places).collect()
        };
        CURRENT.try_with(computing).unwrap_or_default()
    }

    /// Notes in the present scope, if there is one, what a cache has found there and is about to serve.
    pub(crate) fn note_served(
        entry: &Entry,
        fences: &Arc<Fences>,
        (policy, is_stale): (&Policy, bool),
    ) {
        let _ = CURRENT.try_with(|record| {
            if is_stale {
                return record.note_stale();
            }
            record.note_entry(entry, fences);
            if entry.life.is_timed {
                let ttl = entry.ttl().min(policy.longest());
                record.bound(ttl.saturating_sub(entry.age()));
            }
        });
    }

    /// The work has ended, and what came of it may be used for so long where only time bounds it; `None` if nobody says.
    pub(crate) fn close(&self, ttl: Option<Duration>) {
        let Some(outer) = &self.0.outer else { return };
        self.pass_on(ttl);
        // What is wrong with the reads has been noted; that there were none has not.
        if let Err(unfit) = self.basis() {
            outer.mark_uncacheable(unfit);
        }
    }

    /// Passes on what this scope's policy says, while the work may still go on.
    pub(crate) fn pass_on(&self, ttl: Option<Duration>) {
        let Some(outer) = &self.0.outer else { return };
        let tags: Vec<_> = self.own_tags(&self.notes().tags).collect();
        outer.outward().for_each(|record| self.note_tags(record, &tags));
        if self.is_timed() {
            outer.bound_or_refuse(ttl.map(|ttl| self.left().map_or(ttl, |left| left.min(ttl))));
        }
    }

    /// A request is left to its handler that has a policy, with these tags: what comes of it depends on them as if it were
    /// stored. Where the policy says that not all is tracked, only time bounds what comes of it. Without tags, since a
    /// parameter of the path is missing, what it depends on is not known.
    pub(crate) fn note_policy(&self, policy: &Policy, tags: Option<&[PolicyTag]>) {
        let Some(outer) = &self.0.outer else { return };
        match tags {
            Some(tags) => {
                let tags: Vec<_> = tags.iter().flat_map(PolicyTag::with_bulk).collect();
                outer.outward().for_each(|record| self.note_tags(record, &tags));
            }
            None => outer.has_unknown_part(),
        }
        if policy.untracked {
            outer.bound_or_refuse(policy.lasts(false));
        }
    }

    /// The response names tags itself, and is not stored, so nobody has read them.
    pub(crate) fn note_unread_tags(&self) {
        if let Some(outer) = &self.0.outer {
            outer.has_unknown_part();
        }
    }

    fn has_unknown_part(&self) {
        self.outward().for_each(|record| record.notes().has_unknown_part = true);
    }

    /// What came of the work is not for others, and so neither is what it is part of.
    pub(crate) fn refuse(&self, unfit: &Uncacheable) {
        if let Some(outer) = &self.0.outer {
            outer.mark_uncacheable(unfit.clone());
        }
    }

    /// Notes that a read depends on the time of day.
    pub(crate) fn note_clock(&self) {
        for record in self.outward() {
            record.notes().reads_clock = true;
            if record.0.scope.is_kept {
                // It says for how long when it ends.
                break;
            }
        }
    }

    /// Whether nothing but time bounds some of the answer.
    pub(crate) fn is_timed(&self) -> bool {
        let notes = self.notes();
        self.0.scope.untracked || notes.reads_clock || notes.until.is_some()
    }

    /// Shortens a life to that of the parts that only time bounds.
    pub(crate) fn limit(&self, terms: &mut Freshness) {
        if let Some(left) = self.left() {
            terms.ttl = terms.ttl.min(terms.age.saturating_add(left));
        }
    }

    /// This scope, and those that it is part of, from the inside out.
    pub(super) fn outward(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |record| record.0.outer.as_ref())
    }

    /// How long the first of the parts lasts that only time bounds.
    fn left(&self) -> Option<Duration> {
        let until = self.notes().until?;
        Some(until.saturating_duration_since(clock::now()))
    }

    fn note_stale(&self) {
        self.outward().for_each(|record| record.notes().caveats.stale = true);
    }

    fn note_entry(&self, entry: &Entry, fences: &Arc<Fences>) {
        let basis = (entry.epoch(), entry.as_of());
        if is_broken("nested") {
            return;
        }
        for record in self.outward() {
            let is_ours = Arc::ptr_eq(&record.0.fences, fences);
            if !is_ours && entry.life.is_timed && entry.tags().is_empty() {
                // Of another cache, where nothing but time makes it invalid.
                record.notes().reads += 1;
            } else {
                record.note(basis, entry.tags(), None);
            }
        }
    }

    /// Notes in this scope, or one that it is part of, tags of this scope's cache. If the other is of another cache, whose
    /// positions need not be comparable, with what the work proves, as on a hit (`note_entry`).
    pub(super) fn note_tags(&self, record: &Self, tags: &[Tag]) {
        if tags.is_empty() || Arc::ptr_eq(&record.0.fences, &self.0.fences) {
            return record.notes().add(tags);
        }
        match self.0.began {
            Some(basis) => record.note(basis, tags, None),
            None => drop(record.notes().unfit.get_or_insert_with(no_position)),
        }
    }

    fn bound_or_refuse(&self, ttl: Option<Duration>) {
        if let Some(ttl) = ttl {
            return self.bound(ttl);
        }
        let why = "a part of it is bounded by time alone, and nothing says for how long it holds";
        self.mark_uncacheable(Uncacheable::new("unbounded-part", why));
    }

    /// Nothing but time bounds a part, for so long.
    fn bound(&self, left: Duration) {
        let Some(until) = clock::now().checked_add(left) else { return };
        for record in self.outward() {
            let mut notes = record.notes();
            notes.until = Some(notes.until.map_or(until, |known| known.min(until)));
            if record.0.scope.is_kept {
                break;
            }
        }
    }
}
