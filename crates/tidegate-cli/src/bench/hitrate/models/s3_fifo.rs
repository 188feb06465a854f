//! S3-FIFO (Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023, algorithm 1).

use std::collections::HashMap;

use super::{Model, Queue};

pub(crate) struct S3Fifo {
    size: usize,
    small: Queue,
    main: Queue,
    ghosts: Queue,
    /// How often each stored key was requested again, up to 3.
    uses: HashMap<u32, u8>,
}

impl S3Fifo {
    pub(crate) fn new(size: usize) -> Self {
        let (small, main, ghosts) = <(Queue, Queue, Queue)>::default();
        Self { size, small, main, ghosts, uses: HashMap::new() }
    }

    fn evict(&mut self) {
        let most_small = (self.size / 10).max(1);
        if self.small.len() < most_small && self.main.len() > 0 {
            return self.evict_main();
        }
        while let Some(key) = self.small.pop() {
            if self.uses.get(&key).is_some_and(|uses| *uses > 1) {
                self.uses.insert(key, 0);
                self.main.push(key);
                if self.main.len() > self.size - most_small {
                    break;
                }
            } else {
                self.uses.remove(&key);
                self.ghosts.push(key);
                if self.ghosts.len() > self.size - most_small {
                    self.ghosts.pop();
                }
                return;
            }
        }
        self.evict_main();
    }

    fn evict_main(&mut self) {
        while let Some(key) = self.main.pop() {
            if let Some(uses @ 1..) = self.uses.get_mut(&key) {
                *uses -= 1;
                self.main.push(key);
            } else {
                self.uses.remove(&key);
                return;
            }
        }
    }
}

impl Model for S3Fifo {
    fn request(&mut self, key: u32) -> bool {
        if let Some(uses) = self.uses.get_mut(&key) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        while self.uses.len() >= self.size {
            self.evict();
        }
        self.uses.insert(key, 0);
        match self.ghosts.remove(key) {
            true => self.main.push(key),
            false => self.small.push(key),
        }
        false
    }

    fn remove(&mut self, key: u32) {
        self.uses.remove(&key);
        self.small.remove(key);
        self.main.remove(key);
    }
}
