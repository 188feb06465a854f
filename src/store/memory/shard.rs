//! A part of the store: entries within a capacity, and the queues that say which of them to evict next.

use std::sync::atomic::{AtomicU8, Ordering};

use hashbrown::HashTable;
use slab::Slab;
use smallvec::SmallVec;

use super::ghosts::Ghosts;
use super::rules::EvictionRules;

/// Entries whose weights sum up to no more than the capacity. The rules of eviction may be others at each call.
///
/// Keys are looked up by their hashes and a function that compares: the hash alone is enough for a simulation.
#[derive(Debug)]
pub(super) struct Shard<K, V> {
    capacity: u64,
    table: HashTable<usize>,
    slots: Slab<Slot<K, V>>,
    /// Holds entries that were stored for the first time. (These are the names of S3-FIFO's queues.)
    small: Queue,
    /// Holds those that were requested again before they were evicted from the small queue, or soon after.
    main: Queue,
    ghosts: Ghosts,
    /// The number of entries that were stored so far.
    stored: u64,
    /// How often an entry was placed at the end of a queue.
    placements: u64,
    /// The entry at which to look next for one that is outdated, and its queue.
    hand: usize,
    hand_is_small: bool,
}

/// A stored entry.
#[derive(Debug)]
struct Slot<K, V> {
    hash: u64,
    key: K,
    value: V,
    weight: u64,
    is_small: bool,
    /// Its neighbors in its queue.
    older: usize,
    newer: usize,
    /// The number of the placement at the end of its queue, and how many entries had been stored then.
    placed: u64,
    stored_before: u64,
    /// How often it was requested since, as the rules of S3-FIFO count.
    uses: AtomicU8,
}

/// A queue of slots, linked by their indexes.
#[derive(Debug)]
struct Queue {
    oldest: usize,
    newest: usize,
    weight: u64,
}

/// No slot.
const NONE: usize = usize::MAX;

/// Further uses make no difference and are not counted, so that threads that serve one entry do not contend for the
/// counter.
const MOST_USES: u8 = 3;

/// Under LRU, an entry that is requested moves only if at least a sixteenth as many entries as the shard holds were stored
/// since it last moved, and at least one. To move it at each request would need the exclusive lock.
const SLACK: usize = 16;

/// At how many entries to look for an outdated one before another one is evicted, and at how many for one new entry, which
/// may need the room of many.
const LOOKS: usize = 8;
const MOST_LOOKS: usize = 64;

/// How many entries that were requested are moved to make room for one new entry: then the next ones are evicted in any
/// case. A shard may hold many, and requests wait for its lock.
const MOST_MOVES: usize = 256;

/// An entry that was looked up.
#[derive(Debug)]
pub(super) struct ShardHit<'a, V> {
    pub(super) value: &'a V,
    pub(super) weight: u64,
    /// Whether [`Shard::renew`] is due.
    pub(super) is_renewal_due: bool,
}

/// What a shard no longer holds: to be dropped after its lock.
pub(super) type Discarded<K, V> = SmallVec<[(K, V); 4]>;

