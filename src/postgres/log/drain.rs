//! One look at the log: what has become visible since an earlier snapshot.

use sqlx::{PgExecutor, Row};

use super::budget::ChangeDetail;
use super::{Snapshot, epoch, in_progress, position};
use crate::broken::is_broken;
use crate::entry::{Epoch, Position};
use crate::postgres::lsn;

/// What has become visible since an earlier snapshot.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they have nothing to do with each other")]
pub(crate) struct Drained {
    pub(crate) epoch: Epoch,
    /// Every change that is told of here committed at or before this.
    pub(crate) fence: Position,
    /// A position that the log has reached: past the fence, if there is news.
    pub(crate) seen: Position,
    /// The schema has changed between the snapshot and that position, which the next drain tells.
    pub(crate) unsettled: bool,
    pub(crate) snapshot: Snapshot,
    /// Each tag once.
    pub(crate) tags: Vec<String>,
    /// Writers that may commit unheard, since another's wake-up was under way.
    pub(crate) in_progress: Vec<u64>,
    /// Rows that were never seen may be gone.
    pub(crate) trimmed: bool,
    /// What changed may have had another name when it did.
    pub(crate) renamed: bool,
    /// More changed than a drain may read: anything may have.
    pub(crate) overflowed: bool,
    /// The schema was changed, as event triggers noted.
    pub(crate) reshaped: bool,
    /// Whether a commit can be counted on to wake the listener.
    pub(crate) wakeups: bool,
    /// Whether commits are kept from it now.
    pub(crate) hushed: bool,
}

impl Drained {
    /// Whether anything may have changed, whatever the tags say.
    pub(crate) fn is_all(&self) -> bool {
        self.trimmed || self.renamed || self.reshaped || self.overflowed
    }
}

/// How a drain is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DrainMode {
    /// Take a position past every fence even if there is no news.
    pub(crate) announce: bool,
    /// If it is this many commits that are found, keep the next from waking listeners until [`unhush`].
    pub(crate) hush: Option<u32>,
}

/// What has become visible since `prev`, the snapshot of the drain before, in some detail; `None` if it is more than that
/// detail has a budget for. Takes a position past every fence if there is any news.
pub(super) async fn attempt(
    conn: impl PgExecutor<'_>,
    prev: &Snapshot,
    manner: DrainMode,
    detail: ChangeDetail,
) -> Result<Option<Drained>, sqlx::Error> {
    let prev = if is_broken("drain") { prev.with_all_ended() } else { prev.clone() };
    let budget = detail.budget();
    let query = sqlx::query(include_str!("../sql/drain.sql")).bind(prev.0);
    let query = query.bind(manner.announce).bind(manner.hush.map(i64::from)).bind(detail as i32);
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
        reshaped: row.try_get("reshaped")? && !is_broken("schema"),
        wakeups: row.try_get("wakeups")?,
        hushed: row.try_get::<Option<bool>, _>("hushed")?.unwrap_or(false),
    }))
}
