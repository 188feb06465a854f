//! The store in this process's memory.

use std::fmt;
use std::hash::BuildHasher;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock, RwLock};
use std::thread::available_parallelism;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use hashbrown::DefaultHashBuilder;

use super::{Found, IsOutdated, MemoryStatus, Store, StoreError, StoreStatus, Tier};
use crate::entry::{Entry, Key};
use crate::sync::{RwLockExt, TryLock};
use shard::Shard;
use tuner::Tuner;

mod ghosts;
mod rules;
mod shard;
mod tuner;

/// A store in this process's memory, bounded in bytes. A typed value is also held in decoded form. The size of the
/// decoded form is estimated. The estimate is at most three times the actual size. It is lower than the actual size
/// only for linked lists and for many small `Box`es.
///
/// When the store is full, it evicts either the least recently used entries, or those that S3-FIFO evicts (Yang et
/// al., "FIFO queues are all you need for cache eviction", SOSP 2023). Which of the two has more hits depends on what
/// is requested. So both are tried on a sample of the requests, the second one with several parameters, and the store
/// follows the best one. The trials take 1/32 of the capacity, but at most 1 MiB. The store evicts outdated entries
/// first where it finds them. `tidegate bench hitrate` compares the result with other policies.
///
/// The capacity is divided evenly among shards: four to eight per core, or fewer if a shard would be smaller than 2 MiB, so
/// that a body of 1 MiB, the default [`body_limit`](crate::Policy::body_limit), has room on a machine with many cores. An
/// entry that is larger than nine tenths of a shard is not stored.
///
/// ```
/// use tidegate::{Cache, Memory};
///
/// // 64 MiB
/// let cache = Cache::new(Memory::new(64 << 20));
/// ```
pub struct Memory {
    /// The entries by their keys' texts.
    shards: Box<[RwLock<EntryShard>]>,
    hasher: DefaultHashBuilder,
    tuner: Tuner,
    /// Which entries will never be valid again.
    is_outdated: OnceLock<IsOutdated>,
    capacity: u64,
}

/// An entry with more tags is not checked before it is evicted, since that would take too long.
const MOST_TAGS: usize = 64;

/// What is set aside for trials of rules of eviction: the capacity divided by the first, but at most the second, in bytes.
const TRIALS: (u64, u64) = (32, 1 << 20);

type EntryShard = Shard<Bytes, Arc<Entry>>;

/// The smallest shard, in bytes.
const LEAST_SHARD: u64 = 2 << 20;

/// The position of the bits that decide on the shard, in a hash: tables and the tuner use others.
const SHARD_SHIFT: u32 = 28;

impl Memory {
    /// Creates a store of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let count = shards(capacity, cores);
        let of_each = (capacity - (capacity / TRIALS.0).min(TRIALS.1)) / count as u64;
        Self {
            shards: (0..count).map(|_| RwLock::new(Shard::new(of_each))).collect(),
            hasher: DefaultHashBuilder::default(),
            tuner: Tuner::new(capacity),
            is_outdated: OnceLock::new(),
            capacity,
        }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read_unpoisoned().len()).sum()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The approximate size of all entries, in bytes.
    pub fn weight(&self) -> u64 {
        self.shards.iter().map(|shard| shard.read_unpoisoned().weight()).sum()
    }

    /// The shard of a key with this hash.
    fn shard(&self, hash: u64) -> &RwLock<EntryShard> {
        let mask = self.shards.len() - 1;
        &self.shards[(hash >> SHARD_SHIFT) as usize & mask]
    }

    /// Whether an entry has expired, or will never be valid again for another reason.
    fn is_outdated(&self, entry: &Entry) -> bool {
        let is_outdated = self.is_outdated.get();
        entry.age() >= entry.life.keep || is_outdated.is_some_and(|is_outdated| is_outdated(entry))
    }

    /// Removes the entry of a key with this hash if it is the one that `is_it` accepts.
    fn remove_if(&self, hash: u64, text: &[u8], is_it: impl Fn(&Arc<Entry>) -> bool) {
        let mut shard = self.shard(hash).write_unpoisoned();
        let removed = shard.remove_if(hash, |kept| kept == text, is_it);
        drop(shard);
        if removed.is_some() {
            self.tuner.note_removed(hash);
        }
    }
}

