//! A transaction whose `BEGIN` is cancelled.
//!
//! sqlx counts a transaction once the response to its `BEGIN` has arrived, and rolls back only counted transactions
//! (`begin` and `start_rollback` in sqlx-postgres 0.9.0, transaction.rs;
//! <https://github.com/transact-rs/sqlx/issues/4393>). If the caller is cancelled before that, as when a client
//! disconnects, the connection returns to its pool with an open transaction: the next user's writes are never committed,
//! and its reads hold their locks, which on a replica blocks replay.

use sqlx::{Error, Postgres, SqlSafeStr, Transaction};
use tokio::time::timeout;

use super::checkout::RETURN_WITHIN;
use super::deadline::no_response;
use super::server::Server;

impl Server {
    /// Begins a transaction in a separate task. If the caller is cancelled, the task still waits for the response, and
    /// rolls back. If the server does not respond in time, it is considered lost with all its pooled connections, so this
    /// connection is closed on its return.
    pub(crate) async fn begin(
        &self,
        sql: &'static str,
    ) -> Result<Transaction<'static, Postgres>, Error> {
        let server = self.clone();
        let begun = tokio::spawn(async move {
            let conn = server.pooled().await?;
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
}
