//! Transactions whose reads count for a response.

use std::fmt;
use std::sync::Arc;

use async_stream::try_stream;
use futures_util::future::BoxFuture;
use futures_util::stream::StreamExt;
use sqlx::postgres::{PgRow, PgStatement, PgTypeInfo};
use sqlx::{Error, Execute, Executor, Postgres, SqlStr, Transaction};
use sqlx_core::describe::Describe;

use super::attempt::{ReadProof, open_read_transaction};
use super::database::Database;
use super::executor::{note, schema_changing};
use super::route_plan::RoutePlan;
use super::sql_error::is_outdated_plan;
use super::statement::{RepeatableStatement, Rows, first_of_all};
use crate::cache::{READ_FAILED, Uncacheable, UnscopedRead};

/// A READ ONLY, REPEATABLE READ transaction on the primary: all of its reads see the same snapshot, and each counts for the
/// current response like a read through [`Database::reader`]. Made by [`Database::read_transaction`]; dropping it ends it.
pub struct ReadTransaction {
    db: Database,
    inner: Transaction<'static, Postgres>,
    proof: ReadProof,
    server: Arc<str>,
    /// The last schema change that was known when the connection was taken from the pool.
    schema: u64,
    /// Outside any scope, its reads may become part of any response.
    _unscoped: Option<UnscopedRead>,
}

impl Database {
    /// Begins a transaction for reads that must be consistent with each other. A response that uses it can be cached, unlike
    /// one that uses [`begin_read_only`](Self::begin_read_only).
    ///
    /// Begin it in the scope of the response that uses it: reads of a transaction that was begun elsewhere can't be
    /// stored. It does not see what the scope writes afterwards. After a statement that is not known to be a read, such
    /// as `set local`, a response that uses further reads of the transaction is not stored.
    ///
    /// It holds a connection of the primary's pool. When a statement is new, looking up its dependencies takes a second
    /// connection. So the pool needs more connections than there are handlers with such a transaction at the same time.
    ///
    /// ```no_run
    /// # async fn example(db: tidegate::Database) -> Result<(), sqlx::Error> {
    /// let mut snapshot = db.read_transaction().await?;
    /// let (balance,): (i64,) =
    ///     sqlx::query_as("select sum(amount)::bigint from entries where account = $1")
    ///         .bind(7)
    ///         .fetch_one(&mut snapshot)
    ///         .await?;
    /// let entries: Vec<(i64,)> =
    ///     sqlx::query_as("select amount from entries where account = $1")
    ///         .bind(7)
    ///         .fetch_all(&mut snapshot)
    ///         .await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the primary can't be reached.
    pub async fn read_transaction(&self) -> Result<ReadTransaction, Error> {
        let unscoped = self.counts_unscoped_reads().then(UnscopedRead::read).flatten();
        let plan = RoutePlan::for_read_transaction(self);
        let primary = self.current_primary(plan.must_know_primary()).await;
        let begun = Box::pin(open_read_transaction(primary, &plan)).await?;
        let (inner, proof) = (begun.transaction, begun.proof);
        let (server, schema) = (primary.name.clone(), plan.schema);
        Ok(ReadTransaction { db: self.clone(), inner, proof, server, schema, _unscoped: unscoped })
    }
}

impl ReadTransaction {
    fn run(&mut self, statement: Result<RepeatableStatement, Error>) -> Rows<'_> {
        Box::pin(try_stream! {
            let statement = statement?;
            let plan = RoutePlan::for_statement(&self.db, &statement, false).await;
            let primary = &self.db.inner.primary;
            primary.sends();
            self.proof = proof_after(&self.proof, &plan, self.schema);
            let mut rows = statement.send(&mut self.inner, primary.plans());
            let mut is_noted = false;
            loop {
                let step = rows.next().await.transpose();
                if let Err(error) = &step {
                    if is_outdated_plan(error) {
                        primary.clear_plans();
                    }
                    if let Some(record) = &plan.record {
                        let why = format!("a read failed: {error}");
                        record.note_uncacheable(Uncacheable::new(READ_FAILED, why));
                    }
                }
                let step = step?;
                if !std::mem::replace(&mut is_noted, true) {
                    note(&plan, &self.server, &self.proof);
                }
                match step {
                    Some(step) => yield step,
                    None => break,
                }
            }
        })
    }
}

/// What a statement proves, and what the later ones prove.
fn proof_after(proof: &ReadProof, plan: &RoutePlan, schema: u64) -> ReadProof {
    match proof {
        ReadProof::Basis(_) if !plan.is_read => {
            let why = "a statement of the read transaction may have changed settings that later statements depend on";
            ReadProof::Nothing(Uncacheable::new("unnoted-reads", why))
        }
        // The connection may have settings and prepared statements from before the change.
        ReadProof::Basis(_) if plan.schema != schema => ReadProof::Nothing(schema_changing()),
        proof => proof.clone(),
    }
}

impl fmt::Debug for ReadTransaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadTransaction").field("server", &self.server).finish_non_exhaustive()
    }
}

impl<'c> Executor<'c> for &'c mut ReadTransaction {
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
        Box::pin(async move { self.inner.prepare_with(sql, parameters).await })
    }

    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, Error>>
    where
        'c: 'e,
    {
        Box::pin(async move { self.inner.describe(sql).await })
    }
}
