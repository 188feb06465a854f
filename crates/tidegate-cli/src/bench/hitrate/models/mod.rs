//! Models of caches that evict by well-known policies. Each entry takes the same room, and a write removes the row's
//! entries, as row tags do.

mod lru;
mod s3_fifo;
mod sieve;
mod tiny_lfu;

use std::collections::{BTreeMap, HashMap};

use super::trace::{Trace, Writes};

pub(crate) use lru::Lru;
pub(crate) use s3_fifo::S3Fifo;
pub(crate) use sieve::Sieve;
pub(crate) use tiny_lfu::TinyLfu;

/// A cache of keys.
pub(crate) trait Model {
    /// Requests a key, which is stored if it was not. Returns whether it was stored before.
    fn request(&mut self, key: u32) -> bool;

    /// Removes a key.
    fn remove(&mut self, key: u32);
}

/// The hits of a cache in a whole trace.
pub(crate) fn hits(mut model: impl Model, trace: &Trace, writes: &Writes) -> u64 {
    let mut hits = 0;
    let mut written = writes.iter().peekable();
    let keys = keys_of_rows(trace);
    for (at, &key) in trace.accesses.iter().enumerate() {
        hits += u64::from(model.request(key));
        while let Some((_, row)) = written.next_if(|(after, _)| *after == at) {
            for &key in &keys[row as usize] {
                model.remove(key);
            }
        }
    }
    hits
}

fn keys_of_rows(trace: &Trace) -> Vec<Vec<u32>> {
    let mut keys = vec![Vec::new(); trace.tables.len()];
    for (key, row) in (0..).zip(&trace.rows) {
        keys[*row as usize].push(key);
    }
    keys
}

/// Keys in an order: of their last use, or of their arrival.
#[derive(Debug, Default)]
struct Queue {
    next: u64,
    places: HashMap<u32, u64>,
    keys: BTreeMap<u64, u32>,
}

impl Queue {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn contains(&self, key: u32) -> bool {
        self.places.contains_key(&key)
    }

    /// Adds a key at the end, or moves it there.
    fn push(&mut self, key: u32) {
        self.remove(key);
        self.next += 1;
        self.places.insert(key, self.next);
        self.keys.insert(self.next, key);
    }

    /// Returns whether it was there.
    fn remove(&mut self, key: u32) -> bool {
        let place = self.places.remove(&key);
        place.is_some_and(|place| self.keys.remove(&place).is_some())
    }

    fn first(&self) -> Option<u32> {
        self.keys.first_key_value().map(|(_, key)| *key)
    }

    fn pop(&mut self) -> Option<u32> {
        let (_, key) = self.keys.pop_first()?;
        self.places.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests;
