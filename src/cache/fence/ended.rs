//! The fences of the previous epoch, for policies that serve entries that were valid at its end.

use super::slots::Slots;
use crate::cache::protocol::{Verdict, verdict};
use crate::entry::{Entry, LogPosition, Position, Tag};

/// The fences of an epoch as they were when it ended. It takes as much memory as the table itself.
#[derive(Debug)]
pub(super) struct EndedFences {
    slots: Box<[u64]>,
    /// The epoch and its last floor.
    last: LogPosition,
    /// The next epoch and the floor with which it began: a fence past this floor means a later change.
    next: LogPosition,
}

impl EndedFences {
    /// Fences of the epoch of `last`, as they were before the epoch of `next` began.
    pub(super) fn new(slots: Box<[u64]>, last: LogPosition, next: LogPosition) -> Self {
        Self { slots, last, next }
    }

    /// The next epoch and the floor with which it began.
    pub(super) fn next(&self) -> LogPosition {
        self.next
    }

    /// Whether an entry was valid at the end of the epoch.
    pub(super) fn was_valid(&self, entry: &Entry, layout: &Slots) -> bool {
        let fences = entry.tags.iter().map(|tag| self.fence(layout, *tag));
        let fence = fences.max().unwrap_or_default().max(self.last.position);
        verdict(entry.basis, LogPosition::new(self.last.epoch, fence)) == Verdict::Valid
    }

    fn fence(&self, layout: &Slots, tag: Tag) -> Position {
        let fence = layout.indexes(tag).map(|slot| self.slots[slot]).min();
        Position::new(fence.unwrap_or(u64::MAX))
    }
}
