//! Schema changes that this process has noticed, with process-wide numbers.
//!
//! A `Database` looks up in the catalogue what a statement reads, and a cache's fences learn of schema changes. Both record
//! the number of the last change: a looked-up result is valid for these fences if its lookup began after the last change
//! that they know of, whichever `Database` looked it up.

use std::sync::atomic::{AtomicU64, Ordering};

static NOTICED: AtomicU64 = AtomicU64::new(0);

/// The number of the last change that one cache's source of changes has noticed.
#[derive(Debug, Default)]
pub(super) struct LastChange(AtomicU64);

/// How many changes were noticed so far, by all caches.
pub(crate) fn schema_changes() -> u64 {
    NOTICED.load(Ordering::SeqCst)
}

impl LastChange {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Another change was noticed; returns its number.
    pub(super) fn notice(&self) -> u64 {
        let number = NOTICED.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.fetch_max(number, Ordering::SeqCst);
        number
    }
}
