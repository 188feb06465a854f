//! The store in this process's memory.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::{Found, MemoryStatus, Store, StoreError, StoreStatus, Tier};
use crate::entry::{Entry, Key};

/// A store in this process's memory, bounded in bytes. A typed value is also held in decoded form, and the size of that is
/// estimated: at most three times too high, and too low only for linked lists and boxes of a few bytes.
///
/// When the store is full, it evicts the entries that are requested least (S3-FIFO, after Yang et al., "FIFO queues are all
/// you need for cache eviction", SOSP 2023, as implemented by the `quick_cache` crate). The queue sizes are those with the
/// best hit rate on a trace of real reads (`tidegate bench hitrate`). With room for 1 % of the keys, they bring about a
/// twentieth more hits than the crate's default sizes; with more room, equally many. The capacity is divided evenly among
/// shards: four to eight per core, or fewer if a shard would be smaller than 2 MiB, so that a body of 1 MiB, the default
/// [`body_limit`](crate::Policy::body_limit), has room on a machine with many cores. An entry that is larger than nine
/// tenths of a shard is not stored.
///
/// ```
/// use tidegate::{Cache, Memory};
///
/// // 64 MiB
/// let cache = Cache::new(Memory::new(64 << 20));
/// ```
pub struct Memory {
    /// The entries by their keys' texts.
    entries: Cache<Bytes, Arc<Entry>, Weight>,
}

/// The assumed size of an entry, in bytes. It determines how many evicted keys are remembered, so it is rather too small.
const TYPICAL_ENTRY: u64 = 1024;

/// The smallest shard, in bytes.
const LEAST_SHARD: u64 = 2 << 20;

/// The share of the capacity for entries that were requested again.
const HOT: f64 = 0.9;

/// How many evicted keys are remembered by their hashes, as a share of the stored entries.
const GHOSTS: f64 = 1.0;

impl Memory {
    /// Creates a store of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let estimated = usize::try_from(capacity / TYPICAL_ENTRY).unwrap_or(usize::MAX).max(16);
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(estimated)
            .weight_capacity(capacity)
            .shards(shards(capacity, cores))
            .hot_allocation(HOT)
            .ghost_allocation(GHOSTS)
            .build();
        let entries = match options {
            Ok(options) => {
                let hasher = DefaultHashBuilder::default();
                Cache::with_options(options, Weight, hasher, DefaultLifecycle::default())
            }
            // Unreachable: all required options are set.
            Err(_) => Cache::with_weighter(estimated, capacity, Weight),
        };
        Self { entries }
    }

    /// The number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The approximate size of all entries, in bytes.
    pub fn weight(&self) -> u64 {
        self.entries.weight()
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
            .field("capacity", &self.entries.capacity())
            .finish()
    }
}

impl Store for Memory {
    fn peek(&self, key: &Key) -> Option<Found> {
        let entry = self.entries.get(key.text())?;
        if entry.age() >= entry.life.keep {
            self.entries.remove_if(key.text(), |kept| Arc::ptr_eq(kept, &entry));
            return None;
        }
        entry.answers(key).then_some(Found { entry, tier: Tier::Memory })
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async { Ok(self.peek(key)) })
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        let place = match entry.key == key.text() {
            true => entry.key.clone(),
            false => Bytes::copy_from_slice(key.text()),
        };
        self.entries.insert(place, entry.clone());
        None
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.entries.remove(key.text());
        Box::pin(async { Ok(()) })
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn status(&self) -> StoreStatus {
        let memory = MemoryStatus {
            entries: self.len() as u64,
            bytes: self.weight(),
            capacity: self.entries.capacity(),
        };
        StoreStatus { memory: Some(memory), ..StoreStatus::default() }
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<Bytes, Arc<Entry>> for Weight {
    fn weight(&self, _: &Bytes, entry: &Arc<Entry>) -> u64 {
        entry.weight() as u64
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
            assert!(HOT * shard > f64::from((1 << 20) + (64 << 10)), "{cores}: {shards}");
        }
        assert_eq!([shards(0, 8), shards(1 << 20, 8), shards(u64::MAX, 8)], [1, 1, 32]);
    }
}
