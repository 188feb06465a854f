//! Changes of the schema that were noticed, numbered through the process.
//!
//! What a statement reads was looked up under some schema, for a `Database` of its own; which changes there were, the
//! fences of a cache learn. So both note a number: a result counts for these fences if its lookup began after the last
//! change that they know of, whichever `Database` made it.

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
