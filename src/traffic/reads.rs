//! What the handlers of a route read, for the operators' page.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard};

use crate::cache::{ReadObserver, Uncacheable};
use crate::sync::MutexExt;

/// The most tables of a route that are counted separately.
#[cfg(feature = "postgres")]
const MOST: usize = 512;

/// Counts what a route's handlers read.
#[derive(Debug, Default)]
pub(crate) struct ReadStatistics(Mutex<RouteReads>);

/// What a route's handlers have read.
#[derive(Clone, Debug, Default)]
pub(crate) struct RouteReads {
    /// The number of statements by tracked table.
    #[cfg(any(feature = "admin", feature = "postgres"))]
    pub(crate) tables: BTreeMap<String, u64>,
    /// The number of statements by table without triggers.
    #[cfg(any(feature = "admin", feature = "postgres"))]
    pub(crate) untracked: BTreeMap<String, u64>,
    /// The tables any change of which counts, although the statements compare columns with values.
    #[cfg(any(feature = "admin", feature = "postgres"))]
    pub(crate) compared: BTreeMap<String, ComparedColumns>,
    /// The number of responses that were not stored and an explanation, by reason.
    pub(crate) uncacheable: BTreeMap<&'static str, (u64, String)>,
}

/// The columns of a table that statements compare with values.
#[cfg(any(feature = "admin", feature = "postgres"))]
#[derive(Clone, Debug, Default)]
pub(crate) struct ComparedColumns {
    /// The columns that changes are recorded by at present.
    pub(crate) recorded: Vec<String>,
    /// The number of statements by other column.
    pub(crate) others: BTreeMap<String, u64>,
}

impl ReadStatistics {
    /// The reads so far.
    #[cfg(feature = "admin")]
    pub(crate) fn get(&self) -> RouteReads {
        self.locked().clone()
    }

    fn locked(&self) -> MutexGuard<'_, RouteReads> {
        self.0.lock_unpoisoned()
    }
}

impl ReadObserver for ReadStatistics {
    fn note_uncacheable(&self, uncacheable: &Uncacheable) {
        let mut reads = self.locked();
        let fresh = || (0, uncacheable.why.to_string());
        reads.uncacheable.entry(uncacheable.token).or_insert_with(fresh).0 += 1;
    }

    #[cfg(feature = "postgres")]
    fn note_table(&self, table: &str) {
        count(&mut self.locked().tables, table);
    }

    #[cfg(feature = "postgres")]
    fn note_untracked(&self, table: &str) {
        count(&mut self.locked().untracked, table);
    }

    #[cfg(feature = "postgres")]
    fn note_compared(&self, table: &str, recorded: &[String], compared: &[String]) {
        let mut reads = self.locked();
        if compared.is_empty()
            || reads.compared.len() >= MOST && !reads.compared.contains_key(table)
        {
            return;
        }
        let columns = reads.compared.entry(table.to_owned()).or_default();
        // They change only with the schema.
        if columns.recorded != recorded {
            recorded.clone_into(&mut columns.recorded);
        }
        for column in compared {
            count(&mut columns.others, column);
        }
    }
}

#[cfg(feature = "postgres")]
fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else if counts.len() < MOST {
        counts.insert(name.to_owned(), 1);
    }
}
