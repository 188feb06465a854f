//! The changes of published tables that watermarks have shown.

use crate::broken::is_broken;
use crate::postgres::log::{Drained, Snapshot};

/// The changes that a watermark adds to a drain.
#[derive(Debug, Default)]
pub(crate) struct PublishedChanges {
    /// Each tag once.
    pub(crate) tags: Vec<String>,
    /// Anything may have changed.
    pub(crate) all: bool,
    /// Which tables are published, or by which columns, may have changed.
    pub(crate) is_altered: bool,
    /// The watermark's snapshot: the drain and the watermark together have everything that it sees. The drain's own
    /// snapshot sees more, which the watermark does not.
    pub(crate) snapshot: Option<Snapshot>,
}

impl PublishedChanges {
    /// Adds this to the drain that it is complete with.
    pub(crate) fn add_to(self, drained: &mut Drained) {
        if !is_broken("published") {
            drained.tags.extend(self.tags);
        }
        drained.tags.sort_unstable();
        drained.tags.dedup();
        drained.overflowed |= self.all;
        // Which tables are published is part of what reads look up.
        drained.schema_changed |= self.is_altered;
        if let Some(snapshot) = self.snapshot {
            drained.snapshot = snapshot;
        }
    }

    pub(super) fn has_changes(&self) -> bool {
        self.all || self.is_altered || !self.tags.is_empty()
    }

    #[cfg(feature = "wal")]
    pub(super) fn with(mut self, later: Self) -> Self {
        self.tags.extend(later.tags);
        self.all |= later.all;
        self.is_altered |= later.is_altered;
        self.snapshot = later.snapshot.or(self.snapshot);
        self
    }
}
