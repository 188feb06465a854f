//! Which server a statement is sent to next, and whether it may be sent again.
//!
//! A text that calls a function does not show whether the function writes. So a statement that is not known to be a
//! read, and that may have committed when its connection broke, is sent again only where the server refuses writes:
//! to a standby, or in a READ ONLY transaction. What is refused there is a write: it counts as one, and is sent once.

use sqlx::Error;

use super::failures::{
    give_up, has_lost_connection, is_outdated_plan, is_refused_write, is_the_servers,
    is_the_statements,
};
use crate::cache::{Record, Requirement, Uncacheable, WriteInProgress};
use crate::postgres::attempt::{OpenedConnection, SkipReason, open};
use crate::postgres::database::Database;
use crate::postgres::route_plan::{Candidate, RoutePlan};

/// How often a statement is prepared again because its table has changed since: once, unless it goes on changing.
const PREPARED_AGAIN: u32 = 3;

/// Rows that are not passed on before more is known, where the server may yet refuse the statement as a write.
const WITHHELD: usize = 100;

/// The attempts to run one statement.
pub(super) struct Attempts<'a> {
    pub(super) plan: RoutePlan,
    db: &'a Database,
    own: &'a Requirement,
    write: Option<WriteInProgress<'a>>,
    /// The servers to try, the next one last.
    left: Vec<Candidate>,
    prepared_again: u32,
    /// The error of an attempt that may have committed.
    unknown: Option<Error>,
    /// The error of a standby, if only the primary can do better.
    of_standby: Option<Error>,
}

impl<'a> Attempts<'a> {
    /// `own` is the plan's.
    pub(super) fn new(db: &'a Database, mut plan: RoutePlan, own: &'a Requirement) -> Self {
        let mut left = plan.candidates(db);
        if plan.may_write {
            // What became of a write is unknown when its connection breaks.
            left.truncate(1);
        }
        left.reverse();
        // A write must not go unnoticed where later reads may go to a replica.
        plan.read_only =
            !plan.may_write && !plan.is_read && !own.stays_on_primary() && !db.servers().is_empty();
        Self {
            plan,
            db,
            own,
            write: None,
            left,
            prepared_again: 0,
            unknown: None,
            of_standby: None,
        }
    }

    /// Opens a connection to the next server that can be used; the last error if none is left.
    pub(super) async fn next(&mut self) -> Result<(Candidate, OpenedConnection), Error> {
        let mut failure = None;
        while let Some(candidate) = self.left.pop() {
            match open(self.db, &candidate, &self.plan).await {
                Ok(opened) => {
                    self.begin();
                    return Ok((candidate, opened));
                }
                Err(SkipReason::Behind) => {}
                Err(SkipReason::Failed(error)) => {
                    tracing::debug!(%error, ?candidate, "a server could not be used");
                    give_up(self.db, &candidate, &error);
                    // The primary's is the one to tell: its word decides.
                    if failure.is_none() || matches!(candidate, Candidate::Primary) {
                        failure = Some(error);
                    }
                }
            }
        }
        self.end();
        let failure = self.of_standby.take().or(failure);
        Err(self.failure(failure.unwrap_or(Error::PoolTimedOut)))
    }

    /// How many rows are read before the first is passed on, since a statement of which rows were passed on can't be sent
    /// again: a function may write for a later row than the first.
    pub(super) fn withheld(&self, opened: &OpenedConnection) -> usize {
        if opened.refuses_writes && !self.plan.is_read { WITHHELD } else { 1 }
    }

    /// An attempt failed before a row was passed on: `Ok` if there is to be another one.
    pub(super) fn failed(
        &mut self,
        error: Error,
        candidate: Candidate,
        opened: &OpenedConnection,
    ) -> Result<(), Error> {
        if is_outdated_plan(&error) && self.prepared_again < PREPARED_AGAIN {
            self.prepared_again += 1;
            candidate.server(self.db).forget_plans();
            self.left.push(candidate);
            return Ok(());
        }
        let may_refuse = opened.refuses_writes || !matches!(candidate, Candidate::Primary);
        if may_refuse && !self.plan.may_write && is_refused_write(&error) {
            return self.must_write();
        }
        if !is_the_servers(&error) {
            return self.ask_primary(error, &candidate);
        }
        if self.left.is_empty() {
            return self.noted(Err(error));
        }
        give_up(self.db, &candidate, &error);
        if !opened.refuses_writes && !self.plan.is_read && has_lost_connection(&error) {
            // A shutdown, too, may cut short the wait for a synchronous standby, which is after the commit.
            self.plan.read_only = true;
            self.unknown = Some(error);
        }
        Ok(())
    }

    /// A standby failed at what the primary may do: it can't read unlogged and temporary tables, may not have replayed a
    /// migration, and its disk or memory may be full. So the primary runs the statement once more, if it is up.
    fn ask_primary(&mut self, error: Error, candidate: &Candidate) -> Result<(), Error> {
        self.left.retain(|left| matches!(left, Candidate::Primary));
        if self.left.is_empty()
            || matches!(candidate, Candidate::Primary)
            || is_the_statements(&error)
            || self.db.inner.lag.is_lost()
        {
            return self.noted(Err(error));
        }
        self.of_standby = Some(error);
        Ok(())
    }

    /// The statement writes: once, and on the primary; not even that if an attempt may have committed.
    fn must_write(&mut self) -> Result<(), Error> {
        if let Some(record) = Record::current() {
            record.note_write();
        }
        (self.plan.may_write, self.plan.primary_only) = (true, true);
        if let Some(error) = self.unknown.take() {
            self.begin();
            return Err(self.failure(error));
        }
        self.plan.read_only = false;
        self.left = vec![Candidate::Primary];
        Ok(())
    }

    /// An answer that was made in spite of an error is not for others.
    pub(super) fn noted<T>(&mut self, step: Result<T, Error>) -> Result<T, Error> {
        step.map_err(|error| {
            if matches!(error, Error::Database(_)) {
                self.end();
            }
            self.failure(error)
        })
    }

    /// Something is about to be sent, or was: if it may write, what is read from now on must see it.
    fn begin(&mut self) {
        let may_write = self.plan.may_write || self.plan.may_write_unseen;
        if may_write && self.write.is_none() {
            self.write = Some(self.own.begin());
        }
    }

    /// A write has come to its end. One that is left before, or whose connection breaks, may yet commit, whatever becomes
    /// of an attempt that follows.
    pub(super) fn end(&mut self) {
        if self.unknown.is_none()
            && let Some(write) = self.write.take()
        {
            write.end();
        }
    }

    /// The error to pass on: of an attempt that may have committed, if there was one.
    fn failure(&mut self, error: Error) -> Error {
        let error = self.unknown.take().unwrap_or(error);
        if let Some(record) = &self.plan.record {
            record.mark_uncacheable(Uncacheable::new(
                "read-failed",
                format!("a read failed: {error}"),
            ));
        }
        error
    }
}
