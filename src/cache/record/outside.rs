//! Marks lookups outside any scope as unscoped reads.

use super::{CURRENT, EndedUnscopedReads, Record, UnscopedRead};

impl UnscopedRead {
    /// Begins a lookup, if it is outside any scope.
    pub(crate) fn lookup() -> Option<Self> {
        Record::is_in_none().then(Self::begin_lookup)
    }
}

impl EndedUnscopedReads {
    /// The current counts, for work in the current scope.
    pub(crate) fn now() -> Self {
        Self::within(None)
    }

    /// The current counts, for a lookup's computation. `lookup` is the lookup's mark if it is outside any scope.
    pub(crate) fn within(lookup: Option<&UnscopedRead>) -> Self {
        let is_within = |record: &Record| record.0.unscoped_reads.counts_own();
        Self::count(lookup.is_some() || CURRENT.try_with(is_within).unwrap_or(false))
    }
}
