//! Scopes within scopes.
//!
//! Outer scopes record the reads of an inner scope as they happen, so these count even if the inner work does not complete.
//! An entry from a cache counts like the reads that it was computed from. At its end, an inner scope passes its policy's
//! tags on to the outer one, and its lifetime if only a TTL bounds it.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::futures::TaskLocalFuture;

use super::proof::no_position;
use super::{CURRENT, DatabaseId, Needs, Record, RecordScope, ScopeKind};
use crate::broken::is_broken;
use crate::cache::fence::Fences;
use crate::cache::freshness::Freshness;
use crate::cache::permit::Permit;
use crate::cache::policy::Policy;
use crate::cache::template::PolicyTag;
use crate::cache::uncacheable::Uncacheable;
use crate::cache::waits::{WaitKey, wait_key};
use crate::clock;
use crate::entry::{Entry, Tag};

impl Record {
    /// What a lookup in a cache that follows the database must see: the writes of the current scope and of its session.
    /// `None` outside any scope.
    pub(crate) fn required(database: DatabaseId) -> Option<Needs> {
        let required = |record: &Self| Some(record.requirement()?.for_lookups(database));
        CURRENT.try_with(required).ok().flatten()
    }

    /// Whether the current code runs outside any scope.
    pub(crate) fn is_in_none() -> bool {
        CURRENT.try_with(|_| ()).is_err()
    }

    /// Marks the current scope, if there is one, as containing a response whose service was called outside any scope, such
    /// as by the worker of `tower::buffer`: its dependencies were not recorded.
    pub(crate) fn note_unknown_part() {
        let _ = CURRENT.try_with(Self::has_unknown_part);
    }

    /// Creates a future and runs it, both in this record's scope, since a service may already read when it is called.
    pub(crate) fn enter<F: Future>(&self, begin: impl FnOnce() -> F) -> TaskLocalFuture<Self, F> {
        let work = self.sync_scope(begin);
        self.scope(work)
    }

    /// A copy of this scope without an outer one, for work in the background.
    pub(crate) fn apart(&self) -> Self {
        let scope = &self.0.scope;
        let session =
            self.requirement().and_then(|requirement| requirement.observed_at(scope.database));
        let (tags, observer, keys) =
            (scope.tags.clone(), scope.observer.clone(), scope.keys.clone());
        let permit = scope.permit.clone();
        let scope =
            RecordScope { tags, observer, keys, permit, session, kind: ScopeKind::Apart, ..*scope };
        Self::new(self.0.fences.clone(), scope)
    }

    /// Whether the current scope, or one around it, is computing this key of the cache with these fences. Waiting for the
    /// key would then deadlock.
    pub(crate) fn is_computing(fences: &Arc<Fences>, key: &[u8; 32]) -> bool {
        let is_computing = |record: &Self| {
            let same = |inner: &Self| Arc::ptr_eq(&inner.0.fences, fences);
            record.outward().any(|inner| same(inner) && inner.0.scope.keys.contains(key))
        };
        CURRENT.try_with(is_computing).unwrap_or(false)
    }

    /// The permit of the fill that includes the current scope.
    pub(crate) fn permit() -> Option<Arc<Permit>> {
        let permit =
            |record: &Self| record.outward().find_map(|inner| inner.0.scope.permit.upgrade());
        CURRENT.try_with(permit).ok().flatten()
    }

    /// The keys that the current scope and the scopes around it compute.
    pub(crate) fn computing() -> Vec<WaitKey> {
        let computing = |record: &Self| {
            let places = |inner: &Self| {
                let keys = inner.0.scope.keys.iter();
                keys.map(|key| wait_key(&inner.0.fences, key)).collect::<Vec<_>>()
            };
            record.outward().flat_map(places).collect()
        };
        CURRENT.try_with(computing).unwrap_or_default()
    }

