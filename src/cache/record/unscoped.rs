//! Unscoped reads: reads and lookups outside any scope. Any response that is computed at the same time may contain
//! their results.
//!
//! Their beginnings and their ends are counted. A record can be stored only if the number of unscoped reads that had
//! begun by its end equals the number that had ended when it opened: then none was in progress when it opened, and
//! none has begun since. Otherwise, a read that began before the record opened and ended within could bring in rows
//! whose tags the record lacks.

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "postgres")]
pub(super) mod statements;

/// Why a response is not stored: a read outside any scope ran at the same time.
pub(crate) const UNSCOPED_READ: &str = "unscoped-read";

/// Counts one kind of work outside any scope, in this process.
#[derive(Debug)]
struct UnscopedCounts {
    begun: AtomicU64,
    ended: AtomicU64,
}

static READS: UnscopedCounts = UnscopedCounts::new();
static LOOKUPS: UnscopedCounts = UnscopedCounts::new();

/// A read or a lookup outside any scope; dropping this ends it.
#[derive(Debug)]
pub(crate) struct UnscopedRead(&'static UnscopedCounts);

/// How many reads and lookups outside any scope had ended at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedUnscopedReads {
    reads: u64,
    lookups: u64,
    /// The work is itself part of a lookup outside any scope, which counts as ended although it is still running.
    counts_own: bool,
}

impl UnscopedCounts {
    const fn new() -> Self {
        Self { begun: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    fn begin(&'static self) -> UnscopedRead {
        self.begun.fetch_add(1, Ordering::SeqCst);
        UnscopedRead(self)
    }
}

impl UnscopedRead {
    pub(super) fn begin_lookup() -> Self {
        LOOKUPS.begin()
    }
}

impl Drop for UnscopedRead {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl EndedUnscopedReads {
    /// The current counts. `counts_own` says whether the work is itself part of a lookup outside any scope.
    pub(super) fn count(counts_own: bool) -> Self {
        let ended = |unscoped_reads: &UnscopedCounts| unscoped_reads.ended.load(Ordering::SeqCst);
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
