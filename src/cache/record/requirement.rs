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
    observed: Mutex<Vec<(DatabaseId, Observed)>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Observed {
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
    pub(crate) fn of_process() -> Self {
        Self { is_of_process: true, ..Self::default() }
    }

    /// A write begins. Dropped before its end, it may commit at any time.
    pub(crate) fn begin(&self) -> Write<'_> {
        self.open.fetch_add(1, Ordering::AcqRel);
        Write { of: self, has_ended: false }
    }

    /// A transaction, or a pool, is given out: what is done with it will not be known.
    pub(crate) fn lend(&self) {
        if self.is_of_process {
            *self.lent_at() = Some(clock::now());
            self.lent.fetch_add(1, Ordering::AcqRel);
        } else {
            self.open.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Nothing is under way any more of what code in no scope was given, if that was not just now and no connection is
    /// in use. By one at a time.
    pub(crate) fn take_back(&self, is_idle: impl FnOnce() -> bool) {
        let (lent, lent_at) = (self.lent.load(Ordering::Acquire), *self.lent_at());
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
    pub(crate) fn of_reads(&self, database: DatabaseId) -> Needs {
        let observed = self.observed(database);
        if self.may_write.load(Ordering::Acquire) || self.is_open() || self.is_ahead_of(observed) {
            Needs::Primary
        } else {
            Needs::Position(observed.at)
        }
    }

    /// What a lookup in a cache that follows the database must find.
    pub(crate) fn of_lookups(&self, database: DatabaseId) -> Needs {
        let observed = self.observed(database);
        let is_open = !self.is_of_process && self.is_open();
        if is_open || self.is_ahead_of(observed) {
            Needs::Primary
        } else {
            Needs::Position(observed.at)
        }
    }

    /// Whether observing a position would let replicas serve reads again.
    pub(crate) fn can_be_observed(&self, database: DatabaseId) -> bool {
        !self.is_open() && self.is_ahead_of(self.observed(database))
    }

    /// What a lookup in a cache that follows the database must find; asks for a position on its primary if that is not
    /// known.
    pub(crate) async fn observe<E>(
        &self,
        database: DatabaseId,
        position: impl Future<Output = Result<(Epoch, Position), E>>,
    ) -> Result<Option<(Epoch, Position)>, E> {
        if let Needs::Position(known) = self.of_lookups(database) {
            return Ok(known);
        }
        let writes = self.ended.load(Ordering::Acquire);
        let at = position.await?;
        Ok(self.update(database, |observed| {
            observed.at = must_see(observed.at, Some(at));
            observed.writes = observed.writes.max(writes);
            observed.at
        }))
    }

    /// The last position of the database that is known.
    pub(crate) fn observed_at(&self, database: DatabaseId) -> Option<(Epoch, Position)> {
        self.observed(database).at
    }

    fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire) > 0 || self.lent.load(Ordering::Acquire) > 0
    }

    fn is_ahead_of(&self, observed: Observed) -> bool {
        self.ended.load(Ordering::Acquire) > observed.writes
    }

    fn observed(&self, database: DatabaseId) -> Observed {
        let all = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        let of = all.iter().find(|(of, _)| *of == database);
        of.map(|(_, observed)| *observed).unwrap_or_default()
    }

    fn update<T>(&self, database: DatabaseId, update: impl FnOnce(&mut Observed) -> T) -> T {
        let mut all = self.observed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, observed)) = all.iter_mut().find(|(of, _)| *of == database) {
            return update(observed);
        }
        let mut observed = Observed::default();
        let updated = update(&mut observed);
        all.push((database, observed));
        updated
    }

    fn lent_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.lent_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A write under way.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    of: &'a Requirement,
    has_ended: bool,
}

impl Write<'_> {
    /// It has ended: nothing of it is going to commit.
    pub(crate) fn end(mut self) {
        self.has_ended = true;
    }
}

impl Drop for Write<'_> {
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

