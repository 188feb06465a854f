//! What later reads must see: what the session has written, and what the scope itself writes.
//!
//! A write raises it. Whoever reads next goes to the primary, or first observes a position there, past the write, that
//! a replica must have replayed or a cache must have followed. A write under way, a transaction and a pool that was
//! given out may commit at any time, so from then on there is no such position.
//!
//! Positions are of one database each. A scope may use several: a write to any of them counts for all, and each has to
//! be asked for a position of its own.

use std::fmt::Debug;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::cache::protocol::must_see;
use crate::clock::{self, Instant};
use crate::entry::{Epoch, Position};
use crate::sync::{Mutex, MutexGuard};
use observations::Observations;
pub(crate) use observe::Arrival;

mod observations;
mod observe;

/// How long after it was given out a pool is surely in use, or not going to be.
const GRACE: Duration = Duration::from_secs(1);

/// A database: one of the positions that a scope must see is of each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatabaseId {
    pub(crate) system_identifier: u64,
    pub(crate) oid: u32,
}

/// What the reads of one scope, and of all within it, must see.
#[derive(Debug, Default)]
pub(crate) struct Requirement {
    /// A request's method says that it writes, perhaps by a pool of its own.
    may_write: AtomicBool,
    /// Of all code that is in no scope, so that what may be open stays so for as long as the process lives.
    is_of_process: bool,
    /// Writes that may commit at any time.
    open: AtomicU64,
    /// Transactions and pools that code in no scope was given.
    lent: AtomicU64,
    /// Writes that have ended, and sessions: each may have written to any database.
    ended: AtomicU64,
    /// When a transaction or a pool was last given out.
    lent_at: Mutex<Option<Instant>>,
    /// Of each database that was asked for a position, or that the session has written to.
    observed: Mutex<Vec<OfDatabase>>,
}

#[derive(Debug, Default)]
struct OfDatabase {
    id: DatabaseId,
    observed: ObservedPosition,
    observations: Observations,
}

#[derive(Clone, Copy, Debug, Default)]
struct ObservedPosition {
    at: Option<(Epoch, Position)>,
    /// How many writes, to whichever database, had ended before it was observed.
    writes: u64,
}

/// What a read must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// All up to here: any server will do that has replayed it, and any cache that has followed it.
    Position(Option<(Epoch, Position)>),
    /// What was written, and nobody has observed a position past that: the primary has it, and can be asked for one.
    Primary,
}

impl Requirement {
    /// Of a scope: for a session that has written to a database, and for a request that may write unseen.
    pub(crate) fn new(
        database: DatabaseId,
        session: Option<(Epoch, Position)>,
        may_write: bool,
    ) -> Self {
        let new = Self { may_write: AtomicBool::new(may_write), ..Self::default() };
        if let Some(session) = session {
            new.join(database, session);
        }
        new
    }

    /// Of all that runs in no scope.
    pub(crate) fn for_process() -> Self {
        Self { is_of_process: true, ..Self::default() }
    }

