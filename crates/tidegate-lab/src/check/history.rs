//! The history of writes, as far as the writers know it.
//!
//! It is bounded: of everything older than [`REMEMBERED`], only the last committed version is stored. A response that may
//! be older is not judged; in practice there is none.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use tokio::time::Instant;

use super::{GROUPS, ROWS};

/// Far longer than the age of any node's last read of the log.
pub(crate) const REMEMBERED: Duration = Duration::from_secs(60);
/// How far replicas may lag in uncached reads: the default of `DatabaseOptions::max_lag`.
const MAX_LAG: Duration = Duration::from_secs(10);
/// The number of writes to a row from which old ones are removed.
const FEW: usize = 256;

/// Every write to every row.
pub(crate) struct History {
    /// The current primary's epoch, as nodes print it.
    epoch: RwLock<String>,
    rows: Vec<Mutex<Row>>,
    versions: AtomicU64,
}

/// The writes to one row, by version.
struct Row {
    writes: BTreeMap<u64, Write>,
    /// The oldest that is kept, and when it was committed.
    oldest: (u64, Instant),
    /// With more writes than this, old ones are dropped.
    most: usize,
}

/// One version of one row.
#[derive(Clone, Copy, Debug)]
struct Write {
    /// The group that the row is in from then on.
    group: u32,
    fate: Fate,
}

/// The fate of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Under way, or its connection broke: it may have been committed or not.
    Open,
    /// It was committed by this time.
    Committed(Instant),
    /// It was never there.
    RolledBack,
    /// A failover has lost it, if it was committed at all.
    Lost,
}

/// What is wrong with a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It lacks a write that it must have.
    Stale { row: usize, version: u64, must: u64 },
    /// It shows a version that was never committed.
    NeverWritten { row: usize, version: u64 },
    /// It shows a version that a failover has lost, although the node knew of the failover.
    Lost { row: usize, version: u64 },
    /// It shows a row in a group that it was not in.
    Group { row: usize, version: u64, group: u32 },
    /// It lacks a row.
    Missing { row: usize },
    /// It shows a schema that did not hold.
    Schema { shows: String, must: String },
    /// It does not have the requested form.
    Form { line: String },
}

impl Wrong {
    /// The row that is wrong, if it is a row.
    pub(crate) const fn row(&self) -> Option<usize> {
        match self {
            Self::Stale { row, .. }
            | Self::NeverWritten { row, .. }
            | Self::Lost { row, .. }
            | Self::Group { row, .. }
            | Self::Missing { row } => Some(*row),
            Self::Schema { .. } | Self::Form { .. } => None,
        }
    }
}

/// What a response must contain.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// It contains everything that was committed before this time.
    pub(crate) since: Option<Instant>,
    /// It contains this version, which its client has written.
    pub(crate) own: Option<(usize, u64)>,
    /// The node knew of the last failover.
    pub(crate) knows_failover: bool,
}

impl Demand {
    /// The promise for an uncached read by `db.reader()`: everything that the primary contained [`MAX_LAG`] ago, and the
    /// client's own writes. A replica of a history that has ended soon lags too far.
    pub(crate) fn of_a_plain_read(self) -> Self {
        let since = self.since.and_then(|since| since.checked_sub(MAX_LAG));
        Self { since, knows_failover: false, ..self }
    }
}

impl History {
    /// Each row has version 0, in the group that its number gives it.
    pub(crate) fn new(epoch: String) -> Self {
        Self {
            epoch: RwLock::new(epoch),
            rows: (0..ROWS).map(|row| Mutex::new(Row::new(row))).collect(),
            versions: AtomicU64::new(0),
        }
    }

    /// A version that is larger than every one before.
    pub(crate) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes a write that is about to be sent.
    pub(crate) fn begin(&self, row: usize, version: u64, group: u32) {
        self.row(row).writes.insert(version, Write { group, fate: Fate::Open });
    }

    /// Notes the fate of a write.
    pub(crate) fn end(&self, row: usize, version: u64, fate: Fate) {
        let mut row = self.row(row);
        if let Some(write) = row.writes.get_mut(&version)
            && write.fate == Fate::Open
        {
            write.fate = fate;
        }
        if let Fate::Committed(now) = fate {
            row.drop_old(now);
        }
    }

    /// The current epoch. No failover is noted while the guard lives, so a response is judged before it or after it:
    /// otherwise a response from before a failover would be wrong because it shows what was lost only then.
    pub(crate) fn epoch(&self) -> RwLockReadGuard<'_, String> {
        self.epoch.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_epoch(&self, epoch: String) {
        *self.epoch.write().unwrap_or_else(PoisonError::into_inner) = epoch;
    }

