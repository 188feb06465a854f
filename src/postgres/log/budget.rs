//! What reading the log may cost. Past it detail is lost, and never progress.
//!
//! A statement that exceeds its budget is not tried again: the next attempt reads less, down to nothing of the log at all,
//! from when on everything that was stored before is invalid. So a log of any length is followed, and started from.

use sqlx::PgExecutor;

use super::drain::{self, DrainMode, Drained};
use super::load::{self, LoadedLog};
use super::{Snapshot, load::cold, release_locks};
use crate::postgres::deadline::within;
use crate::postgres::error::sql_state;

/// How exactly changes are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ChangeDetail {
    /// By the rows that changed, as far as their writers noted them.
    #[default]
    Rows = 0,
    /// By the tables that changed, each as a change of all of its rows.
    Tables = 1,
    /// Not at all: anything may have changed.
    Nothing = 2,
}

/// What one statement may read. Time is bounded too, by [`STATEMENT_TIMEOUT`](super::STATEMENT_TIMEOUT).
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Of the log.
    pub(super) rows: i64,
    /// The size of their tags as they are stored, which may be compressed.
    pub(super) bytes: i64,
    /// Tags in all.
    pub(super) keys: i64,
}

/// What a node that starts reads at most: about a second's work. What was stored before the first of these rows is
/// computed again.
const LOAD: Budget = Budget { rows: 100_000, bytes: i64::MAX, keys: 100_000 };

impl ChangeDetail {
    pub(super) const fn budget(self) -> Budget {
        match self {
            Self::Rows => Budget { rows: 50_000, bytes: 8 << 20, keys: 50_000 },
            Self::Tables | Self::Nothing => {
                Budget { rows: 1_000_000, bytes: 8 << 20, keys: 50_000 }
            }
        }
    }

    const fn less(self) -> Option<Self> {
        match self {
            Self::Rows => Some(Self::Tables),
            Self::Tables => Some(Self::Nothing),
            Self::Nothing => None,
        }
    }
}

/// What has become visible since `prev`, the snapshot of the drain before, in as much `detail` as there is a budget for.
///
/// `detail` is what the next attempt begins with, whatever becomes of this one: what was too much on one connection is not
/// tried on the next.
pub(crate) async fn drain<C>(
    conn: &mut C,
    prev: &Snapshot,
    manner: DrainMode,
    detail: &mut ChangeDetail,
) -> Result<Drained, sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    loop {
        let attempt = within(drain::attempt(&mut *conn, prev, manner, *detail)).await;
        let why = match attempt {
            Ok(Some(drained)) => {
                *detail = ChangeDetail::Rows;
                return Ok(drained);
            }
            Ok(None) => "more rows than a drain reads".to_owned(),
            Err(error) if is_too_much(&error) => error.to_string(),
            Err(error) => return Err(error),
        };
        if manner.hush.is_some() {
            // The lock belongs to the session, so it outlives the statement that took it and then failed.
            within(release_locks(&mut *conn)).await?;
        }
        let Some(less) = detail.less() else { return Err(sqlx::Error::Protocol(why)) };
        *detail = less;
        tracing::warn!(why, detail = ?less, "changes can't be read as they are: they are told in less detail");
    }
}

/// What a node that starts can know of the log within a budget.
pub(crate) async fn load<C>(conn: &mut C, schema: i64) -> Result<LoadedLog, sqlx::Error>
where
    for<'c> &'c mut C: PgExecutor<'c>,
{
    match within(load::attempt(&mut *conn, schema, LOAD)).await {
        Err(error) if is_too_much(&error) => {
            tracing::warn!(%error, "the log of changes can't be read: all that was stored before is invalid");
            within(cold(conn)).await
        }
        loaded => loaded,
    }
}

/// Whether the server gave a statement up for what it takes: time (`57014`), memory or disk (class 53), or a limit of its
/// own (class 54; some have no code but `XX000`); or could not write a value in UTF-8 (`22021`, `22P05`), which it would
/// give up each time. See "PostgreSQL Error Codes", appendix A of its documentation.
fn is_too_much(error: &sqlx::Error) -> bool {
    const CODES: [&str; 4] = ["57014", "XX000", "22021", "22P05"];
    sql_state(error).is_some_and(|code| {
        CODES.contains(&&*code) || code.starts_with("53") || code.starts_with("54")
    })
}
