//! What later reads must see: what the session has written, and what the scope itself writes.
//!
//! A write raises the requirement. The next read goes to the primary, or first observes a position there that is past the
//! write, and that a replica must have replayed or a cache must have followed. A write in progress, an open transaction,
//! and a pool that was handed out may commit at any time: there is no such position until the write or the transaction has
//! ended, and none at all for a pool.
//!
//! A position belongs to one database. A scope may use several databases: a write to any of them counts for all, and each
//! needs a position of its own.

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::cache::protocol::must_see;
use crate::entry::{Epoch, LogPosition};
use crate::sync::{Mutex, MutexExt};
use observations::Observations;
pub(crate) use observe::Arrival;

mod observations;
mod observe;
#[cfg(feature = "postgres")]
mod reads;

/// Identifies a database. A scope must see one position of each database that it uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DatabaseId {
    pub(crate) system_identifier: u64,
    pub(crate) oid: u32,
}

/// What the reads of a scope and of all scopes within it must see.
#[derive(Debug, Default)]
pub(crate) struct Requirement {
    /// The request's method implies a write, perhaps through a pool of its own.
    may_write: AtomicBool,
    /// This is the requirement of all code outside any scope, so a write that is never closed would stay open until the
    /// process ends.
    is_of_process: bool,
    /// Writes that may commit at any time.
    open: AtomicU64,
    /// Pools that were handed out to code outside any scope.
    lent: AtomicU64,
    /// The number of ended writes and of joined sessions; each may have written to any database.
    ended: AtomicU64,
    /// When a pool was last handed out.
    #[cfg(feature = "postgres")]
    lent_at: Mutex<Option<crate::clock::Instant>>,
    /// One item per database whose position was observed or that the session has written to.
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
    at: Option<LogPosition>,
    /// How many writes, to any database, had ended before the position was observed.
    writes: u64,
}

/// What a read or a lookup must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Everything up to this position: any server that has replayed it will do, and any cache that has followed it.
    Position(Option<LogPosition>),
    /// A write that is at no known position yet: only the primary has it, and a position past it can be observed there.
    Primary,
}

impl Requirement {
    /// The requirement of a scope, with the session's last write and whether the request may write without `Database`.
    pub(crate) fn new(database: DatabaseId, session: Option<LogPosition>, may_write: bool) -> Self {
        let new = Self { may_write: AtomicBool::new(may_write), ..Self::default() };
        if let Some(session) = session {
            new.join(database, session);
        }
        new
    }

    /// Begins a write. If the result is dropped before [`end`](WriteInProgress::end), the write may commit at any time.
    pub(crate) fn begin(&self) -> WriteInProgress<'_> {
        self.open();
        WriteInProgress { of: self, has_ended: false }
    }

    /// Begins a transaction that may write.
    pub(crate) fn open(&self) {
        self.open.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends a transaction, which has written something or not.
    pub(crate) fn close(&self, has_written: bool) {
        // In this order, so that a concurrent reader sees a write as open, as ended, or as both.
        if has_written {
            self.ended.fetch_add(1, Ordering::AcqRel);
        }
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    /// Records that a request within the scope may write without `Database`.
    pub(crate) fn may_write(&self) {
        self.may_write.store(true, Ordering::Release);
    }

    /// Adds the session position of a request within the scope. The position is past the session's writes to this database.
    /// Whether and when the session wrote to other databases is unknown, so it counts as an ended write, and each of them
    /// needs a position of its own.
    pub(crate) fn join(&self, database: DatabaseId, session: LogPosition) {
        self.update(database, |observed| {
            let before = self.ended.fetch_add(1, Ordering::AcqRel);
            if observed.at.is_some_and(|at| at.epoch != session.epoch) {
                // It is not known here which of the two epochs is over.
                return;
            }
            observed.at = must_see(observed.at, Some(session));
            // The scope's own writes may be past the session's position.
            if observed.writes == before {
                observed.writes = before + 1;
            }
        });
    }

    /// For code outside any scope: discards the observed position if it belongs to another epoch than the current one. It
    /// can't be compared with the servers' positions any more, so the next read or lookup observes another.
    pub(crate) fn begin_epoch(&self, database: DatabaseId, now: Epoch) {
        if !self.is_of_process || !now.is_known() {
            return;
        }
        self.update(database, |observed| {
            if observed.at.is_some_and(|at| at.epoch != now) {
                observed.at = None;
                self.ended.fetch_add(1, Ordering::AcqRel);
            }
        });
    }

    /// What a lookup in a cache that follows the database needs.
    pub(crate) fn for_lookups(&self, database: DatabaseId) -> Needs {
        let observed = self.observed(database);
        let is_open = !self.is_of_process && self.is_open();
        if is_open || self.is_ahead_of(observed) {
            Needs::Primary
        } else {
            Needs::Position(observed.at)
        }
    }

    /// The last observed position of the database.
    pub(crate) fn observed_at(&self, database: DatabaseId) -> Option<LogPosition> {
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
        let all = self.observed.lock_unpoisoned();
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
        let mut all = self.observed.lock_unpoisoned();
        if let Some(of) = all.iter_mut().find(|of| of.id == database) {
            return with(of);
        }
        let mut of = OfDatabase { id: database, ..OfDatabase::default() };
        let done = with(&mut of);
        all.push(of);
        done
    }
}

/// A write in progress.
#[derive(Debug)]
pub(crate) struct WriteInProgress<'a> {
    of: &'a Requirement,
    has_ended: bool,
}

impl WriteInProgress<'_> {
    /// Ends the write: nothing of it will commit later.
    pub(crate) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for WriteInProgress<'_> {
    fn drop(&mut self) {
        // A write of the process that did not complete was reported to no client. It must not keep reads on the primary
        // until the process ends.
        if self.has_ended || self.of.is_of_process {
            self.of.close(true);
        }
    }
}

#[cfg(test)]
#[cfg(feature = "postgres")]
mod tests;
