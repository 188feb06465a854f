//! The store in this process's memory.

use std::fmt;
use std::sync::Arc;

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
/// best hit rate on a trace of real reads (`tidegate bench hitrate`): with room for 1 % of the keys, about a twentieth more
/// hits than with the crate's defaults; with more room, as many as with these. The capacity is divided evenly among shards:
/// four to eight per core, or fewer if a shard would be smaller than 32 KiB. An entry that is larger than nine tenths of a
/// shard is not stored.
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

/// The share of the capacity for entries that were requested again.
const HOT: f64 = 0.9;

/// How many evicted keys are remembered by their hashes, as a share of the stored entries.
const GHOSTS: f64 = 1.0;

impl Memory {
    /// Creates a store of at most `capacity` bytes.
    pub fn new(capacity: u64) -> Self {
        let estimated = usize::try_from(capacity / TYPICAL_ENTRY).unwrap_or(usize::MAX).max(16);
        let options = OptionsBuilder::new()
            .estimated_items_capacity(estimated)
            .weight_capacity(capacity)
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
