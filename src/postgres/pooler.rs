//! Finding out whether a name leads to a proxy that gives one server session to several clients.
//!
//! Such a proxy (PgBouncer in transaction mode, RDS Proxy) may serve two statements of one connection by two
//! sessions, and by two servers. So nothing that one statement says holds for the next, unless a transaction
//! keeps them together. And a prepared statement is there for the next only if the proxy sees to that.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection, Row};

/// How often both connections are asked. Where nobody else is busy, once does.
const ROUNDS: u32 = 3;

/// How a name hands out sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sessions {
    /// One to each connection.
    Own,
    /// One to each transaction.
    Shared,
    /// The same, and one client's prepared statements are taken for another's.
    Mixed,
}

/// Finds out how a name hands out sessions.
pub(crate) async fn sessions(options: &PgConnectOptions) -> Result<Sessions, sqlx::Error> {
    let mut one = options.connect().await?;
    let mut other = options.connect().await?;
    let mut found = Sessions::Own;
    let first = backend(&mut one).await?;
    for _ in 0..ROUNDS {
        let pair = (backend(&mut one).await?, backend(&mut other).await?);
        if pair.0 == pair.1 || pair.0 != first {
            found = Sessions::Shared;
        }
        if found == Sessions::Shared && is_mixed(&mut one, &mut other).await? {
            found = Sessions::Mixed;
            break;
        }
    }
    drop((one.close().await, other.close().await));
    Ok(found)
}

/// The server's process behind a connection, and when that server was started.
async fn backend(conn: &mut PgConnection) -> Result<(i32, i64), sqlx::Error> {
    let asked = "select pg_backend_pid() as pid,
        extract(epoch from pg_postmaster_start_time())::int8 as started";
    let row = sqlx::raw_sql(asked).fetch_one(conn).await?;
    Ok((row.try_get("pid")?, row.try_get("started")?))
}

/// Whether `other` could run what `one` has prepared, by the name that it goes by for `one`.
async fn is_mixed(one: &mut PgConnection, other: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let text = format!("select $1::int4 as tidegate_{:016x}", fastrand::u64(..));
    let prepared = sqlx::query(sqlx::AssertSqlSafe(text.clone())).bind(1).execute(one).await;
    if prepared.is_err_and(|error| error.as_database_error().is_some()) {
        // The name is taken, by somebody else's statement, or is not there for the next message.
        return Ok(true);
    }
    // The driver's names begin so; a proxy that keeps statements apart gives them others.
    let asked = format!(
        "select exists (select from pg_prepared_statements where statement = '{text}' and name like 'sqlx\\_%')"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(asked)).fetch_one(other).await?.try_get(0)
}
