//! A transaction on the primary, whose statements the cache does not see.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use sqlx::{PgConnection, Postgres, Row};

use crate::cache::{Record, Requirement, UnscopedRead};

/// A transaction on the primary, from [`Database::begin`](super::Database::begin) or
/// [`begin_read_only`](super::Database::begin_read_only).
///
/// Pass `&mut *transaction` wherever sqlx takes an executor or a connection. If it is dropped without
/// [`commit`](Self::commit), it is rolled back. Don't end it by SQL text (`COMMIT`): what it has written may then count as
/// rolled back.
///
/// ```no_run
/// # async fn example(db: tidegate::Database) -> Result<(), sqlx::Error> {
/// let mut transaction = db.begin().await?;
/// sqlx::query("update accounts set credit = credit - 1").execute(&mut *transaction).await?;
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
pub struct Transaction {
    inner: sqlx::Transaction<'static, Postgres>,
    open: OpenTransaction,
}

/// What counts for other reads while a transaction is open, and after it has ended.
pub(super) struct OpenTransaction {
    record: Option<Record>,
    /// The writes that later reads must see; `None` for a transaction that can't write.
    own: Option<Arc<Requirement>>,
    is_committing: bool,
    /// Outside any scope, its reads may become part of any response.
    _unscoped: Option<UnscopedRead>,
}

impl OpenTransaction {
    /// Begins to count a transaction of the current scope.
    pub(super) fn new(own: Option<Arc<Requirement>>, unscoped: Option<UnscopedRead>) -> Self {
        if let Some(own) = &own {
            own.open();
        }
        Self { record: Record::current(), own, is_committing: false, _unscoped: unscoped }
    }

    /// The server has responded to the commit.
    fn close_after(&mut self, has_committed: bool) {
        if !self.is_committing {
            if has_committed && let Some(record) = &self.record {
                record.note_write();
            }
            self.close(has_committed);
        }
    }

    fn close(&mut self, has_written: bool) {
        if let Some(own) = self.own.take() {
            own.close(has_written);
        }
    }
}

impl Drop for OpenTransaction {
    fn drop(&mut self) {
        if !self.is_committing {
            // It is rolled back.
            self.close(false);
            return;
        }
        // It may have committed, or may yet. A scope's later reads go to the primary. The process got no confirmation
        // of the commit.
        if let Some(record) = &self.record {
            record.note_write();
        }
        if self.own.as_ref().is_some_and(|own| own.is_of_process()) {
            self.close(true);
        }
    }
}

impl Transaction {
    pub(super) fn new(inner: sqlx::Transaction<'static, Postgres>, open: OpenTransaction) -> Self {
        Self { inner, open }
    }

    /// Commits. If the transaction has written something, later reads in the scope that began the transaction see
    /// these writes, and the client's session gets a token. To find out, this first queries whether the transaction
    /// has a transaction ID, which takes one round trip: Postgres assigns an ID when a transaction first writes or
    /// locks rows.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Transaction::commit`]. If the connection is lost, the transaction may have committed.
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        if self.open.own.is_none() {
            return self.inner.commit().await;
        }
        if !has_written(&mut self.inner).await {
            let committed = self.inner.commit().await;
            self.open.close(false);
            return committed;
        }
        self.open.is_committing = true;
        let committed = self.inner.commit().await;
        let is_refused = matches!(&committed, Err(sqlx::Error::Database(_)));
        self.open.is_committing = committed.is_err() && !is_refused;
        self.open.close_after(committed.is_ok());
        committed
    }

    /// Rolls back, and returns when the server has done so.
    ///
    /// # Errors
    ///
    /// As [`sqlx::Transaction::rollback`].
    pub async fn rollback(self) -> Result<(), sqlx::Error> {
        self.inner.rollback().await
    }

    /// sqlx's own transaction, for functions that take one.
    pub fn as_sqlx(&mut self) -> &mut sqlx::Transaction<'static, Postgres> {
        &mut self.inner
    }
}

/// Whether a transaction may have written something. In a failed transaction this is an error, and counts as a write.
async fn has_written(conn: &mut PgConnection) -> bool {
    // If the transaction was ended by SQL text, this statement runs in one of its own, which began with it.
    let query = "select pg_catalog.pg_current_xact_id_if_assigned() is null
        and pg_catalog.now() operator(pg_catalog.<) pg_catalog.statement_timestamp() as is_unassigned";
    let row = sqlx::raw_sql(query).fetch_one(conn).await;
    !row.and_then(|row| row.try_get("is_unassigned")).unwrap_or(false)
}

impl Deref for Transaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.inner
    }
}

impl DerefMut for Transaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.inner
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let can_write = self.open.own.is_some();
        f.debug_struct("Transaction").field("can_write", &can_write).finish_non_exhaustive()
    }
}
