#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, VecDeque};

use proptest::prelude::*;

use super::super::rules::CANDIDATES;
use super::*;

const PAPER: EvictionRules = EvictionRules::S3Fifo { small_percent: 10, promote_after: 2 };

/// Spreads numbers over all bits.
fn hash(key: u32) -> u64 {
    u64::from(key).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// One request; returns whether it was a hit. Each entry weighs 1.
fn request(shard: &mut Shard<u32, ()>, key: u32, rules: EvictionRules) -> bool {
    let is_key = |kept: &u32| *kept == key;
    let found = shard.get(hash(key), is_key, rules).map(|hit| hit.is_renewal_due);
    if found == Some(true) {
        shard.renew(hash(key), is_key);
    }
    if found.is_none() {
        shard.insert(hash(key), key, (), 1, rules, |()| false);
    }
    found.is_some()
}

/// Panics unless table, queues and weights agree.
fn check<K: std::fmt::Debug, V>(shard: &Shard<K, V>) {
    let mut found = 0;
    for (queue, is_small) in [(&shard.small, true), (&shard.main, false)] {
        let (mut at, mut older, mut weight, mut placed) = (queue.oldest, NONE, 0, 0);
        while let Some(slot) = shard.slots.get(at) {
            assert_eq!((slot.is_small, slot.older), (is_small, older));
            assert!(slot.placed > placed, "a queue is in the order in which its entries came");
            assert_eq!(shard.table.find(slot.hash, |kept| *kept == at), Some(&at));
            (older, at, placed) = (at, slot.newer, slot.placed);
            weight += slot.weight;
            found += 1;
        }
        assert_eq!((queue.newest, queue.weight), (older, weight));
    }
    assert_eq!((found, found), (shard.slots.len(), shard.table.len()));
    assert!(shard.weight() <= shard.capacity);
}

/// The keys of an LRU cache, the least recently used first. A request moves an entry only if another one was stored since
/// it last moved.
fn lru_model(keys: &[u32], capacity: usize) -> Vec<u32> {
    let mut kept: Vec<(u32, u32)> = Vec::new();
    let mut stored = 0;
    for key in keys {
        let found = kept.iter().position(|(kept, _)| kept == key);
        let is_due = found.is_none_or(|at| kept[at].1 < stored);
        if let Some(at) = found.filter(|_| is_due) {
            kept.remove(at);
        }
        stored += u32::from(found.is_none());
        if is_due {
            kept.push((*key, stored));
        }
        if kept.len() > capacity {
            kept.remove(0);
        }
    }
    kept.into_iter().map(|(key, _)| key).collect()
}

/// The hits of S3-FIFO, as in algorithm 1 of the paper.
fn s3_fifo_model(keys: &[u32], capacity: usize) -> Vec<bool> {
    let most_small = capacity / 10;
    let mut uses: HashMap<u32, u8> = HashMap::new();
    let (mut new, mut main) = (VecDeque::<u32>::new(), VecDeque::<u32>::new());
    let (mut ghosts, mut evictions) = (BTreeMap::<u64, u32>::new(), 0);
    let request = |key: &u32| {
        if let Some(uses) = uses.get_mut(key) {
            *uses = (*uses + 1).min(3);
            return true;
        }
        while uses.len() >= capacity {
            let mut from_main = new.len() < most_small && !main.is_empty();
            while !from_main {
                let Some(key) = new.pop_front() else {
                    from_main = true;
                    break;
                };
                if uses[&key] < 2 {
                    evictions += 1;
                    ghosts.retain(|_, ghost| *ghost != key);
                    ghosts.insert(evictions, key);
                    // As many as there were entries.
                    while ghosts
                        .first_key_value()
                        .is_some_and(|(at, _)| at + (uses.len() as u64) <= evictions)
                    {
                        ghosts.pop_first();
                    }
                    uses.remove(&key);
                    break;
                }
                uses.insert(key, 0);
                main.push_back(key);
                from_main = main.len() > capacity * 90 / 100;
            }
            while from_main && let Some(key) = main.pop_front() {
                if uses[&key] == 0 {
                    uses.remove(&key);
                    break;
                }
                uses.entry(key).and_modify(|uses| *uses -= 1);
                main.push_back(key);
            }
        }
        uses.insert(*key, 0);
        let before = ghosts.len();
        ghosts.retain(|_, ghost| ghost != key);
        match ghosts.len() < before {
            true => main.push_back(*key),
            false => new.push_back(*key),
        }
        false
    };
    keys.iter().map(request).collect()
}

proptest! {
    #[test]
    fn a_small_shard_evicts_exactly_the_least_recently_used_entry(
        keys in proptest::collection::vec(0..30_u32, 1..300),
        capacity in 1..16_usize,
    ) {
        // So few that each entry that is stored counts; see `SLACK`.
        let mut shard = Shard::new(capacity as u64);
        for (at, key) in keys.iter().enumerate() {
            let before = lru_model(&keys[..at], capacity);
            let is_hit = request(&mut shard, *key, EvictionRules::Lru);
            prop_assert_eq!(is_hit, before.contains(key));
            check(&shard);
        }
    }

    #[test]
    fn with_the_papers_parameters_a_shard_has_the_hits_of_s3_fifo(
        keys in proptest::collection::vec((0..100_u32).prop_map(|key| key * key / 100), 1..1000),
        capacity in 10..60_usize,
    ) {
        let mut shard = Shard::new(capacity as u64);
        let hits: Vec<bool> = keys.iter().map(|key| request(&mut shard, *key, PAPER)).collect();
        prop_assert_eq!(hits, s3_fifo_model(&keys, capacity));
        check(&shard);
    }

    /// Whatever the rules are at each moment.
    #[test]
    fn weights_stay_within_the_capacity_and_what_is_stored_is_found(
        steps in proptest::collection::vec((0..5_u8, 0..60_u32, 1..40_u64, 0..CANDIDATES.len()), 1..500),
    ) {
        let mut shard = Shard::new(200);
        let mut last: HashMap<u32, u64> = HashMap::new();
        for (step, key, weight, rules) in steps {
            let rules = CANDIDATES[rules];
            let is_key = |kept: &u32| *kept == key;
            match step {
                0 => {
                    let removed = shard.remove(hash(key), is_key);
                    prop_assert!(removed.is_none_or(|removed| (key, last[&key]) == removed));
                }
                1 => shard.renew(hash(key), is_key),
                2 => {
                    let found = shard.get(hash(key), is_key, rules);
                    prop_assert!(found.is_none_or(|hit| *hit.value == last[&key]));
                }
                _ => {
                    let value = last.len() as u64 + weight * 1000;
                    last.insert(key, value);
                    shard.insert(hash(key), key, value, weight, rules, |value| value % 7 == 0);
                    let found = shard.get(hash(key), is_key, rules).map(|hit| *hit.value);
                    prop_assert!(found == Some(value) || shard.weight() + weight > 200 - 40);
                }
            }
            check(&shard);
        }
    }
}

#[test]
fn an_entry_that_is_larger_than_nine_tenths_is_not_stored_and_removes_the_one_before() {
    let mut shard = Shard::new(100);
    let mut insert = |weight| shard.insert(1, 1, weight, weight, PAPER, |_| false).len();
    assert_eq!([insert(90), insert(91)], [0, 2]);
    assert_eq!(shard.len(), 0);
}

#[test]
fn a_request_under_other_eviction_rules_counts_as_a_recent_use() {
    let mut shard = Shard::new(10);
    for key in 0..10 {
        request(&mut shard, key, PAPER);
    }
    assert!(request(&mut shard, 0, PAPER));
    request(&mut shard, 10, EvictionRules::Lru);
    let is_kept = |key: u32| shard.get(hash(key), |kept| *kept == key, PAPER).is_some();
    assert_eq!([0, 1, 2].map(is_kept), [true, false, true]);
}

#[test]
fn outdated_entries_are_evicted_first() {
    for rules in CANDIDATES {
        let mut shard = Shard::new(100);
        for key in 0..100 {
            shard.insert(hash(key), key, key, 1, rules, |_| false);
        }
        // A third is outdated; as many more are stored.
        for key in 100..133 {
            shard.insert(hash(key), key, key, 1, rules, |kept| kept % 3 == 0 && *kept < 100);
        }
        let kept = |key: &u32| shard.get(hash(*key), |kept| kept == key, rules).is_some();
        let valid = (0..100).filter(|key| key % 3 != 0).filter(kept).count();
        assert!(valid > 60, "{rules:?}: {valid} of 66");
    }
}

#[test]
fn the_key_of_the_stored_value_replaces_the_one_before() {
    // Equal keys of different memory, as of two replies from Redis.
    let (first, second) = (std::rc::Rc::new(1), std::rc::Rc::new(1));
    let mut shard = Shard::new(100);
    shard.insert(1, first.clone(), (), 1, PAPER, |()| false);
    shard.insert(1, second.clone(), (), 2, PAPER, |()| false);
    assert_eq!([first, second].map(|key| std::rc::Rc::strong_count(&key)), [1, 2]);
    assert_eq!(shard.weight(), 2);
}

#[test]
fn a_value_that_grows_does_not_evict_itself() {
    for rules in CANDIDATES {
        let mut shard = Shard::new(100);
        for key in 0..10 {
            shard.insert(hash(key), key, (), 10, rules, |()| false);
        }
        // Whether it is alone in its queue or not.
        if let EvictionRules::S3Fifo { .. } = rules {
            (1..10).for_each(
                |key| while shard.get(hash(key), |kept| *kept == key, rules).is_none() {},
            );
            shard.insert(hash(10), 10, (), 10, rules, |()| false);
        }
        shard.insert(hash(0), 0, (), 60, rules, |()| false);
        let is_kept = shard.get(hash(0), |kept| *kept == 0, rules).is_some();
        assert!(is_kept && shard.weight() <= 100, "{rules:?}");
    }
}
