//! Finding out whether a name leads to a proxy that gives one server session to several clients.
//!
//! Such a proxy (PgBouncer in transaction mode, RDS Proxy) may serve two statements of one connection by two
//! sessions, and by two servers. So nothing that one statement says holds for the next, unless a transaction
//! keeps them together. And a prepared statement is there for the next only if the proxy sees to that.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

/// Connections that are opened to find out: a name may lead to several proxies, and two to each of those.
const CONNECTIONS: usize = 6;

/// How a name hands out sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SessionMode {
    /// One to each connection.
    Own,
    /// One to each transaction.
    Shared,
    /// The same, and one client's prepared statements are taken for another's.
    Mixed,
}

/// Finds out how a name hands out sessions: connections that lead to one process share it, and so does one that
/// leads to another than before.
pub(crate) async fn sessions(options: &PgConnectOptions) -> Result<SessionMode, sqlx::Error> {
    let (mut conns, mut seen): (Vec<PgConnection>, Vec<Backend>) = (Vec::new(), Vec::new());
    let mut found = SessionMode::Own;
    // Two at least: what one prepares is looked for on another.
    while conns.len() < 2 || (found == SessionMode::Own && conns.len() < CONNECTIONS) {
        let mut conn = options.connect().await?;
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
        // They have served their purpose.
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
        extract(epoch from pg_catalog.pg_postmaster_start_time())::bigint as started";
    let row = sqlx::raw_sql(asked).fetch_one(conn).await?;
    Ok((row.try_get("pid")?, row.try_get("started")?))
}

/// Whether `other` could run what `one` has prepared, by the name that it goes by for `one`.
async fn is_mixed(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let text = format!("select $1::int as tidegate_{:016x}", fastrand::u64(..));
    let prepared = sqlx::query(sqlx::AssertSqlSafe(text.clone())).bind(1).execute(one).await;
    if prepared.is_err_and(|error| error.as_database_error().is_some()) {
        // The name is taken, by somebody else's statement, or is not there for the next message.
        return Ok(true);
    }
    // The driver's names begin so; a proxy that keeps statements apart gives them others.
    let asked = format!(
        "select exists (select from pg_catalog.pg_prepared_statements
            where statement operator(pg_catalog.=) '{text}' and pg_catalog.starts_with(name, 'sqlx_'))"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(asked)).fetch_one(other).await?.try_get(0)
}
