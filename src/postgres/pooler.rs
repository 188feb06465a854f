//! Detects whether a host name leads to a proxy that shares server sessions between clients.
//!
//! Such a proxy (PgBouncer in transaction mode, RDS Proxy) may run two statements of one connection in two sessions, even
//! on two servers. So nothing that one statement returns about the server holds for the next, unless both are in one
//! transaction. And a prepared statement exists for the next transaction only if the proxy provides for it.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Row};

use super::connector::Connector;
use super::deadline::within_limit;

/// The number of connections opened for detection: a name may lead to several proxies, and each needs two connections.
const CONNECTIONS: usize = 6;

/// How long a connection that detection can do without may take to open.
const SPARE_WITHIN: Duration = Duration::from_secs(2);

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

/// Detects the session mode, and returns it with one of the connections that it opened. Sessions are shared if that is
/// declared, if two connections lead to the same server process, or if one connection leads to a different process than
/// before.
///
/// The server or a proxy may have few connections left. So two are enough, or one if shared sessions are declared; if no
/// further one opens soon, the mode is decided without it.
pub(crate) async fn sessions(
    connector: &Connector,
    is_declared: bool,
) -> Result<(SessionMode, PgConnection), sqlx::Error> {
    let mut found = if is_declared { SessionMode::Shared } else { SessionMode::Own };
    let (first, behind, is_steady) = open(connector).await?;
    if !is_steady {
        found = SessionMode::Shared;
    }
    let (mut conns, mut seen) = (vec![first], vec![behind]);
    // At least two: a statement prepared on one is looked for on the other.
    while conns.len() < 2 || (found == SessionMode::Own && conns.len() < CONNECTIONS) {
        let (conn, behind, is_steady) = match conns.len() == 1 && !is_declared {
            true => open(connector).await?,
            false => match within_limit(SPARE_WITHIN, open(connector)).await {
                Ok(opened) => opened,
                Err(error) if conns.len() < 2 => {
                    tracing::warn!(
                        %error,
                        "no second connection could be opened, so Tidegate does not check whether the proxy mixes up \
                         prepared statements of different clients"
                    );
                    break;
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        open = conns.len(),
                        "fewer connections than usual could be opened to detect a transaction-pooling proxy: if there is one, \
                         declare it with DatabaseOptions::pooled"
                    );
                    break;
                }
            },
        };
        if seen.contains(&behind) || !is_steady {
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
    let kept = conns.swap_remove(0);
    for conn in conns {
        // Their work is done, so an error in closing does not matter.
        let _ = conn.close().await;
    }
    Ok((found, kept))
}

/// Opens a connection; returns also what is behind it, and whether the next statement finds the same.
async fn open(connector: &Connector) -> Result<(PgConnection, Backend, bool), sqlx::Error> {
    let mut conn = connector.open().await?;
    let behind = backend(&mut conn).await?;
    let is_steady = backend(&mut conn).await? == behind;
    Ok((conn, behind, is_steady))
}

/// Whether any of these connections could run a statement that another one has prepared.
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
    let sql = "select pg_catalog.pg_backend_pid() as pid,
        (extract(epoch from pg_catalog.pg_postmaster_start_time()) operator(pg_catalog.*) 1000000)::bigint as started";
    let row = sqlx::raw_sql(sql).fetch_one(conn).await?;
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
    let sql = format!(
        "select exists (select from pg_catalog.pg_prepared_statements
            where statement operator(pg_catalog.=) '{text}' and pg_catalog.starts_with(name, 'sqlx_'))"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).fetch_one(other).await?.try_get(0)
}