#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use super::*;

    const A: DatabaseId = DatabaseId { system_identifier: 7, oid: 5 };
    const B: DatabaseId = DatabaseId { system_identifier: 7, oid: 6 };
    const PRIMARY: (Needs, Needs) = (Needs::Primary, Needs::Primary);

    fn at(epoch: u64, position: u64) -> (Epoch, Position) {
        (Epoch::new(epoch), Position::new(position))
    }

    async fn observe(requirement: &Requirement, to: (Epoch, Position)) {
        requirement.observe(A, ready(Ok::<_, Infallible>(to))).await.unwrap();
    }

    #[tokio::test]
    async fn a_write_that_has_ended_needs_a_position_that_was_observed_after_it() {
        let requirement = Requirement::new(A, Some(at(1, 5)), false);
        assert_eq!(requirement.of_reads(A), Needs::Position(Some(at(1, 5))));
        let write = requirement.begin();
        assert_eq!((requirement.of_reads(A), requirement.of_lookups(A)), PRIMARY);
        observe(&requirement, at(1, 6)).await;
        write.end();
        assert_eq!(requirement.of_reads(A), Needs::Primary, "it was observed too early");
        observe(&requirement, at(1, 7)).await;
        assert_eq!(requirement.of_reads(A), Needs::Position(Some(at(1, 7))));
    }

    #[tokio::test]
    async fn a_write_that_is_left_may_commit_at_any_time() {
        let requirement = Requirement::new(A, None, false);
        drop(requirement.begin());
        observe(&requirement, at(1, 6)).await;
        assert_eq!((requirement.of_reads(A), requirement.of_lookups(A)), PRIMARY);
    }

    #[tokio::test]
    async fn a_write_that_ends_while_a_position_is_asked_for_is_not_covered_by_it() {
        let requirement = Requirement::new(A, None, false);
        requirement.begin().end();
        let meanwhile = async {
            requirement.begin().end();
            Ok::<_, Infallible>(at(1, 6))
        };
        requirement.observe(A, meanwhile).await.unwrap();
        assert_eq!(requirement.of_reads(A), Needs::Primary);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_given_out_in_no_scope_is_over_once_no_connection_is_in_use() {
        let requirement = Requirement::of_process();
        requirement.lend();
        requirement.take_back(|| true);
        assert_eq!(requirement.of_reads(A), Needs::Primary, "it has hardly begun");
        tokio::time::advance(GRACE * 2).await;
        requirement.take_back(|| false);
        assert!(!requirement.can_be_observed(A), "it is in use");
        requirement.take_back(|| true);
        assert!(requirement.can_be_observed(A));
        observe(&requirement, at(1, 7)).await;
        assert_eq!(requirement.of_reads(A), Needs::Position(Some(at(1, 7))));
    }

    #[tokio::test]
    async fn what_was_written_in_no_scope_before_a_failover_needs_a_position_of_now() {
        let requirement = Requirement::of_process();
        requirement.begin().end();
        observe(&requirement, at(1, 7)).await;
        requirement.begin_epoch(A, Epoch::UNKNOWN);
        requirement.begin_epoch(A, Epoch::new(1));
        assert_eq!(requirement.of_reads(A), Needs::Position(Some(at(1, 7))));
        requirement.begin_epoch(A, Epoch::new(2));
        assert_eq!((requirement.of_reads(A), requirement.of_lookups(A)), PRIMARY);
        observe(&requirement, at(2, 3)).await;
        requirement.begin_epoch(A, Epoch::new(2));
        assert_eq!(requirement.of_reads(A), Needs::Position(Some(at(2, 3))));
    }

    #[test]
    fn a_method_that_may_write_sends_reads_to_the_primary_and_leaves_caches_alone() {
        let requirement = Requirement::new(A, None, true);
        assert_eq!(requirement.of_reads(A), Needs::Primary);
        assert_eq!(requirement.of_lookups(A), Needs::Position(None));
    }

    #[test]
    fn sessions_of_two_histories_need_a_position_of_now() {
        let requirement = Requirement::new(A, Some(at(1, 5)), false);
        requirement.join(A, at(1, 7));
        assert_eq!(requirement.of_lookups(A), Needs::Position(Some(at(1, 7))));
        requirement.join(A, at(2, 3));
        assert_eq!((requirement.of_reads(A), requirement.of_lookups(A)), PRIMARY);
    }

    /// Its token has a position of one database, and says that it wrote, to whichever.
    #[tokio::test]
    async fn what_a_session_wrote_to_another_database_needs_a_position_of_that_one() {
        let requirement = Requirement::new(A, Some(at(1, 5)), false);
        let of = |database| (requirement.of_reads(database), requirement.of_lookups(database));
        assert_eq!(requirement.of_lookups(A), Needs::Position(Some(at(1, 5))));
        assert_eq!(of(B), PRIMARY);
        requirement.observe(B, ready(Ok::<_, Infallible>(at(2, 3)))).await.unwrap();
        assert_eq!(requirement.of_lookups(B), Needs::Position(Some(at(2, 3))));
        requirement.join(A, at(1, 7));
        assert_eq!(requirement.of_lookups(A), Needs::Position(Some(at(1, 7))));
        assert_eq!(of(B), PRIMARY, "the session may have written to it since");
    }

    /// What the scope itself wrote is not behind the position that a session brings.
    #[tokio::test]
    async fn a_session_s_position_covers_no_write_of_the_scope_that_it_joins() {
        let requirement = Requirement::new(A, None, false);
        requirement.begin().end();
        requirement.join(A, at(1, 7));
        assert_eq!((requirement.of_reads(A), requirement.of_lookups(A)), PRIMARY);
    }

    #[tokio::test]
    async fn a_position_of_one_database_is_not_past_a_write_to_another() {
        let requirement = Requirement::new(A, Some(at(1, 5)), false);
        requirement.begin().end();
        observe(&requirement, at(1, 7)).await;
        assert_eq!(requirement.of_reads(A), Needs::Position(Some(at(1, 7))));
        assert_eq!((requirement.of_reads(B), requirement.of_lookups(B)), PRIMARY);
        requirement.observe(B, ready(Ok::<_, Infallible>(at(2, 3)))).await.unwrap();
        assert_eq!(requirement.of_lookups(B), Needs::Position(Some(at(2, 3))));
        assert_eq!(requirement.of_lookups(A), Needs::Position(Some(at(1, 7))));
    }
}