impl<K, V> Shard<K, V> {
    pub(super) fn new(capacity: u64) -> Self {
        Self {
            capacity,
            table: HashTable::new(),
            slots: Slab::new(),
            small: Queue::EMPTY,
            main: Queue::EMPTY,
            ghosts: Ghosts::default(),
            stored: 0,
            placements: 0,
            hand: NONE,
            hand_is_small: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn weight(&self) -> u64 {
        self.small.weight + self.main.weight
    }

    /// The largest entry that is stored.
    pub(super) fn largest(&self) -> u64 {
        self.capacity - self.capacity / 10
    }

    /// Looks an entry up, as a request for it.
    pub(super) fn get(
        &self,
        hash: u64,
        is_key: impl Fn(&K) -> bool,
        rules: EvictionRules,
    ) -> Option<ShardHit<'_, V>> {
        let slot = self.slots.get(self.find(hash, is_key)?)?;
        let is_renewal_due = match rules {
            EvictionRules::Lru => {
                self.stored - slot.stored_before >= (self.len() / SLACK).max(1) as u64
            }
            EvictionRules::S3Fifo { .. } => {
                let uses = slot.uses.load(Ordering::Relaxed);
                if uses < MOST_USES {
                    // A use that is lost to a race makes no difference.
                    slot.uses.store(uses + 1, Ordering::Relaxed);
                }
                false
            }
        };
        Some(ShardHit { value: &slot.value, weight: slot.weight, is_renewal_due })
    }

    /// Makes an entry the most recently used one.
    pub(super) fn renew(&mut self, hash: u64, is_key: impl Fn(&K) -> bool) {
        if let Some(at) = self.find(hash, is_key) {
            let is_small = self.slots[at].is_small;
            self.place(at, is_small);
        }
    }

    /// Stores an entry, in place of the one of the same key if there is one. One that is larger than nine tenths of the
    /// capacity is not stored. Of those in its way, some that are outdated go first.
    pub(super) fn insert(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        weight: u64,
        rules: EvictionRules,
        is_outdated: impl Fn(&V) -> bool,
    ) -> Discarded<K, V>
    where
        K: PartialEq,
    {
        let mut discarded = Discarded::new();
        if weight > self.largest() {
            discarded.extend(self.remove(hash, |kept| *kept == key));
            discarded.push((key, value));
            return discarded;
        }
        if let Some(at) = self.find(hash, |kept| *kept == key) {
            let slot = &mut self.slots[at];
            // The old key may share the memory of the old value.
            let old =
                (std::mem::replace(&mut slot.key, key), std::mem::replace(&mut slot.value, value));
            discarded.push(old);
            // One lookup of an entry that can't be served may have counted several times.
            let uses = slot.uses.get_mut();
            *uses = (*uses).min(1);
            let is_small = slot.is_small;
            if rules == EvictionRules::Lru || weight > slot.weight {
                // While it is in no queue, it is not evicted to make room for itself.
                self.unlink(at);
                self.slots[at].weight = weight;
                self.make_room(weight, rules, is_outdated, &mut discarded);
                self.append(at, is_small);
            } else {
                let before = std::mem::replace(&mut slot.weight, weight);
                let queue = self.queue(is_small);
                queue.weight = queue.weight - before + weight;
            }
            return discarded;
        }
        self.make_room(weight, rules, is_outdated, &mut discarded);
        self.stored += 1;
        let is_small = !self.ghosts.forget(hash);
        let at = self.slots.insert(Slot {
            hash,
            key,
            value,
            weight,
            is_small,
            older: NONE,
            newer: NONE,
            placed: 0,
            stored_before: 0,
            uses: AtomicU8::new(0),
        });
        self.append(at, is_small);
        let slots = &self.slots;
        self.table.insert_unique(hash, at, |&at| slots[at].hash);
        discarded
    }

    /// Removes an entry.
    pub(super) fn remove(&mut self, hash: u64, is_key: impl Fn(&K) -> bool) -> Option<(K, V)> {
        self.remove_if(hash, is_key, |_| true)
    }

    /// Removes an entry if its value is one that `is_value` accepts.
    pub(super) fn remove_if(
        &mut self,
        hash: u64,
        is_key: impl Fn(&K) -> bool,
        is_value: impl Fn(&V) -> bool,
    ) -> Option<(K, V)> {
        let at = self.find(hash, is_key)?;
        is_value(&self.slots[at].value).then(|| self.discard(at))
    }

    fn find(&self, hash: u64, is_key: impl Fn(&K) -> bool) -> Option<usize> {
        let is = |&at: &usize| {
            let slot = &self.slots[at];
            slot.hash == hash && is_key(&slot.key)
        };
        self.table.find(hash, is).copied()
    }

    /// Evicts until there is room for `weight` more.
    fn make_room(
        &mut self,
        weight: u64,
        rules: EvictionRules,
        is_outdated: impl Fn(&V) -> bool,
        discarded: &mut Discarded<K, V>,
    ) {
        let (mut looks, mut moves) = (MOST_LOOKS, MOST_MOVES);
        while self.weight() + weight > self.capacity
            && let Some(evicted) = self
                .evict_outdated(&mut looks, &is_outdated)
                .or_else(|| self.evict(rules, &mut moves))
        {
            discarded.push(evicted);
        }
    }

    /// Evicts the first outdated entry of the next few.
    fn evict_outdated(
        &mut self,
        looks: &mut usize,
        is_outdated: impl Fn(&V) -> bool,
    ) -> Option<(K, V)> {
        for _ in 0..LOOKS.min(*looks) {
            *looks -= 1;
            if self.hand == NONE {
                self.hand_is_small = !self.hand_is_small;
                self.hand = self.queue(self.hand_is_small).oldest;
            }
            let at = self.hand;
            let Some(slot) = self.slots.get(at) else { continue };
            self.hand = slot.newer;
            if is_outdated(&slot.value) {
                return Some(self.evict_remembering(at));
            }
        }
        None
    }

    /// `moves` is how many entries that were requested may be moved meanwhile.
    fn evict(&mut self, rules: EvictionRules, moves: &mut usize) -> Option<(K, V)> {
        match rules {
            EvictionRules::Lru => self.evict_least_recent(moves),
            EvictionRules::S3Fifo { small_percent, promote_after } => {
                let share = |percent| self.capacity.saturating_mul(percent) / 100;
                let (most_small, most_main) = (share(small_percent), share(100 - small_percent));
                if self.small.weight >= most_small || self.main.oldest == NONE {
                    self.evict_small(promote_after, most_main, moves)
                } else {
                    self.evict_main(moves)
                }
            }
        }
    }

    fn evict_least_recent(&mut self, moves: &mut usize) -> Option<(K, V)> {
        loop {
            let placed = |at| self.slots.get(at).map_or(u64::MAX, |slot: &Slot<K, V>| slot.placed);
            let (small, main) = (self.small.oldest, self.main.oldest);
            let at = if placed(small) <= placed(main) { small } else { main };
            let slot = self.slots.get_mut(at)?;
            // While other rules were in force, a request did not move it.
            if std::mem::take(slot.uses.get_mut()) == 0 || *moves == 0 {
                return Some(self.evict_remembering(at));
            }
            *moves -= 1;
            let is_small = slot.is_small;
            self.place(at, is_small);
        }
    }

    /// Evicts the oldest entry of the small queue that was not requested often enough, and moves those before it to the main
    /// queue.
    fn evict_small(
        &mut self,
        promote_after: u8,
        most_main: u64,
        moves: &mut usize,
    ) -> Option<(K, V)> {
        while let Some(slot) = self.slots.get_mut(self.small.oldest) {
            let at = self.small.oldest;
            if *slot.uses.get_mut() < promote_after || *moves == 0 {
                return Some(self.evict_remembering(at));
            }
            *moves -= 1;
            *slot.uses.get_mut() = 0;
            self.place(at, false);
            if self.main.weight > most_main {
                break;
            }
        }
        self.evict_main(moves)
    }

    /// Evicts the oldest entry of the main queue that was requested least.
    fn evict_main(&mut self, moves: &mut usize) -> Option<(K, V)> {
        loop {
            let at = self.main.oldest;
            let slot = self.slots.get_mut(at)?;
            let uses = slot.uses.get_mut();
            if *uses == 0 || *moves == 0 {
                return Some(self.discard(at));
            }
            *uses -= 1;
            *moves -= 1;
            self.place(at, false);
        }
    }

    fn evict_remembering(&mut self, at: usize) -> (K, V) {
        self.ghosts.remember(self.slots[at].hash, self.slots.len());
        self.discard(at)
    }

    fn discard(&mut self, at: usize) -> (K, V) {
        self.unlink(at);
        let slot = self.slots.remove(at);
        if let Ok(found) = self.table.find_entry(slot.hash, |&kept| kept == at) {
            found.remove();
        }
        (slot.key, slot.value)
    }

    /// Moves an entry to the end of a queue.
    fn place(&mut self, at: usize, is_small: bool) {
        self.unlink(at);
        self.append(at, is_small);
    }

    fn queue(&mut self, is_small: bool) -> &mut Queue {
        if is_small { &mut self.small } else { &mut self.main }
    }

    fn append(&mut self, at: usize, is_small: bool) {
        self.placements += 1;
        let newest = self.queue(is_small).newest;
        if let Some(before) = self.slots.get_mut(newest) {
            before.newer = at;
        } else {
            self.queue(is_small).oldest = at;
        }
        let slot = &mut self.slots[at];
        (slot.is_small, slot.older, slot.newer) = (is_small, newest, NONE);
        (slot.placed, slot.stored_before) = (self.placements, self.stored);
        let weight = slot.weight;
        let queue = self.queue(is_small);
        queue.newest = at;
        queue.weight += weight;
    }

    fn unlink(&mut self, at: usize) {
        let slot = &self.slots[at];
        let (is_small, weight, older, newer) = (slot.is_small, slot.weight, slot.older, slot.newer);
        if self.hand == at {
            self.hand = newer;
        }
        match self.slots.get_mut(older) {
            Some(slot) => slot.newer = newer,
            None => self.queue(is_small).oldest = newer,
        }
        match self.slots.get_mut(newer) {
            Some(slot) => slot.older = older,
            None => self.queue(is_small).newest = older,
        }
        self.queue(is_small).weight -= weight;
    }
}

impl Queue {
    const EMPTY: Self = Self { oldest: NONE, newest: NONE, weight: 0 };
}

#[cfg(test)]
mod tests;