    /// A write begins. Dropped before its end, it may commit at any time.
    pub(crate) fn begin(&self) -> WriteInProgress<'_> {
        self.open.fetch_add(1, Ordering::AcqRel);
        WriteInProgress { of: self, has_ended: false }
    }

    /// A transaction, or a pool, is given out: what is done with it will not be known.
    pub(crate) fn lend(&self) {
        if self.is_of_process {
            let mut lent_at = self.lent_at();
            *lent_at = Some(clock::now());
            self.lent.fetch_add(1, Ordering::AcqRel);
        } else {
            self.open.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Nothing is under way any more of what code in no scope was given, if that was not just now and no connection is
    /// in use.
    pub(crate) fn take_back(&self, is_idle: impl FnOnce() -> bool) {
        // By one at a time.
        let lent_at = self.lent_at();
        let lent = self.lent.load(Ordering::Acquire);
        if lent > 0 && lent_at.is_some_and(|at| at.elapsed() > GRACE) && is_idle() {
            self.ended.fetch_add(1, Ordering::AcqRel);
            self.lent.fetch_sub(lent, Ordering::AcqRel);
        }
    }

    /// A request within the scope may write unseen.
    pub(crate) fn may_write(&self) {
        self.may_write.store(true, Ordering::Release);
    }

    /// Whether all reads of the scope go to the primary, whatever it writes.
    pub(crate) fn stays_on_primary(&self) -> bool {
        self.may_write.load(Ordering::Acquire)
    }

    /// Takes in what a request within the scope brings of its session. The position is past what the session wrote to this
    /// database. That the session wrote to others too is not known, nor when: it counts as a write that has ended, and each
    /// of them has to be asked for a position of its own.
    pub(crate) fn join(&self, database: DatabaseId, session: (Epoch, Position)) {
        self.update(database, |observed| {
            let before = self.ended.fetch_add(1, Ordering::AcqRel);
            if observed.at.is_some_and(|(epoch, _)| epoch != session.0) {
                // Which of the two histories is over is not known here.
                return;
            }
            observed.at = must_see(observed.at, Some(session));
            // A write of the scope's own may be past the session's position.
            if observed.writes == before {
                observed.writes = before + 1;
            }
        });
    }

    /// Discards the position past what code outside any scope has written, if it is of another epoch than the present
    /// one: it can't be compared with positions of servers now, so the next read or lookup observes another.
    pub(crate) fn begin_epoch(&self, database: DatabaseId, now: Epoch) {
        if !self.is_of_process || !now.is_known() {
            return;
        }
        self.update(database, |observed| {
            if observed.at.is_some_and(|(epoch, _)| epoch != now) {
                observed.at = None;
                self.ended.fetch_add(1, Ordering::AcqRel);
            }
        });
    }

    /// What a read of the database needs.
    pub(crate) fn for_reads(&self, database: DatabaseId) -> Needs {
        let observed = self.observed(database);
        if self.may_write.load(Ordering::Acquire) || self.is_open() || self.is_ahead_of(observed) {
            Needs::Primary
        } else {
            Needs::Position(observed.at)
        }
    }

    /// What a lookup in a cache that follows the database must find.
    pub(crate) fn for_lookups(&self, database: DatabaseId) -> Needs {
        let observed = self.observed(database);
        let is_open = !self.is_of_process && self.is_open();
        if is_open || self.is_ahead_of(observed) {
            Needs::Primary
        } else {
            Needs::Position(observed.at)
        }
    }

    /// The last position of the database that is known.
    pub(crate) fn observed_at(&self, database: DatabaseId) -> Option<(Epoch, Position)> {
        self.observed(database).at
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0 || self.lent.load(Ordering::Acquire) > 0
    }

    fn is_ahead_of(&self, observed: ObservedPosition) -> bool {
        self.ended() > observed.writes
    }

    fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    fn observed(&self, database: DatabaseId) -> ObservedPosition {
        let all = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.iter().find(|of| of.id == database);
        of.map(|of| of.observed).unwrap_or_default()
    }

    fn observations(&self, database: DatabaseId) -> Observations {
        self.with(database, |of| of.observations.clone())
    }

    fn update<T>(
        &self,
        database: DatabaseId,
        update: impl FnOnce(&mut ObservedPosition) -> T,
    ) -> T {
        self.with(database, |of| update(&mut of.observed))
    }

    fn with<T>(&self, database: DatabaseId, with: impl FnOnce(&mut OfDatabase) -> T) -> T {
        let mut all = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(of) = all.iter_mut().find(|of| of.id == database) {
            return with(of);
        }
        let mut of = OfDatabase { id: database, ..OfDatabase::default() };
        let done = with(&mut of);
        all.push(of);
        done
    }

    fn lent_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.lent_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct WriteInProgress<'a> {
    of: &'a Requirement,
    has_ended: bool,
}

impl WriteInProgress<'_> {
    /// It has ended: nothing of it is going to commit.
    pub(crate) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for WriteInProgress<'_> {
    fn drop(&mut self) {
        // Nobody was told of one that did not come to its end. That is no reason to read from the primary for as long
        // as the process lives.
        if self.has_ended || self.of.is_of_process {
            // In this order, so that nobody finds it neither open nor ended.
            self.of.ended.fetch_add(1, Ordering::AcqRel);
            self.of.open.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
#[cfg(not(any(tidegate_loom, tidegate_shuttle)))]
mod tests;
