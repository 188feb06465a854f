//! Evicts the least recently used entry.

use super::{Model, Queue};

pub(crate) struct Lru {
    size: usize,
    entries: Queue,
}

impl Lru {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, entries: Queue::default() }
    }
}

impl Model for Lru {
    fn request(&mut self, key: u32) -> bool {
        let is_hit = self.entries.contains(key);
        self.entries.push(key);
        if self.entries.len() > self.size {
            self.entries.pop();
        }
        is_hit
    }

    fn remove(&mut self, key: u32) {
        self.entries.remove(key);
    }
}
