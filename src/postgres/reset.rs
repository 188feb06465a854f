//! Resets the state that statements leave behind in a session.
//!
//! A statement's dependencies are looked up once for all connections of a pool, and a connection serves one request after
//! another. A setting (`set time zone`), a temporary table with the name of a real one, or an open transaction would change
//! what later statements return, and these results would be stored for everyone. Poolers reset sessions for the same reason
//! (PgBouncer: `server_reset_query`; PostgreSQL manual, "RESET", "DISCARD").

use sqlx::{Error, PgConnection, Row};

const RESET: &str =
    concat!("reset session authorization; reset role; reset all; ", include_str!("sql/left.sql"));

const LEFT: &str = include_str!("sql/left.sql");

/// A reset would also undo the settings that a proxy made after opening the session, as PgBouncer does for each client in
/// session mode.
const IS_AS_OPENED: &str = "select not exists
    (select from pg_catalog.pg_settings where source operator(pg_catalog.=) 'session') as is_as_opened";

/// Whether a session that was opened just now is the same after a reset.
pub(super) async fn is_resettable(conn: &mut PgConnection) -> Result<bool, Error> {
    sqlx::raw_sql(IS_AS_OPENED).fetch_one(conn).await?.try_get("is_as_opened")
}

/// Releases a session's advisory locks, and resets its settings to those at its start, if that is possible. If anything
/// else remains that would affect later statements, returns what it is; the session must then be closed.
pub(super) async fn reset(
    conn: &mut PgConnection,
    is_resettable: bool,
) -> Result<Option<&'static str>, Error> {
    let sql = if is_resettable { RESET } else { LEFT };
    let rows = sqlx::raw_sql(sql).fetch_all(conn).await?;
    let row = rows.first().ok_or(Error::RowNotFound)?;
    Ok(match (row.try_get("in_transaction")?, row.try_get("has_temporary_objects")?) {
        (true, _) => Some("an open transaction"),
        (false, true) => Some("temporary objects"),
        (false, false) => None,
    })
}
