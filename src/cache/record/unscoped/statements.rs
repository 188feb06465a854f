//! Reads outside any scope, and the statements of those that a warning names.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use super::{READS, UnscopedRead};
use crate::sync::MutexExt;

/// The number of statements whose outlines are kept for warnings.
const OUTLINES: usize = 256;

/// The number of last reads that a warning may name.
const LAST: usize = 8;

impl UnscopedRead {
    pub(in crate::cache::record) fn begin_read() -> Self {
        READS.begin()
    }

    /// Begins a read by a statement. `outline` is the text without its constants, for a warning.
    pub(in crate::cache::record) fn begin_read_by(
        text: &str,
        outline: impl FnOnce() -> String,
    ) -> Self {
        let unscoped = Self::begin_read();
        UnscopedStatements::note(text, outline);
        unscoped
    }
}

/// The statements of reads outside any scope.
#[derive(Default)]
struct UnscopedStatements {
    /// The outlines of texts, by the texts' hashes.
    outlines: HashMap<u64, Arc<str>>,
    last: VecDeque<u64>,
    /// The outlines that a warning has named.
    named: HashSet<Arc<str>>,
}

static STATEMENTS: LazyLock<Mutex<UnscopedStatements>> = LazyLock::new(Mutex::default);

impl UnscopedStatements {
    fn lock() -> MutexGuard<'static, Self> {
        STATEMENTS.lock_unpoisoned()
    }

    fn note(text: &str, outline: impl FnOnce() -> String) {
        let mut hasher = DefaultHasher::new();
        text.hash(&mut hasher);
        let hash = hasher.finish();
        if Self::lock().is_noted(hash) {
            return;
        }
        let outline = outline().into();
        let mut statements = Self::lock();
        if statements.outlines.len() >= OUTLINES {
            statements.outlines.clear();
        }
        statements.outlines.insert(hash, outline);
        statements.is_noted(hash);
    }

    /// Notes a read by a text whose outline is known.
    fn is_noted(&mut self, hash: u64) -> bool {
        let is_known = self.outlines.contains_key(&hash);
        if is_known {
            self.last.truncate(LAST - 1);
            self.last.push_front(hash);
        }
        is_known
    }

    /// The outlines of the last reads that were not named before.
    fn take(&mut self) -> Vec<Arc<str>> {
        let last = std::mem::take(&mut self.last);
        let outlines = last.iter().filter_map(|hash| self.outlines.get(hash).cloned());
        let is_new =
            |outline: &Arc<str>| self.named.len() < OUTLINES && self.named.insert(outline.clone());
        outlines.filter(is_new).collect()
    }
}

/// Names the statements that ran last outside any scope, each of them once: one of them has kept a response from being
/// stored.
pub(crate) fn warn_of_unscoped_reads() {
    // The lock is not held while the log is written.
    let statements = UnscopedStatements::lock().take();
    for statement in statements {
        tracing::warn!(
            %statement,
            "a statement ran outside any scope, so the responses that were being computed at the time are not stored: \
             put ScopeLayer around layers that read; run background work by Database::background or Record::detached; \
             wrap tasks that a handler spawns in Record::carry"
        );
    }
}
