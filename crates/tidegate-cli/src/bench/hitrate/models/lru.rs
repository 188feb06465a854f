//! Evicts the least recently used entry.

use super::{Model, Queue};

pub(crate) struct Lru {
    size: usize,
    kept: Queue,
}

impl Lru {
    pub(crate) fn new(size: usize) -> Self {
        Self { size, kept: Queue::default() }
    }
}

impl Model for Lru {
    fn request(&mut self, key: u32) -> bool {
        let is_hit = self.kept.contains(key);
        self.kept.push(key);
        if self.kept.len() > self.size {
            self.kept.pop();
        }
        is_hit
    }

    fn remove(&mut self, key: u32) {
        self.kept.remove(key);
    }
}
