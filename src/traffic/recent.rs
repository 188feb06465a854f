//! A bounded map of recent keys, which samples keys if there are too many.

use std::collections::HashMap;
use std::sync::Mutex;

use crate::sync::MutexExt;

/// Values by key. If there are too many, only every second key is sampled, then every fourth, and so on. Keys are chosen by
/// their hash, so a key is sampled always or never, and ratios within the sample estimate those of all keys (Waldspurger
/// et al., "Efficient MRC Construction with SHARDS", FAST 2015).
#[derive(Debug)]
pub(crate) struct Recent<V> {
    most: usize,
    known: Mutex<RecentValue<V>>,
}

#[derive(Debug)]
struct RecentValue<V> {
    values: HashMap<u64, V>,
    /// The bits of a hash that must be zero for the key to be sampled.
    mask: u64,
}

impl<V> Recent<V> {
    pub(crate) fn new(most: usize) -> Self {
        Self { most, known: Mutex::new(RecentValue { values: HashMap::new(), mask: 0 }) }
    }

    /// Updates the value of a key, which is given by its hash. `None` if the key is not sampled.
    pub(crate) fn exchange<R>(
        &self,
        hash: u64,
        with: impl FnOnce(&mut Option<V>) -> R,
    ) -> Option<R> {
        let mut known = self.known.lock_unpoisoned();
        if hash & known.mask != 0 {
            return None;
        }
        let mut value = known.values.remove(&hash);
        let result = with(&mut value);
        if let Some(value) = value {
            known.values.insert(hash, value);
        }
        while known.values.len() > self.most {
            known.mask = known.mask << 1 | 1;
            let mask = known.mask;
            known.values.retain(|hash, _| hash & mask == 0);
        }
        Some(result)
    }
}

#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn the_table_stays_bounded_and_keeps_a_stable_sample_of_keys() {
        let recent = Recent::new(100);
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
        let mut known = |number| {
            recent.exchange(hash(number), |value: &mut Option<()>| value.replace(()).is_some())
        };
        for number in 0..10_000 {
            assert_ne!(known(number), Some(true));
        }
        let again: Vec<_> = (0..10_000).filter_map(&mut known).collect();
        assert!((20..=100).contains(&again.len()), "{}", again.len());
        assert!(again.into_iter().all(|known| known), "sampled keys are remembered");
    }
}