    /// Adds the dependencies of an entry that is about to be served to the current scope, if there is one.
    pub(crate) fn note_served(
        entry: &Entry,
        fences: &Arc<Fences>,
        policy: &Policy,
        is_stale: bool,
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

    /// Adds the tags that the response itself names, once the work is done.
    pub(crate) fn depend_on(&self, tags: impl Iterator<Item = Tag>) {
        let tags: Vec<Tag> = tags.collect();
        self.outward().for_each(|record| self.note_tags(record, &tags));
    }

    /// Ends the work. `ttl` is how long its result may be used if only a TTL bounds it; `None` if that is unknown.
    pub(crate) fn close(&self, ttl: Option<Duration>) {
        let Some(outer) = &self.0.outer else { return };
        self.pass_on(ttl);
        // Problems with single reads were passed on as they happened; the lack of any read was not.
        if let Err(uncacheable) = self.basis() {
            outer.note_uncacheable(uncacheable);
        }
    }

    /// Passes this scope's tags and lifetime on to the outer one, while the work may still continue.
    pub(crate) fn pass_on(&self, ttl: Option<Duration>) {
        let Some(outer) = &self.0.outer else { return };
        let tags: Vec<_> = self.0.scope.tags.iter().flat_map(PolicyTag::with_bulk).collect();
        outer.outward().for_each(|record| self.note_tags(record, &tags));
        if self.is_timed() {
            outer.bound_or_refuse(ttl.map(|ttl| self.left().map_or(ttl, |left| left.min(ttl))));
        }
    }

    /// Passes a policy on to the outer scope for a request that bypasses the cache: the response depends on the policy's
    /// tags as if it were stored, and under an untracked policy only a TTL bounds it. If a parameter of the path is
    /// missing, `tags` is `None`, and the response's dependencies are unknown.
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

    /// Marks the outer scope as containing a response whose own tags were not read, since it is not stored.
    pub(crate) fn note_unread_tags(&self) {
        if let Some(outer) = &self.0.outer {
            outer.has_unknown_part();
        }
    }

    fn has_unknown_part(&self) {
        self.outward().for_each(|record| record.notes().has_unknown_part = true);
    }

    /// Marks the outer scope as uncacheable, since it contains this uncacheable result.
    pub(crate) fn refuse(&self, uncacheable: &Uncacheable) {
        if let Some(outer) = &self.0.outer {
            outer.note_uncacheable(uncacheable.clone());
        }
    }

    /// Whether only a TTL bounds a part of the response.
    pub(crate) fn is_timed(&self) -> bool {
        let notes = self.notes();
        self.0.scope.untracked || notes.reads_clock || notes.until.is_some()
    }

    /// Shortens the TTL to the remaining lifetime of the parts that only a TTL bounds.
    pub(crate) fn limit(&self, freshness: &mut Freshness) {
        if let Some(left) = self.left() {
            freshness.ttl = freshness.ttl.min(freshness.age.saturating_add(left));
        }
    }

    /// The shortest remaining lifetime of the parts that only a TTL bounds.
    fn left(&self) -> Option<Duration> {
        let until = self.notes().until?;
        Some(until.saturating_duration_since(clock::now()))
    }

    fn note_stale(&self) {
        self.outward().for_each(|record| record.notes().caveats.stale = true);
    }

    fn note_entry(&self, entry: &Entry, fences: &Arc<Fences>) {
        if is_broken("nested") {
            return;
        }
        for record in self.outward() {
            let is_ours = Arc::ptr_eq(&record.0.fences, fences);
            if !is_ours && entry.life.is_timed && entry.tags().is_empty() {
                // From another cache, where only its TTL invalidates it.
                record.notes().reads += 1;
            } else {
                record.note(entry.basis, entry.tags(), None);
            }
        }
    }

    /// Adds tags of this scope's cache that no read has added to `record`, which is this scope or one around it. What they
    /// stand for may have been read as soon as this scope's work began, so that position counts too.
    fn note_tags(&self, record: &Self, tags: &[Tag]) {
        if tags.is_empty() {
            return;
        }
        match self.0.began {
            None => drop(record.notes().excluded.get_or_insert_with(no_position)),
            Some(basis) if Arc::ptr_eq(&record.0.fences, &self.0.fences) => {
                record.notes().depend(basis, tags);
            }
            // Of another cache: this is all that is known of the work, as on a hit.
            Some(basis) => record.note(basis, tags, None),
        }
    }

    fn bound_or_refuse(&self, ttl: Option<Duration>) {
        if let Some(ttl) = ttl {
            return self.bound(ttl);
        }
        let why = "a part of it is bounded only by a TTL, and that TTL is unknown";
        self.note_uncacheable(Uncacheable::new("unbounded-part", why));
    }

    /// Records that only a TTL bounds a part, and that the part lasts for `left`.
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
