//! Collects the reads of a computation while it runs.
//!
//! The cache opens a [`Record`] around each handler or loader. Reads through `Database::reader()` find it in a task-local
//! variable, the scope, and record the server's position and the tables. At the end, the record says whether the response
//! can be stored, and up to which position it is complete. Futures that are joined or selected within the handler are in
//! its scope. A task that the handler spawns is not: pass the scope on with [`Record::carry`]. Otherwise the task's reads
//! make every response uncacheable that is being computed at the time, since any of them may contain the result (`unscoped`).
//!
//! Scopes nest: an outer scope records everything that an inner one does (`nesting`), and later reads in any of them must
//! see what one of them has written (`requirement`).

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Weak};

use tokio::task::futures::TaskLocalFuture;

use super::fence::Fences;
use super::observer::ReadObserver;
use super::template::PolicyTag;
use super::uncacheable::Uncacheable;
use crate::entry::{LogPosition, Tag};
use crate::sync::{Mutex, MutexExt, MutexGuard};
use notes::{Caveats, RecordNotes, STALE_PART};
pub(crate) use proof::SimulatedProof;
use proof::{RecordProof, lower, no_position, proven_by_primary};
pub(crate) use requirement::{Arrival, DatabaseId, Needs, Requirement};
pub(crate) use scope::{RecordScope, ScopeKind};
pub(crate) use unscoped::{EndedUnscopedReads, UNSCOPED_READ, UnscopedRead};
#[cfg(feature = "postgres")]
pub(crate) use {requirement::WriteInProgress, unscoped::statements::warn_of_unscoped_reads};

mod nesting;
mod notes;
mod outside;
mod proof;
#[cfg(feature = "postgres")]
mod read;
mod requirement;
mod scope;
mod unscoped;

tokio::task_local! {
    static CURRENT: Record;
}

/// The reason for a response that was read from a replica that may be too far behind.
pub(crate) const REPLICA_BEHIND: &str = "replica-behind";

/// Why a response is not stored: a read of the database failed.
pub(crate) const READ_FAILED: &str = "read-failed";

/// The reads and writes of one scope.
///
/// A *scope* is the code whose reads count for one result: a request under a [`CacheLayer`](crate::CacheLayer) or
/// [`ScopeLayer`](crate::ScopeLayer), the loading of a value, or work under [`detached`](Self::detached). Scopes nest.
/// A task that was spawned within a scope is outside the scope, unless it runs under [`carry`](Self::carry).
///
/// Reads and writes through `Database` are recorded automatically. Code that reads or writes by other means reports
/// that to the record of its scope:
///
/// ```
/// use tidegate::{Record, Uncacheable};
///
/// # async fn handler() {
/// if let Some(record) = Record::current() {
///     record.mark_uncacheable(Uncacheable::new("weather", "the weather service was called"));
/// }
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Record(Arc<RecordInner>);

#[derive(Debug)]
struct RecordInner {
    fences: Arc<Fences>,
    scope: RecordScope,
    /// What a read of the primary would prove if it began together with the work.
    began: Option<LogPosition>,
    /// Reads and lookups outside any scope that had ended when the work began.
    unscoped_reads: EndedUnscopedReads,
    notes: Mutex<RecordNotes>,
    /// The scope that this one is part of.
    outer: Option<Record>,
    /// What reads must see; `None` in a value's scope without an outer one, where the process's requirement applies.
    requirement: Option<Arc<Requirement>>,
    /// This scope or an outer one belongs to a request or a job. A lookup outside any scope may then run in a task that
    /// it spawned.
    is_rooted: bool,
}

