//! Detects whether a host name leads to a proxy that shares server sessions between clients.
//!
//! Such a proxy (PgBouncer in transaction mode, RDS Proxy) may run two statements of one connection in two sessions, even
//! on two servers. So nothing that one statement returns about the server holds for the next, unless both are in one
//! transaction. And a prepared statement exists for the next transaction only if the proxy provides for it.

use sqlx::{Connection, PgConnection, Row};

use super::connector::Connector;

/// The number of connections opened for detection: a name may lead to several proxies, and each needs two connections.
const CONNECTIONS: usize = 6;

/// How sessions are assigned to connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionMode {
    /// One session per connection.
    Own,
    /// One session per transaction.
    Shared,
    /// One session per transaction, and the proxy confuses prepared statements of different clients.
    Mixed,
}

/// Detects the session mode. Sessions are shared if two connections lead to the same server process, or if one connection
/// leads to a different process than before.
pub(crate) async fn sessions(connector: &Connector) -> Result<SessionMode, sqlx::Error> {
    let (mut conns, mut seen): (Vec<PgConnection>, Vec<Backend>) = (Vec::new(), Vec::new());
    let mut found = SessionMode::Own;
    // At least two: a statement prepared on one is looked for on the other.
    while conns.len() < 2 || (found == SessionMode::Own && conns.len() < CONNECTIONS) {
        let mut conn = connector.open().await?;
        let behind = backend(&mut conn).await?;
        if seen.contains(&behind) || backend(&mut conn).await? != behind {
            found = SessionMode::Shared;
        }
        conns.push(conn);
        seen.push(behind);
    }
    // The first may have been served by another's session meanwhile.
    for (conn, known) in conns.iter_mut().zip(&seen) {
        if found == SessionMode::Own && backend(conn).await? != *known {
            found = SessionMode::Shared;
        }
    }
    if found == SessionMode::Shared && mix(&mut conns).await? {
        found = SessionMode::Mixed;
    }
    for conn in conns {
        // Their work is done, so an error in closing does not matter.
        let _ = conn.close().await;
    }
    Ok(found)
}

/// Whether one of some connections could run what another has prepared.
async fn mix(conns: &mut [PgConnection]) -> Result<bool, sqlx::Error> {
    let Some((one, others)) = conns.split_last_mut() else { return Ok(false) };
    for other in others {
        if is_mixed(one, other).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A server's process, and when that server was started.
type Backend = (i32, i64);

/// What is behind a connection.
async fn backend(conn: &mut PgConnection) -> Result<Backend, sqlx::Error> {
    let asked = "select pg_catalog.pg_backend_pid() as pid,
        (extract(epoch from pg_catalog.pg_postmaster_start_time()) operator(pg_catalog.*) 1000000)::bigint as started";
    let row = sqlx::raw_sql(asked).fetch_one(conn).await?;
    Ok((row.try_get("pid")?, row.try_get("started")?))
}

/// Whether `other` could run a statement that `one` has prepared, under the name that it has for `one`.
async fn is_mixed(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let text = format!("select $1::int as tidegate_{:016x}", fastrand::u64(..));
    let prepared = sqlx::query(sqlx::AssertSqlSafe(text.clone())).bind(1).execute(one).await;
    if prepared.is_err_and(|error| error.as_database_error().is_some()) {
        // Another client's statement has this name, or the statement does not exist for the next message.
        return Ok(true);
    }
    // The driver's names begin so; a proxy that keeps statements apart gives them others.
    let asked = format!(
        "select exists (select from pg_catalog.pg_prepared_statements
            where statement operator(pg_catalog.=) '{text}' and pg_catalog.starts_with(name, 'sqlx_'))"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(asked)).fetch_one(other).await?.try_get(0)
}
