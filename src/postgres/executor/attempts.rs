//! Selects the server that a statement is sent to next, and decides whether it may be sent again.
//!
//! A text that calls a function does not show whether the function writes. So if a statement is not known to be a read, and
//! may have committed when its connection broke, it is sent again only where the server refuses writes: to a standby, or in
//! a READ ONLY transaction. A statement that is refused there counts as a write, and is sent only once.

use sqlx::Error;

use crate::cache::{READ_FAILED, Record, Requirement, Uncacheable, WriteInProgress};
use crate::postgres::attempt::{OpenedConnection, SkipReason, open};
use crate::postgres::database::Database;
use crate::postgres::route_plan::{Candidate, RoutePlan};
use crate::postgres::sql_error::{
    has_lost_connection, is_outdated_plan, is_refused_write, is_the_servers, is_the_statements,
};

/// How often a statement is prepared again after its table was altered. Usually once is enough.
const PREPARED_AGAIN: u32 = 3;

/// The number of rows that are buffered before the first is passed on, if the server may still refuse the statement as a
/// write.
const WITHHELD: usize = 100;

/// One attempt: an open connection to a server.
pub(super) struct Attempt {
    pub(super) candidate: Candidate,
    pub(super) opened: OpenedConnection,
}

/// The attempts to run one statement.
pub(super) struct Attempts<'a> {
    pub(super) plan: RoutePlan,
    db: &'a Database,
    own: &'a Requirement,
    write: Option<WriteInProgress<'a>>,
    /// The servers to try, the next one last.
    remaining: Vec<Candidate>,
    prepared_again: u32,
    /// The error of an attempt that may have committed.
    unknown: Option<Error>,
    /// The error of a standby, if only the primary can do better.
    standby_error: Option<Error>,
}

impl<'a> Attempts<'a> {
    /// `own` is the plan's.
    pub(super) fn new(db: &'a Database, mut plan: RoutePlan, own: &'a Requirement) -> Self {
        let mut remaining = plan.candidates(db);
        if plan.may_write {
            // If its connection breaks, it is unknown whether the write has committed: don't retry.
            remaining.truncate(1);
        }
        remaining.reverse();
        // A write must not go unnoticed if later reads may go to a replica.
        plan.read_only =
            !plan.may_write && !plan.is_read && !own.stays_on_primary() && !db.servers().is_empty();
        Self {
            plan,
            db,
            own,
            write: None,
            remaining,
            prepared_again: 0,
            unknown: None,
            standby_error: None,
        }
    }

    /// Opens a connection to the next server that can be used; the last error if none is left.
    pub(super) async fn next(&mut self) -> Result<Attempt, Error> {
        let mut failure = None;
        while let Some(candidate) = self.remaining.pop() {
            match open(self.db, &candidate, &self.plan).await {
                Ok(opened) => {
                    self.begin();
                    return Ok(Attempt { candidate, opened });
                }
                Err(SkipReason::Behind) => {}
                Err(SkipReason::Failed(error)) => {
                    tracing::debug!(%error, ?candidate, "a server could not be used");
                    discard_connections(self.db, &candidate, &error);
                    // If the primary failed, return its error.
                    if failure.is_none() || matches!(candidate, Candidate::Primary) {
                        failure = Some(error);
                    }
                }
            }
        }
        self.end();
        let failure = self.standby_error.take().or(failure);
        Err(self.failure(failure.unwrap_or(Error::PoolTimedOut)))
    }

    /// How many rows are read before the first is passed on. After that, the statement can't be sent again, and a function
    /// may write only at a later row.
    pub(super) fn withheld(&self, opened: &OpenedConnection) -> usize {
        if opened.refuses_writes && !self.plan.is_read { WITHHELD } else { 1 }
    }

    /// An attempt failed before a row was passed on: `Ok` if another one follows.
    pub(super) fn failed(
        &mut self,
        error: Error,
        candidate: Candidate,
        opened: &OpenedConnection,
    ) -> Result<(), Error> {
        if is_outdated_plan(&error) && self.prepared_again < PREPARED_AGAIN {
            self.prepared_again += 1;
            candidate.server(self.db).clear_plans();
            self.remaining.push(candidate);
            return Ok(());
        }
        let may_refuse = opened.refuses_writes || !matches!(candidate, Candidate::Primary);
        if may_refuse && !self.plan.may_write && is_refused_write(&error) {
            return self.must_write();
        }
        if !is_the_servers(&error) {
            return self.retry_on_primary(error, &candidate);
        }
        if self.remaining.is_empty() {
            return self.noted(Err(error));
        }
        discard_connections(self.db, &candidate, &error);
        if !opened.refuses_writes && !self.plan.is_read && has_lost_connection(&error) {
            // A shutdown may also interrupt the wait for a synchronous standby, which comes after the commit.
            self.plan.read_only = true;
            self.unknown = Some(error);
        }
        Ok(())
    }

    /// Retries on the primary, if it is up, when a statement failed on a standby but may succeed there: a standby can't
    /// read unlogged and temporary tables, may not have replayed a migration, and its disk or memory may be full.
    fn retry_on_primary(&mut self, error: Error, candidate: &Candidate) -> Result<(), Error> {
        self.remaining.retain(|candidate| matches!(candidate, Candidate::Primary));
        if self.remaining.is_empty()
            || matches!(candidate, Candidate::Primary)
            || is_the_statements(&error)
            || self.db.inner.lag.is_down()
        {
            return self.noted(Err(error));
        }
        self.standby_error = Some(error);
        Ok(())
    }

    /// The statement turned out to write: send it once, to the primary, unless an earlier attempt may have committed.
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
        self.remaining = vec![Candidate::Primary];
        Ok(())
    }

    /// On an error, makes the response uncacheable, since the handler may compute it in spite of the error.
    pub(super) fn noted<T>(&mut self, step: Result<T, Error>) -> Result<T, Error> {
        step.map_err(|error| {
            if matches!(error, Error::Database(_)) {
                self.end();
            }
            self.failure(error)
        })
    }

    /// Called when the statement is about to be sent: if it may write, later reads must see the write.
    fn begin(&mut self) {
        let may_write = self.plan.may_write || self.plan.may_write_unseen;
        if may_write && self.write.is_none() {
            self.write = Some(self.own.begin());
        }
    }

    /// The write has ended. Not called for a write that is dropped earlier or whose connection breaks: it may still commit,
    /// whatever the result of later attempts.
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
            record
                .note_uncacheable(Uncacheable::new(READ_FAILED, format!("a read failed: {error}")));
        }
        error
    }
}

/// Discards a server's connections if it failed during the read. This does not apply to a server that is busy, that
/// cancelled a query in favour of replay, or that refuses further connections: otherwise all its reads would go to the
/// primary. A message that the driver can't encode or decode concerns only one connection. If the primary failed, or had no
/// connection in time, its monitor finds out whether it still responds.
fn discard_connections(db: &Database, candidate: &Candidate, error: &Error) {
    match (candidate, has_lost_connection(error)) {
        (Candidate::Primary, true) => {
            db.inner.lag.suspect();
            db.inner.primary.renew();
        }
        (Candidate::Primary, false) if matches!(error, Error::PoolTimedOut) => {
            db.inner.lag.suspect();
        }
        (Candidate::Replica(server) | Candidate::LastResort(server), true) => server.mark_down(),
        (_, false) => {}
    }
}
