//! What was written, as far as the writers know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use super::{GROUPS, ROWS};

/// Every write to every row.
pub(crate) struct History {
    rows: Vec<Mutex<Vec<Write>>>,
    versions: AtomicU64,
}

/// One version of one row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) version: u64,
    /// The group that the row is in from then on.
    pub(crate) group: u32,
    pub(crate) fate: Fate,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Under way, or its connection broke: it may be there or not.
    Open,
    /// It was there by then.
    Committed(Instant),
    /// It was never there.
    RolledBack,
    /// It was there, perhaps, until a failover.
    Lost,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It lacks a write that it must have.
    Stale { version: u64, must: u64 },
    /// It shows what was never committed.
    NeverWritten { version: u64 },
    /// It shows what a failover has lost, and the node knew of the failover.
    Lost { version: u64 },
    /// It shows a row in a group that it was not in.
    Group { version: u64, group: u32 },
    /// It lacks a row.
    Missing { row: usize },
}

/// What an answer has to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Demand {
    /// It has all that was committed before.
    pub(crate) since: Option<Instant>,
    /// It has this version, which its client has written.
    pub(crate) own: Option<(usize, u64)>,
    /// The node knew of the last failover.
    pub(crate) knows_failover: bool,
}

impl History {
    /// Each row has version 0, in the group that its number gives it.
    pub(crate) fn new() -> Self {
        let first = |row: usize| Write {
            version: 0,
            group: first_group(row),
            fate: Fate::Committed(Instant::now()),
        };
        Self {
            rows: (0..ROWS).map(|row| Mutex::new(vec![first(row)])).collect(),
            versions: AtomicU64::new(0),
        }
    }

    /// A version that is larger than every one before.
    pub(crate) fn next_version(&self) -> u64 {
        self.versions.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes a write that is about to be sent.
    pub(crate) fn begin(&self, row: usize, version: u64, group: u32) {
        self.row(row).push(Write { version, group, fate: Fate::Open });
    }

    /// Notes what became of it.
    pub(crate) fn end(&self, row: usize, version: u64, fate: Fate) {
        let mut writes = self.row(row);
        if let Some(write) = writes.iter_mut().rev().find(|write| write.version == version)
            && write.fate == Fate::Open
        {
            write.fate = fate;
        }
    }

    /// After a failover: of each row, nothing past this version is there any more.
    pub(crate) fn fail_over(&self, survived: &[u64]) {
        for (row, survived) in survived.iter().enumerate() {
            for write in self.row(row).iter_mut().filter(|write| write.version > *survived) {
                if write.fate != Fate::RolledBack {
                    write.fate = Fate::Lost;
                }
            }
        }
    }

    /// Compares one row of an answer.
    pub(crate) fn judge(
        &self,
        row: usize,
        version: u64,
        group: u32,
        demand: &Demand,
    ) -> Result<(), Wrong> {
        let writes = self.row(row);
        let known = writes.iter().find(|write| write.version == version);
        match known.map(|write| (write.fate, write.group)) {
            None | Some((Fate::RolledBack, _)) => return Err(Wrong::NeverWritten { version }),
            Some((Fate::Lost, _)) if demand.knows_failover => return Err(Wrong::Lost { version }),
            Some((_, is)) if is != group => return Err(Wrong::Group { version, group }),
            Some(_) => {}
        }
        let must = must(&writes, row, demand);
        if version < must { Err(Wrong::Stale { version, must }) } else { Ok(()) }
    }

    /// Judges that a row is not in the answer for a group.
    pub(crate) fn judge_absent(
        &self,
        row: usize,
        group: u32,
        demand: &Demand,
    ) -> Result<(), Wrong> {
        let writes = self.row(row);
        let must = must(&writes, row, demand);
        let elsewhere = writes.iter().any(|write| {
            write.version >= must && write.group != group && write.fate != Fate::RolledBack
        });
        if elsewhere { Ok(()) } else { Err(Wrong::Missing { row }) }
    }

    /// When the first version was committed that is newer than this one, if one is.
    pub(crate) fn outdated_since(&self, row: usize, version: u64) -> Option<Instant> {
        let newer = |write: &Write| match write.fate {
            Fate::Committed(at) if write.version > version => Some(at),
            _ => None,
        };
        self.row(row).iter().filter_map(newer).min()
    }

    fn row(&self, row: usize) -> MutexGuard<'_, Vec<Write>> {
        self.rows[row].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version that an answer must have at least.
fn must(writes: &[Write], row: usize, demand: &Demand) -> u64 {
    let committed = |write: &Write| match (write.fate, demand.since) {
        (Fate::Committed(at), Some(since)) if at < since => Some(write.version),
        _ => None,
    };
    let own = demand.own.filter(|own| own.0 == row).map(|own| own.1).filter(|own| {
        let written = writes.iter().find(|write| write.version == *own);
        written.is_some_and(|write| write.fate != Fate::Lost)
    });
    writes.iter().filter_map(committed).chain(own).max().unwrap_or(0)
}

pub(crate) fn first_group(row: usize) -> u32 {
    u32::try_from(row).unwrap_or_default() % GROUPS
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn since(since: Instant) -> Demand {
        Demand { since: Some(since), own: None, knows_failover: true }
    }

    #[test]
    fn an_answer_must_have_what_was_committed_before() {
        let history = History::new();
        let (early, late) = (Instant::now(), Instant::now() + Duration::from_secs(9));
        history.begin(1, 7, 5);
        history.end(1, 7, Fate::Committed(Instant::now() + Duration::from_secs(1)));
        assert_eq!(history.judge(1, 0, 1, &since(early)), Ok(()));
        let stale = Wrong::Stale { version: 0, must: 7 };
        assert_eq!(history.judge(1, 0, 1, &since(late)), Err(stale));
        assert_eq!(history.judge(1, 7, 5, &since(late)), Ok(()));
        assert_eq!(history.judge_absent(1, 1, &since(late)), Ok(()));
        assert_eq!(history.judge_absent(1, 5, &since(late)), Err(Wrong::Missing { row: 1 }));
        let own = Demand { own: Some((1, 7)), ..since(early) };
        assert_eq!(history.judge(1, 0, 1, &own), Err(Wrong::Stale { version: 0, must: 7 }));
    }

    #[test]
    fn an_answer_shows_nothing_that_is_not_there() {
        let history = History::new();
        let now = since(Instant::now());
        history.begin(1, 7, 5);
        assert_eq!(history.judge(1, 7, 5, &now), Ok(()), "it may be there already");
        assert_eq!(history.judge(1, 7, 1, &now), Err(Wrong::Group { version: 7, group: 1 }));
        history.end(1, 7, Fate::RolledBack);
        assert_eq!(history.judge(1, 7, 5, &now), Err(Wrong::NeverWritten { version: 7 }));
        assert_eq!(history.judge(1, 8, 5, &now), Err(Wrong::NeverWritten { version: 8 }));
        history.begin(1, 9, 5);
        history.end(1, 9, Fate::Committed(Instant::now()));
        history.fail_over(&[0; ROWS]);
        assert_eq!(history.judge(1, 9, 5, &now), Err(Wrong::Lost { version: 9 }));
        let unaware = Demand { knows_failover: false, ..now };
        assert_eq!(history.judge(1, 9, 5, &unaware), Ok(()));
    }
}
