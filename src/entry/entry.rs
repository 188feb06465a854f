//! One stored response or value. A vary marker is an entry too, and lists the variants of its key.

use std::any::Any;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::{Epoch, Key, Lifetime, LogPosition, Position, Tag, ValueHead};
use crate::sync::{Mutex, MutexExt, MutexGuard};

/// One stored response or value: its bytes, and the data that decides whether they may be served.
///
/// An entry is immutable and shared, so a hit copies no body.
#[derive(Debug)]
pub struct Entry {
    pub(crate) key: Bytes,
    /// Its epoch and its `as_of`.
    pub(crate) basis: LogPosition,
    pub(crate) tags: Box<[Tag]>,
    pub(crate) life: Lifetime,
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
    variants: Option<VariantRef>,
    /// How often it was recently served as a variant, up to a bound.
    uses: AtomicU8,
    /// When the last renewal began, in milliseconds since it arrived, plus one; 0 before the first.
    renewed: AtomicU32,
    decoded: OnceLock<Arc<dyn Any + Send + Sync>>,
}

/// Distinguishes an entry from others that were computed for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryVersion {
    pub(crate) basis: LogPosition,
    /// When it was computed, in milliseconds since 1970. Of an idle database, positions stay the same.
    pub(crate) computed_at: u64,
}

/// A vary marker's reference to its variants.
#[derive(Debug)]
struct VariantRef {
    variants: Arc<Variants>,
    /// Their weight when the marker was created, since an entry's weight must not change while it is stored.
    weight: usize,
}

/// Further uses make no difference and are not counted, so that threads that serve one entry do not contend for the
/// counter.
const MOST_USES: u8 = 32;

/// The minimum interval between two renewals of an entry, in milliseconds.
const RENEWALS: u32 = 1000;

impl Entry {
    pub(crate) fn new(
        key: &Key,
        basis: LogPosition,
        tags: Box<[Tag]>,
        life: Lifetime,
        head: Bytes,
        body: Bytes,
    ) -> Self {
        Self::from_parts(Bytes::copy_from_slice(key.text()), basis, tags, life, head, body)
    }

    pub(crate) fn from_parts(
        key: Bytes,
        basis: LogPosition,
        tags: Box<[Tag]>,
        life: Lifetime,
        head: Bytes,
        body: Bytes,
    ) -> Self {
        let decoded = OnceLock::new();
        let (variants, uses, renewed) = (None, AtomicU8::new(0), AtomicU32::new(0));
        Self { key, basis, tags, life, head, body, variants, uses, renewed, decoded }
    }

    /// Turns the entry into a vary marker: its head says how requests select a variant.
    pub(crate) fn into_vary_marker(mut self, variants: Arc<Variants>) -> Self {
        let weight = variants.weight();
        self.variants = Some(VariantRef { variants, weight });
        self
    }

    /// Whether this is a vary marker.
    pub(crate) fn is_vary_marker(&self) -> bool {
        self.variants.is_some()
    }

    /// The variants of this vary marker that this node has stored.
    pub(crate) fn variants(&self) -> Option<&Arc<Variants>> {
        self.variants.as_ref().map(|listed| &listed.variants)
    }

    /// Counts that it was served as one of several variants.
    pub(crate) fn note_use(&self) {
        let uses = self.uses();
        if uses < MOST_USES {
            // A use that is lost to a race makes no difference.
            self.set_uses(uses + 1);
        }
    }

    /// Whether it may be renewed: the last renewal did not begin less than a second ago. If renewing fails, each request
    /// would otherwise cause another attempt.
    pub(crate) fn may_renew(&self) -> bool {
        let last = self.renewed.load(Ordering::Relaxed);
        last == 0 || self.millis() >= last.saturating_add(RENEWALS)
    }

    /// Records that a renewal begins.
    pub(crate) fn note_renewal(&self) {
        self.renewed.store(self.millis(), Ordering::Relaxed);
    }

    /// The milliseconds since it arrived, plus one.
    fn millis(&self) -> u32 {
        let millis = self.life.arrived.elapsed().as_millis();
        u32::try_from(millis).unwrap_or(u32::MAX).saturating_add(1)
    }

    pub(crate) fn uses(&self) -> u8 {
        self.uses.load(Ordering::Relaxed)
    }

    pub(crate) fn set_uses(&self, uses: u8) {
        self.uses.store(uses, Ordering::Relaxed);
    }

    /// Whether this is the entry of `key`. This compares the keys' texts, so it distinguishes two keys with the same hash.
    pub fn is_for(&self, key: &Key) -> bool {
        self.key == key.text()
    }

    /// What distinguishes the entry from others of its key.
    pub fn version(&self) -> EntryVersion {
        EntryVersion { basis: self.basis, computed_at: self.life.computed_at() }
    }

    /// The epoch to which the position [`as_of`](Self::as_of) belongs.
    pub fn epoch(&self) -> Epoch {
        self.basis.epoch
    }

    /// A lower bound on what the entry includes: every transaction whose commit ends at or before this position.
    pub fn as_of(&self) -> Position {
        self.basis.position
    }

