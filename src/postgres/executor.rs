//! The executors that `Database` gives out.

use std::fmt;

use async_stream::try_stream;
use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, StreamExt, TryStreamExt};
use sqlx::postgres::{PgArguments, PgDatabaseError, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{
    AssertSqlSafe, Either, Error, Execute, Executor, PgConnection, Postgres, SqlSafeStr, SqlStr,
};
use sqlx_core::describe::Describe;

use super::attempt::{Opened, Proof, Skip, open};
use super::database::Database;
use super::plan::{Candidate, Plan};
use crate::cache::{Unfit, Write};

/// How often a statement is prepared again because its table has changed since: once, unless it goes on changing.
const PREPARED_AGAIN: u32 = 3;

/// Reads, from a replica or the primary. Made by [`Database::reader`].
#[derive(Clone)]
pub struct Reader {
    db: Database,
    writer: bool,
}

/// Writes, to the primary. Made by [`Database::writer`].
#[derive(Clone, Debug)]
pub struct Writer(Reader);

/// A statement that can be sent more than once.
pub(super) struct Statement {
    pub(super) sql: SqlStr,
    pub(super) arguments: Option<PgArguments>,
    pub(super) persistent: bool,
}

type Rows<'e> = BoxStream<'e, Result<Either<PgQueryResult, PgRow>, Error>>;

impl Reader {
    pub(crate) fn new(db: Database) -> Self {
        Self { db, writer: false }
    }

    fn run<'e>(self, statement: Result<Statement, Error>) -> Rows<'e> {
        Box::pin(try_stream! {
            let statement = statement?;
            let plan = Plan::of(&self.db, &statement, self.writer).await;
            let began = self.db.inner.statements.begin(&plan);
            let mut write = plan.may_write.then(|| plan.own.begin());
            let mut left = self.candidates(&plan);
            let mut prepared_again = 0;
            loop {
                let (candidate, mut opened) =
                    noted(&plan, next(&self.db, &plan, &mut left).await)?;
                let mut rows = statement.send(opened.conn.get(), opened.plans);
                let first = rows.next().await;
                if let Some(Err(error)) = &first
                    && is_outdated_plan(error)
                    && prepared_again < PREPARED_AGAIN
                {
                    drop(rows);
                    prepared_again += 1;
                    candidate.server(&self.db).forget_plans();
                    left.push(candidate);
                    continue;
                }
                if let Some(Err(error)) = &first
                    && !left.is_empty()
                    && is_the_servers(error)
                {
                    drop(rows);
                    give_up(&self.db, &opened);
                    continue;
                }
                note(&self.db, &plan, &opened.server, &opened.proof);
                self.db.inner.statements.end(began, &statement);
                let mut row = first;
                while let Some(step) = row {
                    if matches!(step, Err(Error::Database(_))) {
                        ended(&mut write);
                    }
                    yield noted(&plan, step)?;
                    row = rows.next().await;
                }
                ended(&mut write);
                drop(rows);
                opened.conn.end().await;
                break;
            }
        })
    }

    /// A write is sent once: what became of it is unknown when its connection breaks.
    fn candidates(&self, plan: &Plan) -> Vec<Candidate> {
        let mut candidates = plan.candidates(&self.db);
        if plan.may_write {
            candidates.truncate(1);
        }
        candidates.reverse();
        candidates
    }
}

impl Statement {
    pub(super) fn take<'q, E: Execute<'q, Postgres>>(mut query: E) -> Result<Self, Error> {
        let arguments = query.take_arguments().map_err(Error::Encode)?;
        let persistent = query.persistent();
        Ok(Self { sql: query.sql(), arguments, persistent })
    }

    /// `plans`: what tells the statement's text from the same one's of before a change of the schema.
    fn send<'e>(&self, conn: &'e mut PgConnection, plans: Option<u64>) -> Rows<'e> {
        match &self.arguments {
            Some(arguments) => {
                let query = sqlx::query_with(self.text(plans), arguments.clone());
                conn.fetch_many(query.persistent(self.persistent))
            }
            None => conn.fetch_many(sqlx::raw_sql(self.sql.clone())),
        }
    }

    /// The text, with a comment after it if it is to be told from its like.
    fn text(&self, plans: Option<u64>) -> SqlStr {
        match plans.filter(|_| self.persistent) {
            Some(plans) => {
                AssertSqlSafe(format!("{}\n/* {plans:x} */", self.sql.as_str())).into_sql_str()
            }
            None => self.sql.clone(),
        }
    }
}

