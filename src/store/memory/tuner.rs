//! Chooses the rules of eviction while the store runs: each is tried on a sample of the requests.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::rules::{CANDIDATES, EvictionRules, FIRST};
use super::shard::Shard;
use crate::sync::TryLock;

/// Tries each of the rules on a sample of the keys, and chooses the one with the most hits.
///
/// The sample has each key whose hash has zeros in certain bits, and all requests for that key. A cache with room for the
/// sample's share of the capacity has about the hit ratio of the whole (Waldspurger et al., "Cache modeling and
/// optimization using miniature simulations", USENIX ATC 2017).
#[derive(Debug)]
pub(super) struct Tuner {
    /// The index of the rules that were chosen.
    chosen: AtomicUsize,
    /// A key belongs to the sample if these bits of its hash are zero.
    mask: AtomicU64,
    sample: Sample,
}

/// What requests of the sample write. Every request reads the fields above, so these are on other cache lines.
#[derive(Debug)]
#[repr(align(128))]
struct Sample {
    /// The key of the last hit. One more request for it says little, so requests for a very popular key do not contend for
    /// the lock.
    last: AtomicU64,
    trials: Mutex<Trials>,
}

/// The trials of all rules, on the same sample.
#[derive(Debug)]
struct Trials {
    /// The capacity of the whole store.
    capacity: u64,
    of: [Trial; CANDIDATES.len()],
    /// Requests since the last choice.
    requests: usize,
    /// Keys whose entries have turned out to be outdated: what replaces them is no hit.
    outdated: HashSet<u64>,
}

#[derive(Debug)]
struct Trial {
    kept: Shard<(), ()>,
    /// Of recent requests: those from before the last choice count less.
    hits: f64,
}

/// For how many entries the sample should have room, at least.
const ENTRIES: u64 = 400;

/// An entry's assumed weight until the sample shows it, in bytes.
const TYPICAL_WEIGHT: u64 = 1024;

/// The sample has at most an eighth of the keys, so that a small store does not consist of trials.
const LEAST_BITS: u32 = 3;

/// The position of the bits that decide on the sample, in a hash: tables use others.
const SHIFT: u32 = 40;
const MOST_BITS: u32 = 16;

/// How many requests of the sample there are between two choices, at least.
const LEAST_REQUESTS: usize = 64;

/// Which share of the hits before the last choice counts at the next one.
const KEPT: f64 = 0.9;

/// Other rules are chosen if they have this many times as many hits: each change costs some.
const MARGIN: f64 = 1.002;

impl Tuner {
    pub(super) fn new(capacity: u64) -> Self {
        let bits = sample_bits(capacity / TYPICAL_WEIGHT);
        Self {
            chosen: AtomicUsize::new(FIRST),
            mask: AtomicU64::new(mask(bits)),
            sample: Sample {
                last: AtomicU64::new(0),
                trials: Mutex::new(Trials::new(capacity, bits)),
            },
        }
    }

    /// The rules to evict by.
    pub(super) fn rules(&self) -> EvictionRules {
        let chosen = self.chosen.load(Ordering::Relaxed);
        CANDIDATES.get(chosen).copied().unwrap_or(EvictionRules::Lru)
    }

    /// Notes a request for which the store had an entry that is not outdated.
    pub(super) fn note_hit(&self, hash: u64, weight: u64) {
        if self.is_sampled(hash) && self.sample.last.load(Ordering::Relaxed) != hash {
            self.sample.last.store(hash, Ordering::Relaxed);
            self.with_trials(|trials| trials.request(hash, weight));
        }
    }

    /// Notes a request for which the store had no such entry, once the entry that answers it is stored.
    pub(super) fn note_stored(&self, hash: u64, weight: u64) {
        if self.is_sampled(hash) {
            self.with_trials(|trials| trials.request(hash, weight));
        }
    }

