//! The hits of two models at a given size: an LRU cache and the optimal cache.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::trace::{Trace, Writes};

/// Hits of a cache that evicts the least recently used entry. A write removes the row's entries.
pub(crate) fn lru(trace: &Trace, writes: &Writes, size: usize) -> u64 {
    let mut kept = Lru::default();
    let mut hits = 0;
    let mut written = writes.iter().peekable();
    let keys = keys_of_rows(trace);
    for (at, &key) in trace.accesses.iter().enumerate() {
        hits += u64::from(kept.remove(key));
        kept.insert(key);
        if kept.len() > size {
            kept.remove_oldest();
        }
        while let Some((_, row)) = written.next_if(|(after, _)| *after == at) {
            for &key in &keys[row as usize] {
                kept.remove(key);
            }
        }
    }
    hits
}

/// Hits of a cache that knows the future: it evicts the entry whose next use is furthest away (Belady, "A study of
/// replacement algorithms for a virtual-storage computer", IBM Systems Journal 5(2), 1966), and does not store a value
/// that a write invalidates before its next use.
pub(crate) fn optimal(trace: &Trace, writes: &Writes, size: usize) -> u64 {
    let next = next_uses(trace, writes);
    // The next use of each stored key, and a heap with the furthest next use on top.
    let mut kept: HashMap<u32, usize> = HashMap::new();
    let mut last: BinaryHeap<(usize, u32)> = BinaryHeap::new();
    let mut hits = 0;
    for (at, &key) in trace.accesses.iter().enumerate() {
        hits += u64::from(kept.remove(&key) == Some(at));
        let Some(next) = next[at] else { continue };
        kept.insert(key, next);
        last.push((next, key));
        while kept.len() > size {
            let Some((next, key)) = last.pop() else { break };
            if kept.get(&key) == Some(&next) {
                kept.remove(&key);
            }
        }
    }
    hits
}

/// For each access, the next one to the same key; `None` if a write to its row comes first.
fn next_uses(trace: &Trace, writes: &Writes) -> Vec<Option<usize>> {
    let mut next = vec![None; trace.accesses.len()];
    let mut used: Vec<Option<usize>> = vec![None; trace.keys()];
    let mut written = vec![usize::MAX; trace.tables.len()];
    let mut later = writes.iter().rev().peekable();
    for (at, &key) in trace.accesses.iter().enumerate().rev() {
        while let Some((after, row)) = later.next_if(|(after, _)| *after == at) {
            written[row as usize] = after;
        }
        let (key, row) = (key as usize, trace.rows[key as usize] as usize);
        next[at] = used[key].filter(|used| *used <= written[row]);
        used[key] = Some(at);
    }
    next
}

fn keys_of_rows(trace: &Trace) -> Vec<Vec<u32>> {
    let mut keys = vec![Vec::new(); trace.tables.len()];
    for (key, row) in (0..).zip(&trace.rows) {
        keys[*row as usize].push(key);
    }
    keys
}

/// Keys in the order of their last use.
#[derive(Default)]
struct Lru {
    now: u64,
    used: HashMap<u32, u64>,
    by_use: BTreeMap<u64, u32>,
}

impl Lru {
    fn len(&self) -> usize {
        self.used.len()
    }

    fn insert(&mut self, key: u32) {
        self.now += 1;
        self.used.insert(key, self.now);
        self.by_use.insert(self.now, key);
    }

    /// Whether it was there.
    fn remove(&mut self, key: u32) -> bool {
        let used = self.used.remove(&key);
        used.is_some_and(|used| self.by_use.remove(&used).is_some())
    }

    fn remove_oldest(&mut self) {
        if let Some((_, key)) = self.by_use.pop_first() {
            self.used.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trace(accesses: Vec<u32>) -> Trace {
        let keys = accesses.iter().max().map_or(0, |most| most + 1);
        Trace { accesses, rows: (0..keys).collect(), tables: vec![0; keys as usize] }
    }

    fn none(trace: &Trace) -> Writes {
        Writes::draw(trace, 0.0, 0)
    }

    #[test]
    fn lru_and_optimal_hit_counts_match_a_hand_count() {
        // Belady's own anomaly sequence, with room for three.
        let trace = trace(vec![0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4]);
        assert_eq!(lru(&trace, &none(&trace), 3), 2);
        assert_eq!(optimal(&trace, &none(&trace), 3), 5);
        assert_eq!(lru(&trace, &none(&trace), 5), 7);
        assert_eq!(optimal(&trace, &none(&trace), 5), 7);
    }

    #[test]
    fn a_read_after_a_write_to_its_key_is_never_a_hit() {
        let mut trace = trace(vec![0, 0, 0, 1]);
        trace.accesses.pop();
        let all = Writes::draw(&trace, 1.0, 0);
        assert_eq!((lru(&trace, &all, 3), optimal(&trace, &all, 3)), (0, 0));
        assert_eq!((lru(&trace, &none(&trace), 3), optimal(&trace, &none(&trace), 3)), (2, 2));
    }

    proptest! {
        #[test]
        fn lru_never_beats_the_optimal_policy(
            accesses in proptest::collection::vec(0..20_u32, 1..200),
            size in 1..20_usize,
            share in 0.0..0.5,
            seed: u64,
        ) {
            let trace = trace(accesses);
            let writes = Writes::draw(&trace, share, seed);
            prop_assert!(lru(&trace, &writes, size) <= optimal(&trace, &writes, size));
            let unbounded = (lru(&trace, &writes, 20), optimal(&trace, &writes, 20));
            prop_assert_eq!(unbounded.0, unbounded.1);
        }
    }
}
