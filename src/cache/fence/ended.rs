//! The fences of the previous epoch, for policies that serve entries that were valid at its end.

use super::{Fences, Ordering};
use crate::cache::protocol::{Verdict, verdict};
use crate::entry::{Entry, Epoch, LogPosition, Position, Tag};

/// The fences of an epoch as they were when it ended. It takes as much memory as the table itself.
#[derive(Debug)]
pub(super) struct EndedFences {
    epoch: Epoch,
    floor: Position,
    slots: Box<[u64]>,
    /// The next epoch and the floor with which it began: a fence past this floor means a later change.
    next: LogPosition,
}

impl EndedFences {
    /// Copies `fences` before they begin the next epoch.
    pub(super) fn new(fences: &Fences, epoch: Epoch, next: LogPosition) -> Self {
        let slots = fences.slots.iter().map(|slot| slot.load(Ordering::Acquire)).collect();
        Self { epoch, floor: fences.floor(), slots, next }
    }

    fn fence(&self, fences: &Fences, tag: Tag) -> Position {
        let fence = fences.places.indexes(tag).map(|slot| self.slots[slot]).min();
        Position::new(fence.unwrap_or(u64::MAX))
    }
}

impl Fences {
    /// Whether an entry of the previous epoch was valid at its end, as far as this node knew, and nothing that the entry
    /// depends on has changed since.
    pub(crate) fn was_valid(&self, entry: &Entry) -> bool {
        let ended = self.ended.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let Some(ended) = ended else { return false };
        let fences = entry.tags.iter().map(|tag| ended.fence(self, *tag));
        let fence = fences.max().unwrap_or_default().max(ended.floor);
        let fence = LogPosition::new(ended.epoch, fence);
        let was_valid = verdict(entry.basis, fence) == Verdict::Valid;
        // The epoch is checked last: if another one has begun in between, the fences may mix both.
        was_valid
            && self.newest_of(&entry.tags) <= ended.next.position
            && self.epoch() == ended.next.epoch
    }
}