/// The number of shards: a power of two.
fn shards(capacity: u64, cores: usize) -> usize {
    let most = (capacity / LEAST_SHARD).max(1).ilog2();
    (4 * cores).next_power_of_two().min(1 << most.min(usize::BITS - 1))
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("entries", &self.len())
            .field("bytes", &self.weight())
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

impl Store for Memory {
    fn peek(&self, key: &Key) -> Option<Found> {
        let text = key.text();
        let hash = self.hasher.hash_one(text);
        let (shard, rules) = (self.shard(hash), self.tuner.rules());
        let is_key = |kept: &Bytes| kept == text;
        let kept = shard.read_unpoisoned();
        let found = kept.get(hash, is_key, rules);
        let found = found.map(|hit| (hit.value.clone(), hit.weight, hit.is_renewal_due));
        drop(kept);
        let (entry, weight, is_renewal_due) = found?;
        if entry.age() >= entry.life.keep {
            self.remove_if(hash, text, |kept| Arc::ptr_eq(kept, &entry));
            return None;
        }
        // If another thread is here, a later request renews it.
        if is_renewal_due && let Some(mut shard) = shard.try_lock_unpoisoned() {
            shard.renew(hash, is_key);
        }
        if self.tuner.is_sampled(hash) {
            match self.is_outdated(&entry) {
                true => self.tuner.note_outdated(hash),
                false => self.tuner.note_hit(hash, weight),
            }
        }
        entry.is_for(key).then_some(Found { entry, tier: Tier::Memory })
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async { Ok(self.peek(key)) })
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        let text = match entry.key == key.text() {
            true => entry.key.clone(),
            false => Bytes::copy_from_slice(key.text()),
        };
        let (hash, weight) = (self.hasher.hash_one(&*text), entry.weight() as u64);
        let rules = self.tuner.rules();
        let mut shard = self.shard(hash).write_unpoisoned();
        let is_stored = weight <= shard.largest();
        let discarded = shard.insert(hash, text, entry.clone(), weight, rules, |kept| {
            kept.tags.len() <= MOST_TAGS && self.is_outdated(kept)
        });
        drop(shard);
        drop(discarded);
        match is_stored {
            true => self.tuner.note_stored(hash, weight),
            false => self.tuner.note_removed(hash),
        }
        None
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.remove_if(self.hasher.hash_one(key.text()), key.text(), |_| true);
        Box::pin(async { Ok(()) })
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn evict_first(&self, is_outdated: IsOutdated) {
        // If several caches share the store, the entries of the others are evicted in their turn.
        let _ = self.is_outdated.set(is_outdated);
    }

    fn status(&self) -> StoreStatus {
        let memory = MemoryStatus {
            entries: self.len() as u64,
            bytes: self.weight(),
            capacity: self.capacity,
        };
        StoreStatus { memory: Some(memory), ..StoreStatus::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_the_default_limit_fits_into_a_shard_whatever_the_number_of_cores() {
        for cores in [1, 2, 7, 32, 64, 192] {
            let shards = shards(64 << 20, cores);
            assert!(shards.is_power_of_two() && shards <= 8 * cores, "{shards}");
            let shard = f64::from(u32::try_from((64 << 20) / shards).unwrap());
            assert!(0.9 * shard > f64::from((1 << 20) + (64 << 10)), "{cores}: {shards}");
        }
        assert_eq!([shards(0, 8), shards(1 << 20, 8), shards(u64::MAX, 8)], [1, 1, 32]);
    }
}
