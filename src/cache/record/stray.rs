//! Strays: reads and lookups outside any scope. Any response that is computed at the same time may contain their results.
//!
//! Their beginnings and their ends are counted. A record can be stored only if the number of strays begun by its end equals
//! the number that had ended when it opened: then none was in progress when it opened, and none has begun since. Otherwise,
//! a read that began before the record opened and ended within could bring in rows whose tags the record lacks.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use crate::sync::MutexExt;

/// Why a response is not stored: a read outside any scope ran at the same time.
pub(crate) const STRAY_READ: &str = "stray-read";

/// The number of statements whose outlines are kept for warnings.
const OUTLINES: usize = 256;

/// The number of last reads that a warning may name.
const LAST: usize = 8;

/// Counts one kind of work outside any scope, in this process.
#[derive(Debug)]
struct Strays {
    begun: AtomicU64,
    ended: AtomicU64,
}

static READS: Strays = Strays::new();
static LOOKUPS: Strays = Strays::new();

/// A read or a lookup outside any scope; dropping this ends it.
#[derive(Debug)]
pub(crate) struct Stray(&'static Strays);

/// How many reads and lookups outside any scope had ended at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedStrays {
    reads: u64,
    lookups: u64,
    /// The work is itself part of a lookup outside any scope, which counts as ended although it is still running.
    counts_own: bool,
}

impl Strays {
    const fn new() -> Self {
        Self { begun: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    fn begin(&'static self) -> Stray {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Stray(self)
    }
}

impl Stray {
    pub(super) fn begin_read() -> Self {
        READS.begin()
    }

    /// Begins a read by a statement. `outline` is the text without its constants, for a warning.
    pub(super) fn begin_read_by(text: &str, outline: impl FnOnce() -> String) -> Self {
        let stray = Self::begin_read();
        StrayStatements::note(text, outline);
        stray
    }

    pub(super) fn begin_lookup() -> Self {
        LOOKUPS.begin()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl EndedStrays {
    /// The current counts. `counts_own` says whether the work is itself part of a lookup outside any scope.
    pub(super) fn count(counts_own: bool) -> Self {
        let ended = |strays: &Strays| strays.ended.load(Ordering::SeqCst);
        let lookups = ended(&LOOKUPS) + u64::from(counts_own);
        Self { reads: ended(&READS), lookups, counts_own }
    }

    pub(super) fn counts_own(self) -> bool {
        self.counts_own
    }

    /// Whether no read was in progress then, and none has begun since.
    pub(super) fn has_no_read_since(self) -> bool {
        READS.begun.load(Ordering::SeqCst) == self.reads
    }

    /// The same for lookups.
    pub(super) fn has_no_lookup_since(self) -> bool {
        LOOKUPS.begun.load(Ordering::SeqCst) == self.lookups
    }
}

/// The statements of reads outside any scope.
#[derive(Default)]
struct StrayStatements {
    /// The outlines of texts, by the texts' hashes.
    outlines: HashMap<u64, Arc<str>>,
    last: VecDeque<u64>,
    /// The outlines that a warning has named.
    named: HashSet<Arc<str>>,
}

static STATEMENTS: LazyLock<Mutex<StrayStatements>> = LazyLock::new(Mutex::default);

impl StrayStatements {
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
pub(crate) fn warn_of_strays() {
    // The lock is not held while the log is written.
    let statements = StrayStatements::lock().take();
    for statement in statements {
        tracing::warn!(
            %statement,
            "a statement ran outside any scope, so the responses that were being computed at the time are not stored: \
             put ScopeLayer around layers that read, run background work by Database::background or Record::detached, \
             and tasks that a handler spawns in Record::carry"
        );
    }
}
