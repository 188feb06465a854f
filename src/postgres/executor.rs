//! The executors that `Database` gives out.

use std::fmt;

use async_stream::try_stream;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use sqlx::postgres::{PgRow, PgStatement, PgTypeInfo};
use sqlx::{Error, Execute, Executor, Postgres, SqlStr};
use sqlx_core::describe::Describe;

use super::attempt::ReadProof;
use super::database::Database;
use super::route_plan::{Candidate, RoutePlan};
use super::statement::{RepeatableStatement, Row, Rows, first_of_all};
use crate::cache::{REPLICA_BEHIND, Record, Uncacheable};
use attempts::{Attempt, Attempts};

mod attempts;

/// Reads, from a replica or the primary. Made by [`Database::reader`].
#[derive(Clone)]
pub struct Reader {
    db: Database,
    writer: bool,
}

/// Writes, to the primary. Made by [`Database::writer`].
#[derive(Clone, Debug)]
pub struct Writer(Reader);

impl Database {
    /// An executor for reads. It selects a server that contains everything that the current scope has written through this
    /// `Database`, and everything that the request's session has written. Outside any scope, it selects one that contains
    /// everything that the process has written outside any scope.
    ///
    /// A cached result depends on the tables that a statement reads, also through views and functions. If a condition
    /// that all rows must meet compares a column with a literal or a bound value (`where id = $1`, `in (..)`, `= any
    /// ($1)`, in `where` or in the `on` of a join), the result depends only on the rows with those values. The column
    /// must be the primary key's, or one that was named when the triggers were installed (see
    /// [`Triggers`](crate::Triggers)), and its type must be integer, text or UUID. The statement must name the table
    /// once. A bound value must be an `i16`, `i32`, `i64`, text, or UUID, or an array of at most 100 of these. A
    /// literal must be spelled as Postgres writes the value: `7` and `'ann'`, not `07`, `'it''s'` or `E'ann'`.
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// An executor for writes, on the primary. Later reads in the same scope see what it writes. A response that is
    /// computed by writing is not cached.
    pub fn writer(&self) -> Writer {
        Writer::new(self.clone())
    }
}

impl Reader {
    fn new(db: Database) -> Self {
        Self { db, writer: false }
    }

    fn run<'e>(self, statement: Result<RepeatableStatement, Error>) -> Rows<'e> {
        Box::pin(try_stream! {
            let statement = statement?;
            let plan = RoutePlan::for_statement(&self.db, &statement, self.writer).await;
            let counts = plan.record.is_none() && !plan.primary_only;
            let began = counts.then(|| self.db.inner.statements.begin()).flatten();
            let own = plan.own.clone();
            let mut attempts = Attempts::new(&self.db, plan, &own);
            loop {
                let Attempt { candidate, mut opened } = attempts.next().await?;
                let withheld = attempts.withheld(&opened);
                let mut rows = statement.send(opened.conn.get(), opened.plans);
                let (first, error) = first_rows(&mut rows, withheld).await;
                if let Some(error) = error {
                    drop(rows);
                    attempts.failed(error, candidate, &opened)?;
                    continue;
                }
                if matches!(candidate, Candidate::Primary) {
                    self.db.inner.lag.responds();
                }
                note_passed_over(&self.db, &attempts.plan, &opened.server);
                note(&attempts.plan, &opened.server, &opened.proof);
                self.db.inner.statements.end(began, &statement);
                for step in first {
                    yield step;
                }
                while let Some(step) = rows.next().await {
                    yield attempts.noted(step)?;
                }
                attempts.end();
                drop(rows);
                // A read's rows are complete without the commit, so its failure is ignored. For other statements it
                // counts, since only the commit delivers a NOTIFY.
                let committed = opened.conn.end().await;
                if !attempts.plan.is_read {
                    attempts.noted(committed)?;
                }
                break;
            }
        })
    }
}

/// Reads so many rows and results, or to the end, or to an error.
async fn first_rows(rows: &mut Rows<'_>, most: usize) -> (Vec<Row>, Option<Error>) {
    let mut first = Vec::new();
    while first.len() < most {
        match rows.next().await {
            Some(Ok(row)) => first.push(row),
            Some(Err(error)) => return (first, Some(error)),
            None => break,
        }
    }
    (first, None)
}

/// Notes why the primary served what a replica could have served.
fn note_passed_over(db: &Database, plan: &RoutePlan, server: &str) {
    if let Some(record) = &plan.record
        && *server == *db.inner.primary.name
        && let Some(why) = plan.why_primary(db)
    {
        record.passed_over(why);
    }
}

/// Notes the tags of a read, and what the read proves.
pub(super) fn note(plan: &RoutePlan, server: &std::sync::Arc<str>, proof: &ReadProof) {
    let Some(record) = &plan.record else {
        // The response reports this, with or without a policy.
        if let (ReadProof::Nothing(uncacheable), Some(record)) = (proof, Record::current())
            && uncacheable.token == REPLICA_BEHIND
        {
            record.note_uncacheable(uncacheable.clone());
        }
        return;
    };
    match proof {
        // A node discards its dependencies before it confirms a position past a schema change. So if the numbers are
        // equal, the read's proof is based on the dependencies that it was planned with.
        ReadProof::Basis(_) if record.schema() != plan.schema => {
            record.note_uncacheable(schema_changing());
        }
        ReadProof::Basis(basis) => record.read(*basis, &plan.tags, server),
        ReadProof::Nothing(uncacheable) => record.note_uncacheable(uncacheable.clone()),
    }
}

pub(super) fn schema_changing() -> Uncacheable {
    Uncacheable::new("schema-changing", "the schema changed during the read")
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("writer", &self.writer).finish_non_exhaustive()
    }
}

impl Writer {
    fn new(db: Database) -> Self {
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
        self.run(RepeatableStatement::take(query))
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, Error>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(first_of_all(self.fetch_many(query)))
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
        self.0.fetch_optional(query)
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
