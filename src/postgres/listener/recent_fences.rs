//! The fences that a node has raised, by tag.

use std::collections::HashMap;

use crate::entry::{Position, Tag};

/// More tags than this are not kept: the floor rises to the fence that half of them have reached.
const MOST: usize = 100_000;

/// The fences that a node has raised, by tag, for the checkpoint of a node that starts. Its table of fences can't be
/// passed on, since a secret of the process chooses the slots.
#[derive(Debug, Default)]
pub(super) struct RecentFences {
    /// Which fences were raised up to here is not known.
    floor: Position,
    fences: HashMap<Tag, Position>,
}

impl RecentFences {
    pub(super) fn begin(floor: Position, fences: &[(Tag, Position)]) -> Self {
        let mut recent = Self { floor, fences: HashMap::new() };
        for (tag, fence) in fences {
            recent.raise(*tag, *fence);
        }
        recent
    }

    pub(super) fn raise(&mut self, tag: Tag, fence: Position) {
        if fence <= self.floor {
            return;
        }
        let known = self.fences.entry(tag).or_default();
        *known = fence.max(*known);
        if self.fences.len() > MOST {
            let mut all: Vec<_> = self.fences.values().copied().collect();
            let (_, median, _) = all.select_nth_unstable(MOST / 2);
            self.raise_floor(*median);
        }
    }

    pub(super) fn raise_floor(&mut self, floor: Position) {
        self.floor = floor.max(self.floor);
        self.fences.retain(|_, fence| *fence > self.floor);
    }

    pub(super) fn floor(&self) -> Position {
        self.floor
    }

    pub(super) fn fences(&self) -> impl Iterator<Item = (Tag, Position)> {
        self.fences.iter().map(|(tag, fence)| (*tag, *fence))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fence_of(recent: &RecentFences, tag: Tag) -> Position {
        let fence = recent.fences().find(|(known, _)| *known == tag).map(|(_, fence)| fence);
        fence.unwrap_or_default().max(recent.floor())
    }

    proptest! {
        #[test]
        fn no_fence_is_below_a_position_it_was_raised_to(
            raised in proptest::collection::vec((0u64..20, 1u64..50, any::<bool>()), 1..100)
        ) {
            let mut recent = RecentFences::begin(Position::new(5), &[]);
            for (tag, to, is_floor) in &raised {
                let (tag, to) = (Tag::from_hash(*tag), Position::new(*to));
                if *is_floor && to.get() % 7 == 0 {
                    recent.raise_floor(to);
                } else {
                    recent.raise(tag, to);
                }
                prop_assert!(fence_of(&recent, tag) >= to);
            }
            for (tag, to, _) in &raised {
                prop_assert!(fence_of(&recent, Tag::from_hash(*tag)) >= Position::new(*to));
            }
        }
    }

    #[test]
    fn the_oldest_fences_are_dropped_and_the_floor_covers_them() {
        let mut recent = RecentFences::default();
        let last = 2 * MOST as u64;
        for number in 1..=last {
            recent.raise(Tag::from_hash(number), Position::new(number));
        }
        assert!(recent.fences().count() <= MOST);
        assert_eq!(fence_of(&recent, Tag::from_hash(last)), Position::new(last));
        for number in (1..=last).step_by(9973) {
            assert!(fence_of(&recent, Tag::from_hash(number)) >= Position::new(number));
        }
        let mut at_once = RecentFences::default();
        (0..=MOST as u64).for_each(|tag| at_once.raise(Tag::from_hash(tag), Position::new(9)));
        assert_eq!((at_once.floor(), at_once.fences().count()), (Position::new(9), 0));
    }
}
