//! Limits the cost of reading the log. Exceeding a limit costs detail, never progress.
//!
//! A statement that exceeds its budget is not retried as it is: the next attempt reads less, down to nothing, which
//! invalidates everything stored before. So a node can follow a log of any length, and can start with it.

use sqlx::PgExecutor;

use super::detail::{Budget, ChangeDetail};
use super::drain::{self, DrainMode, Drained};
use super::load::{self, LoadedLog};
use super::{Snapshot, load::cold, resume_notify};
use crate::postgres::deadline::within;
use crate::postgres::sql_error::sql_state;

/// The maximum that a starting node reads: about a second's work. Results stored before the first of these rows are
/// recomputed.
const LOAD: Budget = Budget { rows: 100_000, bytes: i64::MAX, keys: 100_000 };

/// Reads the changes that have become visible since `prev`, the snapshot of the previous drain, in as much detail as the
/// budget allows.
///
/// `detail` is set to that of the next attempt, even if this one fails: a detail that was too much on one connection is
/// not tried again on the next.
pub(crate) async fn drain<C>(
    conn: &mut C,
    prev: &Snapshot,
    mode: DrainMode,
    detail: &mut ChangeDetail,
) -> Result<Drained, sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    loop {
        let attempt = within(drain::attempt(&mut *conn, prev, mode, *detail)).await;
        let why = match attempt {
            Ok(Some(drained)) => {
                *detail = ChangeDetail::Rows;
                return Ok(drained);
            }
            Ok(None) => "more rows than a drain reads".to_owned(),
            Err(error) if is_too_much(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        let less = detail.less();
        if let Some(less) = less {
            // First of all, so that an error below does not lead to the same attempt on the next connection.
            *detail = less;
            tracing::warn!(why, detail = ?less, "changes can't be read in full: more entries become invalid than have changed");
        }
        if mode.suppress_notify_from.is_some() {
            // The lock belongs to the session, so it outlives the statement that took it and then failed.
            within(resume_notify(&mut *conn)).await?;
        }
        if less.is_none() {
            return Err(sqlx::Error::Protocol(why));
        }
    }
}

/// Loads the log for a starting node, within a budget.
pub(crate) async fn load<C>(conn: &mut C, schema: i64) -> Result<LoadedLog, sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    match within(load::attempt(&mut *conn, schema, LOAD)).await {
        Err(error) if is_too_much(&error) => {
            tracing::warn!(%error, "the change log can't be read: everything that was stored before is invalid");
            within(cold(conn)).await
        }
        loaded => loaded,
    }
}

/// Whether the server aborted a statement because it takes too much: time (`57014`), memory or disk (class 53), or an
/// internal limit (class 54; some have only the code `XX000`); or because a value can't be converted to UTF-8 (`22021`,
/// `22P05`), which would fail each time. See "PostgreSQL Error Codes", appendix A of its documentation.
fn is_too_much(error: &sqlx::Error) -> bool {
    const CODES: [&str; 4] = ["57014", "XX000", "22021", "22P05"];
    sql_state(error).is_some_and(|code| {
        CODES.contains(&&*code) || code.starts_with("53") || code.starts_with("54")
    })
}
