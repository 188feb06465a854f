//! Loads the log when a node starts.

use sqlx::{PgExecutor, Row};

use super::detail::{Budget, ChangeDetail};
use super::drain::{self, DrainMode};
use super::{Snapshot, epoch, position};
use crate::entry::{Epoch, Position};
use crate::postgres::fingerprint::FINGERPRINT_KNOWN_WITHIN;
use crate::postgres::lsn;

/// The state at start: the fences of the changes that the log still contains.
#[derive(Debug)]
pub(crate) struct LoadedLog {
    pub(crate) epoch: Epoch,
    pub(crate) snapshot: Snapshot,
    /// The fence of every tag without its own fence.
    pub(crate) floor: Position,
    pub(crate) fences: Vec<(String, Position)>,
    /// A position at or past every change reported here.
    pub(crate) seen: Position,
    /// The fingerprint has changed recently: other nodes may not have noticed it yet.
    pub(crate) is_settling: bool,
    /// The changes of some tables are read from the write-ahead log.
    pub(crate) published: bool,
    pub(crate) wakeups: bool,
}

/// Reads the log and its marks as far back as a budget allows, for a starting node that has read the schema's fingerprint.
pub(super) async fn attempt(
    conn: impl PgExecutor<'_>,
    schema: i64,
    budget: Budget,
) -> Result<LoadedLog, sqlx::Error> {
    let query = sqlx::query(include_str!("../sql/load.sql")).persistent(false);
    let query = query.bind(schema).bind(budget.rows).bind(budget.keys);
    let query = query.bind(FINGERPRINT_KNOWN_WITHIN.as_secs_f64());
    let row = query.fetch_one(conn).await?;
    let seen = position(&row, "fence")?;
    let or_seen = |text: Option<String>| text.map_or(Ok(seen), |text| lsn::read(&text));
    let tags: Vec<String> = row.try_get("tags")?;
    let fences: Vec<Option<String>> = row.try_get("fences")?;
    let fences = fences.into_iter().map(or_seen).collect::<Result<Vec<_>, _>>()?;
    Ok(LoadedLog {
        epoch: epoch(&row)?,
        snapshot: Snapshot(row.try_get("snapshot")?),
        floor: or_seen(row.try_get("floor")?)?,
        fences: tags.into_iter().zip(fences).collect(),
        seen,
        is_settling: row.try_get("is_settling")?,
        published: row.try_get("published")?,
        wakeups: row.try_get("wakeups")?,
    })
}

/// Starts without reading the log: everything that was stored before is invalid.
pub(crate) async fn cold(conn: impl PgExecutor<'_>) -> Result<LoadedLog, sqlx::Error> {
    let nothing_seen = Snapshot("3:3:".to_owned());
    let mode = DrainMode { announce: true, suppress_notify_from: None };
    let drained = drain::attempt(conn, &nothing_seen, mode, ChangeDetail::Nothing).await?;
    // Nothing is read, so no budget is exceeded.
    let drained = drained.ok_or(sqlx::Error::RowNotFound)?;
    Ok(LoadedLog {
        epoch: drained.epoch,
        snapshot: drained.snapshot,
        floor: drained.fence,
        fences: Vec::new(),
        seen: drained.seen,
        is_settling: true,
        published: drained.published,
        wakeups: drained.wakeups,
    })
}
