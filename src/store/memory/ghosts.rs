//! Which entries were evicted recently.

use std::collections::VecDeque;

use hashbrown::HashMap;

/// The hashes of the keys of entries that were evicted recently.
#[derive(Debug, Default)]
pub(super) struct Ghosts {
    /// Each hash with the number of its eviction, the earliest first.
    order: VecDeque<(u64, u64)>,
    /// The number of each hash's last eviction, unless its entry was stored again.
    last: HashMap<u64, u64>,
    count: u64,
}

impl Ghosts {
    /// Remembers a hash, and at most `most` in all.
    pub(super) fn remember(&mut self, hash: u64, most: usize) {
        self.count += 1;
        self.last.insert(hash, self.count);
        self.order.push_back((hash, self.count));
        while self.order.len() > most
            && let Some((hash, number)) = self.order.pop_front()
        {
            if self.last.get(&hash) == Some(&number) {
                self.last.remove(&hash);
            }
        }
    }

    /// Forgets a hash. Returns whether it was remembered.
    pub(super) fn forget(&mut self, hash: u64) -> bool {
        self.last.remove(&hash).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_recent_hashes_are_remembered() {
        let mut ghosts = Ghosts::default();
        for hash in [1, 2, 3, 1] {
            ghosts.remember(hash, 3);
        }
        assert_eq!([3, 2, 1].map(|hash| ghosts.forget(hash)), [true; 3]);
        assert!(!ghosts.forget(1));
        for hash in [4, 5] {
            ghosts.remember(hash, 1);
        }
        assert_eq!([4, 5].map(|hash| ghosts.forget(hash)), [false, true]);
    }
}
