//! Which server a statement is sent to next, and whether it may be sent again.
//!
//! A text that calls a function does not show whether the function writes. So a statement that is not known to be a
//! read, and that may have committed when its connection broke, is sent again only where the server refuses writes:
//! to a standby, or in a READ ONLY transaction. What is refused there is a write: it counts as one, and is sent once.

use std::borrow::Cow;

use sqlx::Error;
use sqlx::postgres::PgDatabaseError;

use crate::cache::{Record, Requirement, Unfit, Write};
use crate::postgres::attempt::{Opened, Skip, open};
use crate::postgres::database::Database;
use crate::postgres::plan::{Candidate, Plan};

/// How often a statement is prepared again because its table has changed since: once, unless it goes on changing.
const PREPARED_AGAIN: u32 = 3;

/// The attempts to run one statement.
pub(super) struct Attempts<'a> {
    pub(super) plan: Plan,
    db: &'a Database,
    own: &'a Requirement,
    write: Option<Write<'a>>,
    /// The servers to try, the next one last.
    left: Vec<Candidate>,
    prepared_again: u32,
    /// The error of an attempt that may have committed.
    unknown: Option<Error>,
}

impl<'a> Attempts<'a> {
    /// `own` is the plan's.
    pub(super) fn new(db: &'a Database, mut plan: Plan, own: &'a Requirement) -> Self {
        let mut left = plan.candidates(db);
        if plan.may_write {
            // What became of a write is unknown when its connection breaks.
            left.truncate(1);
        }
        left.reverse();
        // A write must not go unnoticed where later reads may go to a replica.
        plan.read_only =
            !plan.may_write && !plan.is_read && !own.stays_on_primary() && !db.servers().is_empty();
        let write = (plan.may_write || plan.may_write_unseen).then(|| own.begin());
        Self { plan, db, own, write, left, prepared_again: 0, unknown: None }
    }

    /// Opens a connection to the next server that can be used; the last error if none is left.
    pub(super) async fn next(&mut self) -> Result<(Candidate, Opened), Error> {
        let mut failure = None;
        while let Some(candidate) = self.left.pop() {
            match open(self.db, &candidate, &self.plan).await {
                Ok(opened) => return Ok((candidate, opened)),
                Err(Skip::Behind) => {}
                Err(Skip::Failed(error)) => {
                    tracing::debug!(%error, ?candidate, "a server could not be used");
                    give_up(self.db, &candidate, &error);
                    // The primary's is the one to tell: its word decides.
                    if failure.is_none() || matches!(candidate, Candidate::Primary) {
                        failure = Some(error);
                    }
                }
            }
        }
        Err(self.failure(failure.unwrap_or(Error::PoolTimedOut)))
    }

    /// An attempt failed before its first row: `Ok` if there is to be another one.
    pub(super) fn failed(
        &mut self,
        error: Error,
        candidate: Candidate,
        opened: &Opened,
    ) -> Result<(), Error> {
        if is_outdated_plan(&error) && self.prepared_again < PREPARED_AGAIN {
            self.prepared_again += 1;
            candidate.server(self.db).forget_plans();
            self.left.push(candidate);
            return Ok(());
        }
        if opened.refuses_writes && !self.plan.may_write && is_refused_write(&error) {
            return self.must_write();
        }
        if self.left.is_empty() || !is_the_servers(&error) {
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

    /// The statement writes: once, and on the primary; not even that if an attempt may have committed.
    fn must_write(&mut self) -> Result<(), Error> {
        if let Some(record) = Record::current() {
            record.note_write();
        }
        if self.write.is_none() {
            self.write = Some(self.own.begin());
        }
        if let Some(error) = self.unknown.take() {
            return Err(self.failure(error));
        }
        (self.plan.may_write, self.plan.primary_only) = (true, true);
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

    /// A write has come to its end. One that is left before, or whose connection breaks, may yet commit.
    pub(super) fn end(&mut self) {
        if let Some(write) = self.write.take() {
            write.end();
        }
    }

    /// The error to pass on: of an attempt that may have committed, if there was one.
    fn failure(&mut self, error: Error) -> Error {
        let error = self.unknown.take().unwrap_or(error);
        if let Some(record) = &self.plan.record {
            record.unfit(Unfit::new("read-failed", format!("a read failed: {error}")));
        }
        error
    }
}

/// If the server failed under the read, its connections are not to be trusted. One that is only busy, that cancelled a
/// query for replay, or that refuses more connections is as good as before: its reads would all go to the primary.
fn give_up(db: &Database, candidate: &Candidate, error: &Error) {
    match candidate {
        _ if !has_lost_connection(error) => {}
        Candidate::Primary => db.inner.primary.renew(),
        Candidate::Replica(server) | Candidate::LastResort(server) => server.lose(),
    }
}

/// Whether a statement was prepared when its result had other columns. Postgres finds that out before it runs anything
/// (`RevalidateCachedQuery` in plancache.c), and has no code for this alone; its message is in the server's language.
fn is_outdated_plan(error: &Error) -> bool {
    let Error::Database(error) = error else { return false };
    let postgres = error.try_downcast_ref::<PgDatabaseError>();
    postgres.is_some_and(|error| {
        error.code() == "0A000" && error.routine() == Some("RevalidateCachedQuery")
    })
}

/// Whether an error is the server's and another one might do better. PostgreSQL manual, appendix A.
fn is_the_servers(error: &Error) -> bool {
    // A recovery conflict on a standby; too many connections; a write on a standby.
    let codes = ["40001", "40P01", "53300", "25006"];
    has_lost_connection(error)
        || matches!(error, Error::PoolTimedOut)
        || code(error).is_some_and(|code| codes.contains(&&*code))
}

/// Whether the connection broke, or the server is shutting down or starting up.
fn has_lost_connection(error: &Error) -> bool {
    match error {
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolClosed
        | Error::WorkerCrashed => true,
        _ => code(error).is_some_and(|code| code.starts_with("08") || code.starts_with("57P")),
    }
}

fn code(error: &Error) -> Option<Cow<'_, str>> {
    let Error::Database(error) = error else { return None };
    error.code()
}

/// Whether a server refused a statement because it writes, or locks rows (`read_only_sql_transaction`).
fn is_refused_write(error: &Error) -> bool {
    code(error).as_deref() == Some("25006")
}