impl Record {
    /// Opens a scope, within the current one if there is one.
    pub(crate) fn new(fences: Arc<Fences>, mut scope: RecordScope) -> Self {
        let present = Self::current();
        let unscoped_reads = ended_unscoped_reads(&scope, present.as_ref());
        // Detached work shares the requirement too: the current scope may read what it wrote.
        let requirement = scope.requirement(present.as_ref().and_then(Self::requirement));
        let outer = present.filter(|_| scope.kind != ScopeKind::Apart);
        let mut is_rooted = scope.kind != ScopeKind::Value;
        if let Some(outer) = &outer {
            is_rooted |= outer.0.is_rooted;
            scope.followed |= outer.is_followed();
            if !scope.is_kept {
                scope.max_staleness = outer.0.scope.max_staleness;
            }
        }
        let began = proven_by_primary(&fences);
        Self(Arc::new(RecordInner {
            fences,
            scope,
            began,
            unscoped_reads,
            notes: Mutex::default(),
            outer,
            requirement,
            is_rooted,
        }))
    }

    /// Adds the policy's tags, before any work is in this record's scope.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        match Arc::get_mut(&mut self.0) {
            Some(inner) => inner.scope.tags.extend_from_slice(tags),
            None => self.mark_uncacheable(Uncacheable::new(
                "late-tags",
                "tags were added to it after its handler had begun",
            )),
        }
    }

    /// The record of the current scope, if there is one.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// A part of finished work, with only `tags` of the scope's tags.
    pub(crate) fn part(&self, tags: Vec<PolicyTag>) -> Self {
        let RecordInner { fences, scope, began, unscoped_reads, requirement, .. } = &*self.0;
        let own: Vec<Tag> = tags.iter().map(PolicyTag::tag).collect();
        let others = scope.tags.iter().map(PolicyTag::tag).filter(|tag| !own.contains(tag));
        let others: BTreeSet<Tag> = others.collect();
        let mut notes = self.notes().clone();
        notes.tags.retain(|tag| !others.contains(tag));
        let (observer, keys, permit) = (scope.observer.clone(), Vec::new(), Weak::new());
        let scope = RecordScope { tags, observer, keys, permit, ..*scope };
        Self(Arc::new(RecordInner {
            fences: fences.clone(),
            scope,
            began: *began,
            unscoped_reads: *unscoped_reads,
            notes: Mutex::new(notes),
            // The outer scope already contains everything from the whole record.
            outer: None,
            requirement: requirement.clone(),
            is_rooted: self.0.is_rooted,
        }))
    }

    /// Runs a future in this record's scope.
    pub fn scope<F: Future>(&self, work: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self.clone(), work)
    }

    /// Runs a function in this record's scope.
    pub fn sync_scope<R>(&self, work: impl FnOnce() -> R) -> R {
        CURRENT.sync_scope(self.clone(), work)
    }

    /// Runs a future in the current scope, for a task that is about to be spawned.
    ///
    /// ```
    /// # async fn load() {}
    /// # async fn handler() {
    /// let task = tokio::spawn(tidegate::Record::carry(load()));
    /// # }
    /// ```
    pub fn carry<F: Future>(work: F) -> impl Future<Output = F::Output> {
        let record = Self::current();
        async move {
            match record {
                Some(record) => record.scope(work).await,
                None => work.await,
            }
        }
    }

    /// Runs a future that contributes to no response, in a scope of its own: a background job, or a request that does
    /// not pass through a `CacheLayer`. Without that scope, no response that is being computed during one of its reads
    /// would be stored (`unscoped-read`). Its reads see the future's own earlier writes, but need not see the process's
    /// other writes.
    pub fn detached<F: Future>(work: F) -> impl Future<Output = F::Output> {
        Self::apart_from_all().scope(work)
    }

    /// A scope that contributes to no response.
    pub(crate) fn apart_from_all() -> Self {
        let nothing = Arc::new(Fences::new(0));
        Self::new(nothing, RecordScope { kind: ScopeKind::Apart, ..RecordScope::default() })
    }

    /// What reads in this scope must see; `None` if the process's requirement applies.
    pub(crate) fn requirement(&self) -> Option<&Arc<Requirement>> {
        self.0.requirement.as_ref()
    }

    /// This scope and those around it, from the inside out.
    fn outward(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |record| record.0.outer.as_ref())
    }

    fn note(&self, basis: LogPosition, tags: &[Tag], server: Option<&Arc<str>>) {
        let mut notes = self.notes();
        notes.reads += 1;
        if let (None, Some(server)) = (&notes.server, server) {
            notes.server = Some(server.clone());
        }
        if self.0.scope.is_kept || self.0.scope.observer.is_some() {
            notes.depend(basis, tags);
        }
    }

    /// Whether reads have to be recorded.
    pub(crate) fn is_followed(&self) -> bool {
        self.0.scope.followed
    }

    /// Who learns what is read, if anyone does.
    pub(crate) fn observer(&self) -> Option<&dyn ReadObserver> {
        self.0.scope.observer.as_deref()
    }

    /// The proof that the response would have if it were stored, or why it could not be stored.
    pub(crate) fn simulated_proof(&self) -> Result<SimulatedProof, Uncacheable> {
        let notes = self.notes();
        notes.is_fit()?;
        if !self.0.scope.untracked {
            self.attributed(&notes)?;
        }
        let began = self.0.began.ok_or_else(no_position)?;
        Ok(SimulatedProof { began, tags: notes.tags.iter().copied().collect() })
    }

    /// Marks the response as uncacheable, whatever its policy, and also the responses of outer scopes, since they
    /// contain it. The first reason is kept.
    #[expect(clippy::needless_pass_by_value, reason = "who says so has no further use for it")]
    pub fn mark_uncacheable(&self, uncacheable: Uncacheable) {
        for record in self.outward() {
            record.notes().excluded.get_or_insert_with(|| uncacheable.clone());
        }
    }

    /// Notes why it is not known, or not known for long enough, what the response depends on. That does not matter under an
    /// untracked policy. The first reason is kept.
    #[expect(clippy::needless_pass_by_value, reason = "who says so has no further use for it")]
    pub(crate) fn note_uncacheable(&self, uncacheable: Uncacheable) {
        for record in self.outward() {
            let mut notes = record.notes();
            notes.caveats.behind |= uncacheable.token == REPLICA_BEHIND;
            notes.uncacheable.get_or_insert_with(|| uncacheable.clone());
            if record.0.scope.is_kept && record.0.scope.untracked {
                // This scope's policy is untracked: its TTL bounds the outer response too.
                break;
            }
        }
    }

    /// Records a write that was made without `Database`, for code that has no `Database` at hand (otherwise, see
    /// `Database::wrote`). Call it after the write has ended: the response is then not stored, and later reads in this
    /// scope see the write.
    pub fn wrote(&self) {
        self.note_write();
        if let Some(requirement) = self.requirement() {
            requirement.begin().end();
        }
    }

    /// Records that the work writes, so its response is not stored.
    pub(crate) fn note_write(&self) {
        self.outward().for_each(|record| record.notes().wrote = true);
    }

    /// Whether the work wrote to the database.
    pub(crate) fn has_written(&self) -> bool {
        self.notes().wrote
    }

    /// The first server that was read.
    pub(crate) fn server(&self) -> Option<Arc<str>> {
        self.notes().server.clone()
    }

    /// Why the response may be staler than guaranteed, even if another reason keeps it from being stored, and with or
    /// without a policy.
    pub(crate) fn caveat(&self) -> Option<&'static str> {
        let Caveats { stale, behind } = self.notes().caveats;
        let caveats = [(behind, REPLICA_BEHIND), (stale, STALE_PART)];
        caveats.into_iter().find(|(is_so, _)| *is_so).map(|(_, caveat)| caveat)
    }

    /// Why a read that a replica could have served went to the primary, if there was one.
    pub(crate) fn why_primary(&self) -> Option<&'static str> {
        self.notes().passed_over
    }

    /// What the work proves, or why its response can't be stored.
    pub(crate) fn basis(&self) -> Result<RecordProof, Uncacheable> {
        let notes = self.notes();
        notes.is_fit()?;
        if !self.0.scope.untracked {
            self.attributed(&notes)?;
        }
        let names_tags = self.0.scope.untracked || !self.0.scope.tags.is_empty();
        // What the policy's tags stand for may have been read as soon as the work began, by other means than `Database`.
        let proven = if names_tags { lower(notes.as_of, self.0.began)? } else { notes.as_of };
        let basis = proven.ok_or_else(no_position)?;
        let tags = notes.tags.iter().copied().chain(self.own_tags(&notes.tags)).collect();
        Ok(RecordProof { basis, tags })
    }

    /// Whether the response can still be stored, judged by what has been recorded so far.
    pub(crate) fn can_be_stored(&self) -> Result<(), Uncacheable> {
        let notes = self.notes();
        notes.is_fit()?;
        match &notes.uncacheable {
            Some(uncacheable) if !self.0.scope.untracked => Err(uncacheable.clone()),
            _ => Ok(()),
        }
    }

    /// Whether the response is for its own request alone, even if that only reports a failure: something other than a failed
    /// read excludes it from being stored.
    pub(crate) fn is_excluded(&self) -> bool {
        self.can_be_stored().is_err_and(|uncacheable| uncacheable.token != READ_FAILED)
    }

    /// Checks that everything that the response depends on is known.
    fn attributed(&self, notes: &RecordNotes) -> Result<(), Uncacheable> {
        if let Some(uncacheable) = &notes.uncacheable {
            return Err(uncacheable.clone());
        }
        if notes.open_reads > 0 {
            return Err(Uncacheable::new(
                READ_FAILED,
                "a read that was declared has not been reported as complete: call DeclaredRead::end",
            ));
        }
        if self.may_include_unscoped_reads() {
            let why = "a read outside any scope may have gone into the response; use ScopeLayer for layers around \
                       the cache, Database::background for background jobs, and Record::carry for spawned tasks";
            return Err(Uncacheable::new(UNSCOPED_READ, why));
        }
        if notes.reads == 0 {
            let why = "nothing was read through Database::reader(); if the policy's tags cover \
                       everything that the response depends on, declare that with Policy::untracked";
            return Err(Uncacheable::new("no-reads", why));
        }
        Ok(())
    }

    /// Whether a read or a lookup outside any scope may have been part of the work. Lookups count only if a request or a
    /// job may have spawned their task.
    fn may_include_unscoped_reads(&self) -> bool {
        let ended = self.0.unscoped_reads;
        !ended.has_no_read_since() || self.0.is_rooted && !ended.has_no_lookup_since()
    }

    /// The policy's tags that no read has added.
    fn own_tags<'a>(&'a self, read: &'a BTreeSet<Tag>) -> impl Iterator<Item = Tag> + 'a {
        let all = self.0.scope.tags.iter().flat_map(PolicyTag::with_bulk);
        all.filter(|tag| !read.contains(tag))
    }

    fn notes(&self) -> MutexGuard<'_, RecordNotes> {
        self.0.notes.lock_unpoisoned()
    }
}

/// The reads and lookups outside any scope that had ended when the work began. Inner work counts from the beginning of the
/// outermost scope, which may have spawned a task whose result it uses. Background jobs are excluded, since they may run
/// as long as the process.
fn ended_unscoped_reads(scope: &RecordScope, present: Option<&Record>) -> EndedUnscopedReads {
    let is_apart = |kind| kind == ScopeKind::Apart;
    let outer = present.filter(|outer| !is_apart(scope.kind) && !is_apart(outer.0.scope.kind));
    let counts_own = || present.is_some_and(|present| present.0.unscoped_reads.counts_own());
    let unscoped_reads = outer.map(|outer| outer.0.unscoped_reads).or(scope.unscoped_reads);
    unscoped_reads.unwrap_or_else(|| EndedUnscopedReads::count(counts_own()))
}
