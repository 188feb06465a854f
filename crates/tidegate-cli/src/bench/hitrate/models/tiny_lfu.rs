//! W-TinyLFU with a window of 1 % (Einziger et al., "TinyLFU: a highly efficient cache admission policy", ACM Transactions on
//! Storage 13(4), 2017).

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::{Model, Queue};

pub(crate) struct TinyLfu {
    size: usize,
    window: Queue,
    /// Entries that have left the window or the protected queue.
    probation: Queue,
    /// Entries that were requested while they were on probation.
    protected: Queue,
    frequencies: Sketch,
}

impl TinyLfu {
    pub(crate) fn new(size: usize) -> Self {
        let (window, probation, protected) = <(Queue, Queue, Queue)>::default();
        Self { size, window, probation, protected, frequencies: Sketch::new(size) }
    }

    /// How many entries the window, and those that are protected, may have.
    fn most(&self) -> (usize, usize) {
        let window = (self.size / 100).max(1);
        (window, (self.size - window) * 4 / 5)
    }

    fn len(&self) -> usize {
        self.window.len() + self.probation.len() + self.protected.len()
    }

    /// The entry that leaves the window and the next one to evict compete for the room.
    fn admit(&mut self, candidate: u32) {
        let victim = match self.probation.first() {
            Some(victim) => Some((victim, false)),
            None => self.protected.first().map(|victim| (victim, true)),
        };
        if self.len() < self.size {
            self.probation.push(candidate);
        } else if let Some((victim, is_protected)) = victim
            && self.frequencies.of(candidate) > self.frequencies.of(victim)
        {
            let queue = if is_protected { &mut self.protected } else { &mut self.probation };
            queue.remove(victim);
            self.probation.push(candidate);
        }
    }
}

impl Model for TinyLfu {
    fn request(&mut self, key: u32) -> bool {
        self.frequencies.add(key);
        let (most_window, most_protected) = self.most();
        if self.window.contains(key) {
            self.window.push(key);
            return true;
        }
        if self.protected.remove(key) || self.probation.remove(key) {
            self.protected.push(key);
            if self.protected.len() > most_protected
                && let Some(demoted) = self.protected.pop()
            {
                self.probation.push(demoted);
            }
            return true;
        }
        self.window.push(key);
        if self.window.len() > most_window
            && let Some(candidate) = self.window.pop()
        {
            self.admit(candidate);
        }
        false
    }

    fn remove(&mut self, key: u32) {
        self.window.remove(key);
        self.probation.remove(key);
        self.protected.remove(key);
    }
}

/// A count-min sketch of how often keys were requested recently. Counters go up to 15, and are halved from time to time.
struct Sketch {
    rows: [Vec<u8>; 4],
    added: usize,
    size: usize,
}

impl Sketch {
    fn new(size: usize) -> Self {
        let width = (size * 8).next_power_of_two();
        Self { rows: [(); 4].map(|()| vec![0; width]), added: 0, size }
    }

    fn counters(&mut self, key: u32) -> impl Iterator<Item = &mut u8> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.rows.iter_mut().enumerate().filter_map(move |(row, counters)| {
            let place = hasher.hash_one((row, key)) & (counters.len() as u64 - 1);
            counters.get_mut(usize::try_from(place).ok()?)
        })
    }

    fn add(&mut self, key: u32) {
        self.counters(key).for_each(|counter| *counter = (*counter + 1).min(15));
        self.added += 1;
        if self.added >= self.size * 10 {
            self.rows.iter_mut().flatten().for_each(|counter| *counter /= 2);
            self.added /= 2;
        }
    }

    fn of(&mut self, key: u32) -> u8 {
        self.counters(key).map(|counter| *counter).min().unwrap_or(0)
    }
}
