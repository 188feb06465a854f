//! SIEVE (Zhang et al., "SIEVE is simpler than LRU: an efficient turn-key eviction algorithm for web caches", NSDI 2024).

use std::collections::HashSet;

use super::{Model, Queue};

pub(crate) struct Sieve {
    size: usize,
    entries: Queue,
    /// Keys that were requested again since the hand passed them.
    visited: HashSet<u32>,
    /// The place in the queue from which to look for the next key to evict; otherwise, its beginning.
    hand: Option<u64>,
}

impl Sieve {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, entries: Queue::default(), visited: HashSet::new(), hand: None }
    }

    fn evict(&mut self) {
        loop {
            let from = self.hand.unwrap_or(0);
            let at_hand = self.entries.keys.range(from..).next();
            let Some((&place, &key)) = at_hand.or_else(|| self.entries.keys.first_key_value())
            else {
                return;
            };
            // Keys that come later are not next: after the newest key, the hand begins anew.
            self.hand = self.entries.keys.range(place + 1..).next().map(|(place, _)| *place);
            if !self.visited.remove(&key) {
                self.entries.remove(key);
                return;
            }
        }
    }
}

impl Model for Sieve {
    fn request(&mut self, key: u32) -> bool {
        if self.entries.contains(key) {
            self.visited.insert(key);
            return true;
        }
        if self.entries.len() >= self.size {
            self.evict();
        }
        self.entries.push(key);
        false
    }

    fn remove(&mut self, key: u32) {
        self.entries.remove(key);
        self.visited.remove(&key);
    }
}
