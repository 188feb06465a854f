//! One stored response or value.

use std::any::Any;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;

use super::{Epoch, Key, LogPosition, Position, Tag, ValueHead, Variants};
use crate::clock::{self, Instant};

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

/// How long an entry lives, and how old it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lifetime {
    /// When this node computed or received the entry.
    pub(crate) arrived: Instant,
    /// How old the entry was then.
    pub(crate) age_on_arrival: Duration,
    /// The age up to which it is fresh.
    pub(crate) ttl: Duration,
    /// The age up to which it is stored, for use when it is stale. At least the TTL.
    pub(crate) keep: Duration,
    /// How long it took to compute, for early refresh.
    pub(crate) cost: Duration,
    /// How long past its TTL it may be served while it is recomputed.
    pub(crate) while_revalidating: Duration,
    /// How long past its TTL it may be served if recomputing it fails.
    pub(crate) if_error: Duration,
    /// It is never served past its TTL, whatever the client allows.
    pub(crate) is_strict: bool,
    /// Only a TTL bounds a part of it, so a response that contains it must not last longer.
    pub(crate) is_timed: bool,
}

impl Lifetime {
    pub(crate) fn starting_now(ttl: Duration, keep: Duration, cost: Duration) -> Self {
        Self {
            arrived: clock::now(),
            age_on_arrival: Duration::ZERO,
            ttl,
            keep: keep.max(ttl),
            cost,
            while_revalidating: Duration::ZERO,
            if_error: Duration::ZERO,
            is_strict: false,
            is_timed: false,
        }
    }
}

impl Entry {
    pub(crate) fn new(
        key: &Key,
        basis: LogPosition,
        tags: Box<[Tag]>,
        life: Lifetime,
        (head, body): (Bytes, Bytes),
    ) -> Self {
        Self::from_parts(Bytes::copy_from_slice(key.text()), basis, tags, life, (head, body))
    }

    pub(crate) fn from_parts(
        key: Bytes,
        basis: LogPosition,
        tags: Box<[Tag]>,
        life: Lifetime,
        (head, body): (Bytes, Bytes),
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
    pub fn answers(&self, key: &Key) -> bool {
        self.key == key.text()
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

    /// The approximate number of bytes that the entry takes in memory. This includes the decoded form that is kept once the
    /// entry has been served: the head of a response, or the value itself, unless that takes more than its entry claims.
    pub fn weight(&self) -> usize {
        // The entry, its reference counts and its slot in a table. `HEAD` is a decoded head without its fields.
        const FIXED: usize = size_of::<Entry>() + 192;
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
