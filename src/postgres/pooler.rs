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
    let first = open(connector).await?;
    if !first.is_steady {
        found = SessionMode::Shared;
    }
    let (mut conns, mut seen) = (vec![first.conn], vec![first.backend]);
    // At least two: a statement prepared on one is looked for on the other.
    while conns.len() < 2 || (found == SessionMode::Own && conns.len() < CONNECTIONS) {
        let probe = match conns.len() == 1 && !is_declared {
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
        if seen.contains(&probe.backend) || !probe.is_steady {
            found = SessionMode::Shared;
        }
        conns.push(probe.conn);
        seen.push(probe.backend);
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

/// A connection whose backend was queried twice.
struct ProbedConnection {
    conn: PgConnection,
    backend: Backend,
    /// Whether both statements ran on it.
    is_steady: bool,
}

async fn open(connector: &Connector) -> Result<ProbedConnection, sqlx::Error> {
    let mut conn = connector.open().await?;
    let first = backend(&mut conn).await?;
    let is_steady = backend(&mut conn).await? == first;
    Ok(ProbedConnection { conn, backend: first, is_steady })
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

/// A process of a server.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Backend {
    process: i32,
    /// When the server was started, in microseconds since 1970.
    started: i64,
}

/// The process that runs a statement of a connection.
async fn backend(conn: &mut PgConnection) -> Result<Backend, sqlx::Error> {
    let sql = "select pg_catalog.pg_backend_pid() as pid,
        (extract(epoch from pg_catalog.pg_postmaster_start_time()) operator(pg_catalog.*) 1000000)::bigint as started";
    let row = sqlx::raw_sql(sql).fetch_one(conn).await?;
    Ok(Backend { process: row.try_get("pid")?, started: row.try_get("started")? })
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
