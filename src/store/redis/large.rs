//! Keys with large values.
//!
//! Replies arrive in the order of the requests, so a large value delays all later replies on its connection. A node learns
//! which values are large when it puts or reads them, and an abandoned read makes its key a suspect. From then on, the node
//! first requests the length of the value, and then reads a large value through a separate connection, or not at all if it
//! exceeds the limit.

use std::sync::atomic::{AtomicU64, Ordering};

use super::link::SLOW;
use crate::clock::Instant;
use crate::entry::Key;

/// The size in bytes from which a value is large.
pub(super) const LARGE: usize = 64 << 10;

/// The allowance for the parts of an entry around its body, in bytes.
pub(super) const AROUND: usize = 64 << 10;

const SLOTS: usize = 4096;

/// The bit of a slot that marks the value as known to be large, not only suspected.
const KNOWN: u64 = 1;

/// Keys that recently had a large value: a small lock-free table. If two keys collide, one is only read in two steps.
pub(super) struct LargeKeys(Box<[AtomicU64]>);

impl LargeKeys {
    pub(super) fn new() -> Self {
        Self((0..SLOTS).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether the value may be large.
    pub(super) fn suspects(&self, key: u64) -> bool {
        self.slot(key).load(Ordering::Relaxed) | KNOWN == key | KNOWN
    }

    /// Whether the value was large when it was last seen.
    pub(super) fn knows(&self, key: u64) -> bool {
        self.slot(key).load(Ordering::Relaxed) == key | KNOWN
    }

    /// Records the current size of a key's value, and returns whether it is large.
    pub(super) fn note(&self, key: u64, bytes: usize) -> bool {
        let is_large = bytes >= LARGE;
        if is_large {
            self.slot(key).store(key | KNOWN, Ordering::Relaxed);
        } else if self.suspects(key) {
            self.slot(key).store(0, Ordering::Relaxed);
        }
        is_large
    }

    /// Records that the value may be large.
    pub(super) fn suspect(&self, key: u64) {
        if !self.knows(key) {
            self.slot(key).store(key & !KNOWN, Ordering::Relaxed);
        }
    }

    fn slot(&self, key: u64) -> &AtomicU64 {
        &self.0[(key >> 1) as usize % self.0.len()]
    }
}

/// A read in progress. If it is dropped before its reply arrives, its key becomes a suspect.
pub(super) struct LargeRead<'a> {
    /// `None` once the reply has arrived.
    pub(super) large: Option<&'a LargeKeys>,
    pub(super) key: &'a Key,
    pub(super) since: Instant,
}

impl Drop for LargeRead<'_> {
    fn drop(&mut self) {
        if let Some(large) = self.large.filter(|_| self.since.elapsed() >= SLOW) {
            large.suspect(self.key.short());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_counts_as_large_until_a_small_value_is_seen() {
        let keys = LargeKeys::new();
        assert!(!keys.note(7, LARGE - 1) && !keys.suspects(7));
        assert!(keys.note(7, LARGE) && keys.knows(7) && keys.suspects(7));
        assert!(!keys.note(20, 1) && !keys.suspects(20));
        keys.suspect(7);
        keys.suspect(20);
        assert!(keys.knows(7) && keys.suspects(20) && !keys.knows(20));
        assert!(!keys.note(7, 1) && !keys.note(20, 1) && !keys.suspects(7) && !keys.suspects(20));
    }
}