    /// Whether the entry is more recent than another one of its key and epoch. Positions alone do not say so: of an idle
    /// database, and of entries that depend on nothing in it, they stay the same.
    pub(crate) fn is_newer_than(&self, other: &Self) -> bool {
        match self.as_of().cmp(&other.as_of()) {
            std::cmp::Ordering::Equal => self.age() < other.age(),
            order => order.is_gt(),
        }
    }

    /// The tags that the entry depends on.
    pub fn tags(&self) -> &[Tag] {
        &self.tags
    }

    /// The time since the entry was computed.
    pub fn age(&self) -> Duration {
        self.life.age_on_arrival.saturating_add(self.life.arrived.elapsed())
    }

    /// The age up to which the entry is fresh.
    pub fn ttl(&self) -> Duration {
        self.life.ttl
    }

    /// The metadata that was stored with the body, such as a response's status and fields.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// The response's body or the encoded value.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The approximate number of bytes that the entry takes in memory. This includes the decoded form of a response's
    /// head or of a value, which the node keeps from the first hit on. (The node that stores a value writes the
    /// value's size into the entry. A node that decodes the value keeps the decoded form only if it is no larger than
    /// the size in the entry.)
    pub fn weight(&self) -> usize {
        // The entry, its reference counts, its slot in a table, and what is remembered of one that was evicted. `HEAD` is a
        // decoded head without its fields.
        const FIXED: usize = size_of::<Entry>() + 240;
        const HEAD: usize = 640;
        // A field takes about 35 bytes when encoded, and 170 in a map.
        const FIELDS: usize = 5;
        let decoded = match ValueHead::decode(&self.head) {
            Some(value) => value.weight as usize,
            None if self.head.is_empty() => 0,
            None => HEAD + FIELDS * self.head.len(),
        };
        let parts = self.key.len() + size_of_val(&*self.tags) + self.head.len() + self.body.len();
        FIXED + parts + decoded + self.variants.as_ref().map_or(0, |listed| listed.weight)
    }

    /// Whether a decoded value of this many bytes is within the weight that the entry claims. The entry has the size that
    /// the value had on the node that stored it; another version of its type may take more.
    pub(crate) fn may_keep(&self, weight: usize) -> bool {
        ValueHead::decode(&self.head).is_some_and(|head| weight <= head.weight as usize)
    }

    /// The head or body in decoded form; `decode` runs once per node and entry.
    pub(crate) fn decoded<T, E>(
        &self,
        decode: impl FnOnce(&Self) -> Result<T, E>,
    ) -> Result<Arc<T>, E>
    where
        T: Any + Send + Sync,
    {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        let made = Arc::new(decode(self)?);
        // Another thread, or another type, may have set it first. Both cases work without the shortcut.
        drop(self.decoded.set(made.clone()));
        Ok(made)
    }

    /// The decoded form, if it exists and has this type.
    pub(crate) fn known<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        self.decoded.get().cloned()?.downcast().ok()
    }

    /// Whether [`decoded`](Self::decoded) would return without decoding.
    pub(crate) fn has_decoded<T: Any>(&self) -> bool {
        self.decoded.get().is_some_and(|any| (**any).is::<T>())
    }

    /// Sets the decoded form if the caller already has it.
    pub(crate) fn set_decoded(&self, made: Arc<dyn Any + Send + Sync>) {
        drop(self.decoded.set(made));
    }
}

/// The most variants of one key that a node stores, whatever clients send.
const MOST_VARIANTS: usize = 64;

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
        let gone = (listed.all.len() >= MOST_VARIANTS).then(|| listed.remove_one()).flatten();
        listed.all.push(StoredVariant { key: key.clone(), entry: Arc::downgrade(entry) });
        gone
    }

    /// Records that another entry for `key` is in memory now, such as one from the shared store.
    pub(crate) fn renew(&self, key: &Key, entry: &Arc<Entry>) {
        self.lock().renew(key, entry);
    }

    fn lock(&self) -> MutexGuard<'_, VariantList> {
        self.0.lock_unpoisoned()
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
    use super::*;

    fn key(name: usize) -> Key {
        Key::new("t").part(name.to_string()).finish()
    }

    fn entry(name: usize) -> Arc<Entry> {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        Arc::new(Entry::new(&key(name), basis, [].into(), life, Bytes::new(), Bytes::new()))
    }

    #[test]
    fn past_the_bound_the_oldest_variant_is_evicted() {
        let (variants, entries) =
            (Variants::default(), (0..MOST_VARIANTS).map(entry).collect::<Vec<_>>());
        assert!((0..MOST_VARIANTS).all(|name| variants.note(&key(name), &entries[name]).is_none()));
        assert!((0..MOST_VARIANTS).all(|name| variants.note(&key(name), &entries[name]).is_none()));
        assert_eq!(
            variants.note(&key(MOST_VARIANTS), &entry(MOST_VARIANTS)),
            Some(key(0)),
            "the oldest"
        );
        assert!(variants.weight() > MOST_VARIANTS * 8);
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
