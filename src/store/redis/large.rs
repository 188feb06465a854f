//! Keys with large values.
//!
//! Replies arrive in the order of the requests, so a large value delays all later replies on its connection. A node learns
//! which values are large when it puts or reads them, and then reads them through a separate connection. If a read was
//! abandoned, or a value was larger than the limit, the node first requests the value's length, and does not read it if it
//! exceeds the limit. (An abandoned read that follows such a request says nothing more about the length.)

use std::sync::atomic::{AtomicU64, Ordering};

use super::link::SLOW;
use crate::clock::{Instant, now};
use crate::entry::Key;
use crate::store::StoreError;

/// The size in bytes from which a value is large.
pub(super) const LARGE: usize = 64 << 10;

/// The allowance for the parts of an entry around its body, in bytes.
const AROUND: usize = 64 << 10;

const SLOTS: usize = 4096;

/// The bits of a slot that hold the size; the others are the key's.
const SIZE: u64 = 0b11;

/// What is known of the size of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ValueSize {
    /// It is expected to be small.
    Small,
    /// It may be large: a read was abandoned.
    Unknown,
    /// It was large when it was last seen.
    Large,
    /// It was large, and exceeded the limit, or a read of it was abandoned.
    Excessive,
}

/// The sizes of values that are not expected to be small: a lock-free table. If two keys collide, the one seen last has the
/// slot.
pub(super) struct LargeKeys {
    slots: Box<[AtomicU64]>,
    longest: usize,
}

impl LargeKeys {
    /// For values whose bodies have at most `body_limit` bytes.
    pub(super) fn new(body_limit: usize) -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { slots, longest: body_limit.saturating_add(AROUND) }
    }

    /// The size of the largest value that is read, in bytes.
    pub(super) fn longest(&self) -> usize {
        self.longest
    }

    /// What is known of the size of a key's value.
    pub(super) fn size(&self, key: u64) -> ValueSize {
        let slot = self.slot(key).load(Ordering::Relaxed);
        match slot & SIZE {
            _ if slot & !SIZE != key & !SIZE => ValueSize::Small,
            0b01 => ValueSize::Unknown,
            0b10 => ValueSize::Large,
            0b11 => ValueSize::Excessive,
            _ => ValueSize::Small,
        }
    }

    /// Records the current size of a key's value, in bytes, and classifies it.
    pub(super) fn note(&self, key: u64, bytes: usize) -> ValueSize {
        let size = match bytes {
            _ if bytes > self.longest => ValueSize::Excessive,
            LARGE.. => ValueSize::Large,
            _ => ValueSize::Small,
        };
        if size != ValueSize::Small || self.size(key) != ValueSize::Small {
            self.set(key, size);
        }
        size
    }

    /// Records that a read was abandoned.
    fn suspect(&self, key: u64) {
        match self.size(key) {
            ValueSize::Small => self.set(key, ValueSize::Unknown),
            ValueSize::Large => self.set(key, ValueSize::Excessive),
            ValueSize::Unknown | ValueSize::Excessive => {}
        }
    }

    fn set(&self, key: u64, size: ValueSize) {
        let slot = match size {
            ValueSize::Small => 0,
            ValueSize::Unknown => key & !SIZE | 0b01,
            ValueSize::Large => key & !SIZE | 0b10,
            ValueSize::Excessive => key & !SIZE | 0b11,
        };
        self.slot(key).store(slot, Ordering::Relaxed);
    }

    fn slot(&self, key: u64) -> &AtomicU64 {
        &self.slots[(key >> 2) as usize % self.slots.len()]
    }
}

/// A read in progress. If it is dropped before its reply arrives, the values may be larger than expected.
pub(super) struct LargeRead<'a> {
    large: &'a LargeKeys,
    keys: &'a [&'a Key],
    since: Instant,
    has_ended: bool,
}

impl<'a> LargeRead<'a> {
    pub(super) fn new(large: &'a LargeKeys, keys: &'a [&'a Key]) -> Self {
        Self { large, keys, since: now(), has_ended: false }
    }

    /// Ends the read. It counts as abandoned if a reply did not arrive in time.
    pub(super) fn end<T>(mut self, replies: &[Result<T, StoreError>]) {
        let is_late = |reply: &Result<T, StoreError>| matches!(reply, Err(StoreError::Timeout(_)));
        self.has_ended = !replies.iter().any(is_late);
    }
}

impl Drop for LargeRead<'_> {
    fn drop(&mut self) {
        if !self.has_ended && self.since.elapsed() >= SLOW {
            self.keys.iter().for_each(|key| self.large.suspect(key.short()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_as_large_until_a_small_value_is_seen() {
        let keys = LargeKeys::new(1 << 20);
        let sizes = |key: u64| keys.size(key);
        assert_eq!((keys.note(7, LARGE - 1), sizes(7)), (ValueSize::Small, ValueSize::Small));
        assert_eq!((keys.note(7, LARGE), sizes(7)), (ValueSize::Large, ValueSize::Large));
        assert_eq!((keys.note(20, 1), sizes(20)), (ValueSize::Small, ValueSize::Small));
        keys.suspect(7);
        keys.suspect(20);
        assert_eq!((sizes(7), sizes(20)), (ValueSize::Excessive, ValueSize::Unknown));
        assert_eq!((keys.note(7, LARGE), sizes(7)), (ValueSize::Large, ValueSize::Large));
        keys.note(20, keys.longest() + 1);
        assert_eq!((sizes(7), sizes(20)), (ValueSize::Large, ValueSize::Excessive));
        assert_eq!((keys.note(7, 1), keys.note(20, 1)), (ValueSize::Small, ValueSize::Small));
        assert_eq!((sizes(7), sizes(20)), (ValueSize::Small, ValueSize::Small));
    }
}
