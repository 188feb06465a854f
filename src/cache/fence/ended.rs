//! What was known of the epoch before, for policies that serve what was valid then.

use super::{Fences, Ordering};
use crate::cache::protocol::{Verdict, verdict};
use crate::entry::{Entry, Epoch, Position, Tag};

/// The fences of an epoch as they were when it ended. It takes as much memory as the table itself.
#[derive(Debug)]
pub(super) struct EndedFences {
    epoch: Epoch,
    floor: Position,
    slots: Box<[u64]>,
    /// The epoch that came after it, and the floor with which that began: a fence past it is of a change since then.
    next: (Epoch, Position),
}

impl EndedFences {
    /// A copy of what `fences` hold, before they begin the next epoch.
    pub(super) fn new(fences: &Fences, epoch: Epoch, next: (Epoch, Position)) -> Self {
        let slots = fences.slots.iter().map(|slot| slot.load(Ordering::Acquire)).collect();
        Self { epoch, floor: fences.floor(), slots, next }
    }

    fn fence(&self, fences: &Fences, tag: Tag) -> Position {
        let fence = fences.places.indexes(tag).map(|slot| self.slots[slot]).min();
        Position::new(fence.unwrap_or(u64::MAX))
    }
}

impl Fences {
    /// Whether an entry of the epoch before was valid when that ended, as far as this node knew, and nothing that it
    /// depends on has changed since.
    pub(crate) fn was_valid(&self, entry: &Entry) -> bool {
        let ended = self.ended.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let Some(ended) = ended else { return false };
        let (next, began) = ended.next;
        let fences = entry.tags.iter().map(|tag| ended.fence(self, *tag));
        let fence = fences.max().unwrap_or_default().max(ended.floor);
        let was_valid = verdict((entry.epoch, entry.as_of), (ended.epoch, fence)) == Verdict::Valid;
        // In this order: an epoch that begins meanwhile makes the fences those of neither.
        was_valid && self.newest_of(&entry.tags) <= began && self.epoch() == next
    }
}