    /// Notes that an entry has turned out to be outdated. The store keeps its place for the one that replaces it.
    pub(super) fn note_outdated(&self, hash: u64) {
        if self.is_sampled(hash) {
            self.with_trials(|trials| {
                trials.outdated.insert(hash);
            });
        }
    }

    /// Notes that an entry was removed, otherwise than by eviction.
    pub(super) fn note_removed(&self, hash: u64) {
        if self.is_sampled(hash) {
            self.with_trials(|trials| trials.remove(hash));
        }
    }

    /// Whether a key belongs to the sample.
    pub(super) fn is_sampled(&self, hash: u64) -> bool {
        hash & self.mask.load(Ordering::Relaxed) == 0
    }

    /// What comes while another thread is here is not noted: the choice needs no more than most of it.
    fn with_trials(&self, note: impl FnOnce(&mut Trials)) {
        let Some(mut trials) = self.sample.trials.try_lock_unpoisoned() else { return };
        note(&mut trials);
        if trials.are_due() {
            let chosen = trials.choose(self.chosen.load(Ordering::Relaxed));
            self.chosen.store(chosen, Ordering::Relaxed);
            if let Some(bits) = trials.better_sample(self.mask.load(Ordering::Relaxed)) {
                *trials = Trials::new(trials.capacity, bits);
                self.mask.store(mask(bits), Ordering::Relaxed);
            }
        }
    }
}

impl Trials {
    fn new(capacity: u64, bits: u32) -> Self {
        let of = CANDIDATES.map(|_| Trial { kept: Shard::new(capacity >> bits), hits: 0.0 });
        Self { capacity, of, requests: 0, outdated: HashSet::new() }
    }

    fn request(&mut self, hash: u64, weight: u64) {
        self.requests += 1;
        let hit = if self.outdated.remove(&hash) { 0.0 } else { 1.0 };
        for (Trial { kept, hits }, rules) in self.of.iter_mut().zip(CANDIDATES) {
            match kept.get(hash, |()| true, rules).map(|hit| hit.is_renewal_due) {
                Some(is_renewal_due) => {
                    *hits += hit;
                    if is_renewal_due {
                        kept.renew(hash, |()| true);
                    }
                }
                None => drop(kept.insert(hash, (), (), weight, rules, |()| false)),
            }
        }
    }

    fn remove(&mut self, hash: u64) {
        for Trial { kept, .. } in &mut self.of {
            kept.remove(hash, |()| true);
        }
    }

    fn are_due(&self) -> bool {
        self.requests >= self.of[0].kept.len().max(LEAST_REQUESTS)
    }

    /// Chooses rules, and begins to count anew.
    fn choose(&mut self, current: usize) -> usize {
        let most = self.of.iter().enumerate().max_by(|(_, a), (_, b)| a.hits.total_cmp(&b.hits));
        let best = most.map_or(current, |(best, _)| best);
        let is_better = self.of[best].hits > self.of[current].hits * MARGIN;
        self.requests = 0;
        self.outdated.clear();
        self.of.iter_mut().for_each(|trial| trial.hits *= KEPT);
        if is_better { best } else { current }
    }

    /// A sample of another size, if this one is far too small or too large.
    fn better_sample(&self, mask: u64) -> Option<u32> {
        let kept = &self.of[0].kept;
        let average = kept.weight().checked_div(kept.len() as u64)?;
        let (is, fits) = (mask.count_ones(), sample_bits(self.capacity / average.max(1)));
        (is.abs_diff(fits) > 1).then_some(fits)
    }
}

/// How many bits of a hash are to be zero, so that at least [`ENTRIES`] of `entries` belong to the sample, if
/// there are enough.
fn sample_bits(entries: u64) -> u32 {
    (entries / ENTRIES).checked_ilog2().unwrap_or(0).clamp(LEAST_BITS, MOST_BITS)
}

fn mask(bits: u32) -> u64 {
    ((1 << bits) - 1) << SHIFT
}

#[cfg(test)]
mod tests;
