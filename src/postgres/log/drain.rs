//! One drain of the log: reads the changes that have become visible since an earlier snapshot.

use sqlx::{PgExecutor, Row};

use super::detail::ChangeDetail;
use super::{LogSnapshot, Snapshot, epoch, in_progress, position};
use crate::broken::is_broken;
use crate::entry::{Epoch, Position};
use crate::postgres::lsn;

/// The changes that have become visible since an earlier snapshot.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they have nothing to do with each other")]
pub(crate) struct Drained {
    pub(crate) epoch: Epoch,
    /// Every change reported here committed at or before this.
    pub(crate) fence: Position,
    /// A position that the WAL has reached: past the fence, if there are changes.
    pub(crate) seen: Position,
    /// The schema has changed between the snapshot and `seen`; the next drain reports it.
    pub(crate) unsettled: bool,
    pub(crate) snapshot: Snapshot,
    /// Each tag once.
    pub(crate) tags: Vec<String>,
    /// Running writers that may commit without a notification, since another one's was being sent.
    pub(crate) in_progress: Vec<u64>,
    /// Rows may have been trimmed before this node read them.
    pub(crate) trimmed: bool,
    /// A changed table or column may have had another name at the time of the change.
    pub(crate) renamed: bool,
    /// More changed than a drain may read: anything may have.
    pub(crate) overflowed: bool,
    /// The schema was changed, as recorded by event triggers.
    pub(crate) schema_changed: bool,
    /// The changes of some tables are read from the write-ahead log.
    pub(crate) published: bool,
    /// Whether commits reliably wake the listener.
    pub(crate) wakeups: bool,
    /// Whether NOTIFY is suppressed now.
    pub(crate) notify_suppressed: bool,
}

impl Drained {
    /// Up to where the log was read.
    pub(crate) fn log_snapshot(&self) -> LogSnapshot {
        LogSnapshot { epoch: self.epoch, snapshot: self.snapshot.clone() }
    }

    /// Whether anything may have changed, including rows without a tag here.
    pub(crate) fn is_all(&self) -> bool {
        self.trimmed || self.renamed || self.schema_changed || self.overflowed
    }
}

/// The options of a drain.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DrainMode {
    /// Take a position past every fence even if nothing has changed.
    pub(crate) announce: bool,
    /// If at least this many commits are found, suppress NOTIFY until [`resume_notify`].
    pub(crate) suppress_notify_from: Option<u32>,
}

/// Reads the changes that have become visible since `prev`, the snapshot of the previous drain; `None` if they exceed the
/// budget of this detail. Takes a position past every fence if there are any changes.
pub(super) async fn attempt(
    conn: impl PgExecutor<'_>,
    prev: &Snapshot,
    mode: DrainMode,
    detail: ChangeDetail,
) -> Result<Option<Drained>, sqlx::Error> {
    let prev = if is_broken("drain") { prev.with_all_ended() } else { prev.clone() };
    let budget = detail.budget();
    let query = sqlx::query(include_str!("../sql/drain.sql")).bind(prev.0);
    let query = query
        .bind(mode.announce)
        .bind(mode.suppress_notify_from.map(i64::from))
        .bind(detail as i32);
    let query = query.bind(budget.rows).bind(budget.bytes).bind(budget.keys);
    let row = query.fetch_one(conn).await?;
    if row.try_get("over")? {
        return Ok(None);
    }
    let fence = position(&row, "fence")?;
    let announced: Option<&str> = row.try_get("announced")?;
    Ok(Some(Drained {
        epoch: epoch(&row)?,
        fence,
        seen: announced.map_or(Ok(fence), lsn::read)?,
        unsettled: row.try_get("unsettled")?,
        snapshot: Snapshot(row.try_get("snapshot")?),
        tags: row.try_get("tags")?,
        in_progress: in_progress(&row)?,
        trimmed: row.try_get("trimmed")?,
        renamed: row.try_get("renamed")?,
        overflowed: detail == ChangeDetail::Nothing,
        schema_changed: row.try_get("schema_changed")? && !is_broken("schema"),
        published: row.try_get("published")?,
        wakeups: row.try_get("wakeups")?,
        notify_suppressed: row.try_get::<Option<bool>, _>("notify_suppressed")?.unwrap_or(false),
    }))
}
