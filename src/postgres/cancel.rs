//! A transaction whose `BEGIN` is cancelled.
//!
//! sqlx counts a transaction from the response to its `BEGIN` on, and rolls back what it has counted (`begin` and
//! `start_rollback` in sqlx-postgres 0.9.0, transaction.rs; <https://github.com/transact-rs/sqlx/issues/4393>). Cancelled
//! before, as when a client disconnects, it goes back to its pool with a transaction that nobody ends: the next one's
//! writes are never committed, and what its reads lock stays locked, on a replica against replay.

use sqlx::{Error, PgConnection, Postgres, SqlSafeStr, Transaction};
use tokio::time::timeout;

use super::checkout::{Checkout, RETURN_WITHIN};
use super::deadline::no_response;
use super::server::Server;

/// Begins a transaction, in a task of its own: if the caller is cancelled, the task goes on to the response, and rolls
/// back. A server that does not respond to this in time is lost, and its pool's connections with it: so this one is closed
/// where it comes back.
pub(super) async fn begin(
    server: &Server,
    sql: &'static str,
) -> Result<Transaction<'static, Postgres>, Error> {
    let server = server.clone();
    let begun = tokio::spawn(async move {
        let conn = server.pool().acquire().await?;
        let mut begun = Transaction::begin(conn, Some(sql.into_sql_str()));
        timeout(RETURN_WITHIN, &mut begun).await.unwrap_or_else(|_late| {
            // Before the connection is dropped.
            server.renew();
            Err(no_response(RETURN_WITHIN))
        })
    });
    // The task does not panic, so the runtime is ending.
    begun.await.unwrap_or(Err(Error::WorkerCrashed))
}

/// Lends a connection to work that begins transactions. If the work is cancelled, the connection is closed.
pub(super) struct CloseOnCancel<'a> {
    conn: &'a mut Checkout,
    is_done: bool,
}

impl<'a> CloseOnCancel<'a> {
    pub(super) fn new(conn: &'a mut Checkout) -> Self {
        Self { conn, is_done: false }
    }

    pub(super) fn get(&mut self) -> &mut PgConnection {
        self.conn
    }

    /// The work has come to its end, whatever its result is.
    pub(super) fn done(mut self) {
        self.is_done = true;
    }
}

impl Drop for CloseOnCancel<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.conn.close();
        }
    }
}
