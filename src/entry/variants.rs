//! The variants of one key that this node has stored.

use std::sync::{Arc, PoisonError, Weak};

use super::{Entry, Key};
use crate::sync::{Mutex, MutexGuard};

/// The most variants of one key that a node stores, whatever clients send.
const MOST: usize = 64;

/// After this many removed variants, the use counts of all are halved, so that variants that were popular once are removed
/// in the end.
const HALVE_EVERY: usize = 64;

/// Lists the variants of one key that this node has stored, and bounds their number. If there are too many, one of the
/// least used is removed: values that are sent only once, as by a client that makes them up, replace each other and no
/// variant that is in use. The list belongs to the key's vary marker, and has only what this node itself has stored.
#[derive(Debug, Default)]
pub(crate) struct Variants(Mutex<VariantList>);

#[derive(Debug, Default)]
struct VariantList {
    /// The oldest first.
    all: Vec<StoredVariant>,
    /// How many were removed.
    gone: usize,
}

#[derive(Debug)]
struct StoredVariant {
    key: Key,
    entry: Weak<Entry>,
}

impl StoredVariant {
    /// The number of recent uses; 0 if the entry is no longer in memory, since then it was not in use.
    fn uses(&self) -> u8 {
        self.entry.upgrade().map_or(0, |entry| entry.uses())
    }
}

impl Variants {
    /// Adds a variant that is stored under `key`. Returns the key of a variant to remove, if there are too many.
    pub(crate) fn note(&self, key: &Key, entry: &Arc<Entry>) -> Option<Key> {
        let mut listed = self.lock();
        if listed.renew(key, entry) {
            return None;
        }
        let gone = (listed.all.len() >= MOST).then(|| listed.remove_one()).flatten();
        listed.all.push(StoredVariant { key: key.clone(), entry: Arc::downgrade(entry) });
        gone
    }

    /// Records that another entry for `key` is in memory now, such as one from the shared store.
    pub(crate) fn renew(&self, key: &Key, entry: &Arc<Entry>) {
        self.lock().renew(key, entry);
    }

    fn lock(&self) -> MutexGuard<'_, VariantList> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The approximate number of bytes that the list takes, without the entries.
    pub(crate) fn weight(&self) -> usize {
        let listed = self.lock();
        listed.all.iter().map(|variant| size_of::<StoredVariant>() + variant.key.text().len()).sum()
    }
}

impl VariantList {
    /// Sets the entry of `key`, and returns whether the key is listed.
    fn renew(&mut self, key: &Key, entry: &Arc<Entry>) -> bool {
        let Some(known) = self.all.iter_mut().find(|known| known.key == *key) else { return false };
        entry.set_uses(known.uses().max(entry.uses()));
        known.entry = Arc::downgrade(entry);
        true
    }

    fn remove_one(&mut self) -> Option<Key> {
        let (at, _) = self.all.iter().enumerate().min_by_key(|(_, variant)| variant.uses())?;
        let key = self.all.remove(at).key;
        self.gone += 1;
        if self.gone.is_multiple_of(HALVE_EVERY) {
            let entries = self.all.iter().filter_map(|variant| variant.entry.upgrade());
            entries.for_each(|entry| entry.set_uses(entry.uses() / 2));
        }
        Some(key)
    }
}

#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::entry::{Epoch, Lifetime, LogPosition, Position};

    fn key(name: usize) -> Key {
        Key::new("t").part(name.to_string()).finish()
    }

    fn entry(name: usize) -> Arc<Entry> {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        let parts = (Bytes::new(), Bytes::new());
        Arc::new(Entry::new(&key(name), basis, [].into(), life, parts))
    }

    #[test]
    fn past_the_bound_the_oldest_variant_is_evicted() {
        let (variants, entries) = (Variants::default(), (0..MOST).map(entry).collect::<Vec<_>>());
        assert!((0..MOST).all(|name| variants.note(&key(name), &entries[name]).is_none()));
        assert!((0..MOST).all(|name| variants.note(&key(name), &entries[name]).is_none()));
        assert_eq!(variants.note(&key(MOST), &entry(MOST)), Some(key(0)), "the oldest");
        assert!(variants.weight() > MOST * 8);
    }

    #[test]
    fn a_variant_in_use_is_never_evicted() {
        let (variants, hot) = (Variants::default(), entry(0));
        variants.note(&key(0), &hot);
        for name in 1..10_000 {
            if name % 50 == 1 {
                hot.note_use();
            }
            // Made-up values are requested once.
            assert_ne!(variants.note(&key(name), &entry(name)), Some(key(0)));
        }
    }

    #[test]
    fn a_variant_no_longer_in_use_is_evicted_in_the_end() {
        let (variants, once) = (Variants::default(), entry(0));
        (0..1000).for_each(|_| once.note_use());
        variants.note(&key(0), &once);
        let gone = |name: usize| variants.note(&key(name), &entry(name)) == Some(key(0));
        assert!((1..10_000).any(gone));
    }

    #[test]
    fn a_recomputed_variant_keeps_its_use_count() {
        let (variants, first, second) = (Variants::default(), entry(0), entry(0));
        variants.note(&key(0), &first);
        first.note_use();
        variants.note(&key(0), &second);
        assert_eq!(second.uses(), 1);
    }
}