/// The next candidate that can be opened; the last error if none is left.
async fn next(
    db: &Database,
    plan: &Plan,
    left: &mut Vec<Candidate>,
) -> Result<(Candidate, Opened), Error> {
    let mut failure = None;
    while let Some(candidate) = left.pop() {
        match open(db, &candidate, plan).await {
            Ok(opened) => return Ok((candidate, opened)),
            Err(Skip::Behind) => {}
            Err(Skip::Failed(error)) => {
                tracing::debug!(%error, ?candidate, "a server could not be used");
                if let Candidate::Replica(server) | Candidate::LastResort(server) = &candidate {
                    server.lose();
                }
                // The primary's is the one to tell: its word decides.
                if failure.is_none() || matches!(candidate, Candidate::Primary) {
                    failure = Some(error);
                }
            }
        }
    }
    Err(failure.unwrap_or(Error::PoolTimedOut))
}

/// A write has come to its end. One that is left before, or whose connection breaks, may yet commit.
fn ended(write: &mut Option<Write<'_>>) {
    if let Some(write) = write.take() {
        write.end();
    }
}

/// The server failed under the read: its connections are not to be trusted.
fn give_up(db: &Database, opened: &Opened) {
    match db.servers().iter().find(|server| server.name == opened.server) {
        Some(replica) => replica.lose(),
        None => db.inner.primary.renew(),
    }
}

fn note(db: &Database, plan: &Plan, server: &std::sync::Arc<str>, proof: &Proof) {
    let Some(record) = &plan.record else { return };
    if **server == *db.inner.primary.name
        && let Some(why) = plan.why_primary(db)
    {
        record.passed_over(why);
    }
    match proof {
        // A node forgets the schema before it proves more by having seen its change. So what the read proves here, it
        // proves by what was known when it was planned, or the numbers differ.
        Proof::Basis(_) if db.inner.known.generation() != plan.schema => {
            record.unfit(Unfit::new("schema-changing", "the schema changed during the read"));
        }
        Proof::Basis(basis) => record.read(*basis, &plan.tags, server),
        Proof::Nothing(unfit) => record.unfit(unfit.clone()),
    }
}

/// An answer that was made in spite of an error is not for others.
fn noted<T>(plan: &Plan, step: Result<T, Error>) -> Result<T, Error> {
    if let (Err(error), Some(record)) = (&step, &plan.record) {
        record.unfit(Unfit::new("read-failed", format!("a read failed: {error}")));
    }
    step
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
    match error {
        Error::Io(_)
        | Error::Tls(_)
        | Error::Protocol(_)
        | Error::PoolTimedOut
        | Error::PoolClosed
        | Error::WorkerCrashed => true,
        Error::Database(error) => error.code().is_some_and(|code| {
            // Connection trouble; shutting down or starting up; a recovery conflict on a standby;
            // too many connections; a write on a standby.
            code.starts_with("08")
                || code.starts_with("57P")
                || ["40001", "40P01", "53300", "25006"].contains(&&*code)
        }),
        _ => false,
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl Writer {
    pub(crate) fn new(db: Database) -> Self {
        Self(Reader { db, writer: true })
    }
}

impl<'c> Executor<'c> for Reader {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Rows<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.run(Statement::take(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let mut steps = self.fetch_many(query);
        Box::pin(async move {
            while let Some(step) = steps.try_next().await? {
                if let Either::Right(row) = step {
                    return Ok(Some(row));
                }
            }
            Ok(None)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move {
            let mut conn = self.db.inner.primary.acquire().await?;
            conn.prepare_with(sql, parameters).await
        })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.db.inner.primary.acquire().await?.describe(sql).await })
    }
}

impl<'c> Executor<'c> for Writer {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> Rows<'e>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        self.0.fetch_many(query)
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        // To the end, which is after the commit; and what the commit refuses is an error of the write.
        let mut steps = self.fetch_many(query);
        Box::pin(async move {
            let mut first = None;
            while let Some(step) = steps.try_next().await? {
                first = first.or(step.right());
            }
            Ok(first)
        })
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, Error>>
    where
        'c: 'e,
    {
        self.0.prepare_with(sql, parameters)
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        self.0.describe(sql)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic)]
mod tests;