    /// Notes a failover after which each row has no version past these, and the epoch that it begins. Fails if the checker no
    /// longer knows the versions from before.
    pub(crate) fn fail_over(&self, survived: &[u64], next: String) -> Result<(), String> {
        let mut epoch = self.epoch.write().unwrap_or_else(PoisonError::into_inner);
        *epoch = next;
        for (row, survived) in survived.iter().enumerate() {
            let mut history = self.row(row);
            if *survived < history.oldest.0 {
                return Err(format!(
                    "row {row} went back to version {survived}, which is too old for the checker to know"
                ));
            }
            for (_, write) in history.writes.range_mut(survived + 1..) {
                if write.fate != Fate::RolledBack {
                    write.fate = Fate::Lost;
                }
            }
        }
        Ok(())
    }

    /// Judges one row of a response.
    pub(crate) fn judge(
        &self,
        row: usize,
        version: u64,
        group: u32,
        demand: &Demand,
    ) -> Result<(), Wrong> {
        let history = self.row(row);
        let (oldest, at) = history.oldest;
        match history.writes.get(&version).map(|write| (write.fate, write.group)) {
            None if version < oldest && demand.since.is_none_or(|since| since <= at) => {
                return Ok(());
            }
            None if version < oldest => return Err(Wrong::Stale { row, version, must: oldest }),
            None | Some((Fate::RolledBack, _)) => return Err(Wrong::NeverWritten { row, version }),
            Some((Fate::Lost, _)) if demand.knows_failover => {
                return Err(Wrong::Lost { row, version });
            }
            Some((_, is)) if is != group => return Err(Wrong::Group { row, version, group }),
            Some(_) => {}
        }
        let must = history.must(row, demand);
        if version < must { Err(Wrong::Stale { row, version, must }) } else { Ok(()) }
    }

    /// Judges the absence of a row from the response for a group.
    pub(crate) fn judge_absent(
        &self,
        row: usize,
        group: u32,
        demand: &Demand,
    ) -> Result<(), Wrong> {
        let history = self.row(row);
        if demand.since.is_none_or(|since| since <= history.oldest.1) {
            // What was dropped may have been in another group.
            return Ok(());
        }
        let must = history.must(row, demand);
        let elsewhere = |write: &Write| write.group != group && write.fate != Fate::RolledBack;
        let elsewhere = history.writes.range(must..).any(|(_, write)| elsewhere(write));
        if elsewhere { Ok(()) } else { Err(Wrong::Missing { row }) }
    }

    /// When the next version was committed, if there is one.
    pub(crate) fn outdated_since(&self, row: usize, version: u64) -> Option<Instant> {
        let newer = |write: &Write| match write.fate {
            Fate::Committed(at) => Some(at),
            _ => None,
        };
        self.row(row).writes.range(version + 1..).filter_map(|(_, write)| newer(write)).min()
    }

    /// The last writes to a row, as text.
    pub(crate) fn excerpt(&self, row: usize) -> String {
        let history = self.row(row);
        let last: Vec<_> = history.writes.iter().rev().take(12).collect();
        last.iter().rev().map(|(version, write)| format!("\n  {version}: {write:?}")).collect()
    }

    fn row(&self, row: usize) -> MutexGuard<'_, Row> {
        self.rows[row].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Row {
    fn new(row: usize) -> Self {
        let now = Instant::now();
        let first = Write { group: first_group(row), fate: Fate::Committed(now) };
        Self { writes: BTreeMap::from([(0, first)]), oldest: (0, now), most: FEW }
    }

    /// The minimum version that a response must have.
    fn must(&self, row: usize, demand: &Demand) -> u64 {
        let is_known = |write: &Write| match (write.fate, demand.since) {
            (Fate::Committed(at), Some(since)) => at < since,
            _ => false,
        };
        let committed = self.writes.iter().rev().find(|(_, write)| is_known(write));
        let own = demand
            .own
            .filter(|own| own.0 == row)
            .map(|own| own.1)
            .filter(|own| self.writes.get(own).is_some_and(|write| write.fate != Fate::Lost));
        committed.map(|(version, _)| *version).into_iter().chain(own).max().unwrap_or(0)
    }

    /// Drops versions that no response may show any more: those below one that was committed long ago.
    fn drop_old(&mut self, now: Instant) {
        if self.writes.len() <= self.most {
            return;
        }
        let old = now.checked_sub(REMEMBERED);
        let last = self.writes.iter().rev().find_map(|(version, write)| match (write.fate, old) {
            (Fate::Committed(at), Some(old)) if at < old => Some((*version, at)),
            _ => None,
        });
        if let Some(last) = last {
            self.oldest = last;
            self.writes = self.writes.split_off(&last.0);
        }
        self.most = FEW.max(2 * self.writes.len());
    }
}

pub(crate) fn first_group(row: usize) -> u32 {
    u32::try_from(row).unwrap_or_default() % GROUPS
}

#[cfg(test)]
mod tests;
