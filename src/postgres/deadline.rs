//! Time limits for a listener's statements on the primary.

use std::io;
use std::time::Duration;

use sqlx::PgExecutor;
use tokio::time::timeout;

/// The statement timeout of a listener's connection.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// If a statement takes longer, the primary is lost: otherwise it would have ended the statement itself by then
/// ([`STATEMENT_TIMEOUT`]).
pub(crate) const PATIENCE: Duration = Duration::from_secs(3);

/// Sets how long the server spends on each statement that follows.
pub(crate) async fn limit_statements(
    conn: impl PgExecutor<'_>,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    let set = "select pg_catalog.set_config('statement_timeout', $1, false)";
    let limit = format!("{}ms", limit.as_millis());
    sqlx::query(set).bind(limit).execute(conn).await.map(drop)
}

/// A statement that takes too long has failed.
pub(crate) async fn within<T>(
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    within_limit(PATIENCE, work).await
}

/// As [`within`], for what may take longer.
pub(crate) async fn within_limit<T>(
    limit: Duration,
    work: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(limit, work).await.unwrap_or_else(|_late| Err(no_response(limit)))
}

/// That a server did not respond in time.
pub(crate) fn no_response(limit: Duration) -> sqlx::Error {
    late(format!("no response within {limit:?}"))
}

/// The error of a statement that took too long.
pub(crate) fn late(why: String) -> sqlx::Error {
    io::Error::new(io::ErrorKind::TimedOut, why).into()
}

/// Whether a statement took too long.
pub(crate) fn is_late(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Io(error) if error.kind() == io::ErrorKind::TimedOut)
}
