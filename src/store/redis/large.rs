//! Keys whose values take their time.
//!
//! Replies come in the order of the requests, so a large value holds up all that is asked for on its connection after it.
//! A node finds out which values are large when it puts them and when they come. A read that is given up makes its
//! key a suspect. From then on the server is asked for the length first, and what is large comes on a connection of its own, or, past the limit, not at all.

use std::sync::atomic::{AtomicU64, Ordering};

use super::link::SLOW;
use crate::clock::Instant;
use crate::entry::Key;

/// From how many bytes on a value is large.
pub(super) const LARGE: usize = 64 << 10;

/// What an entry may add to its body.
pub(super) const AROUND: usize = 64 << 10;

const SLOTS: usize = 4096;

/// The bit of a slot that says that the value is large, and not only suspected to be.
const KNOWN: u64 = 1;

/// Keys that lately had a large value. A small table without locks; a key that is taken for another is only asked for
/// in two steps.
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

    /// Notes how large the value is that a key has now; whether that is large.
    pub(super) fn note(&self, key: u64, bytes: usize) -> bool {
        let is_large = bytes >= LARGE;
        if is_large {
            self.slot(key).store(key | KNOWN, Ordering::Relaxed);
        } else if self.suspects(key) {
            self.slot(key).store(0, Ordering::Relaxed);
        }
        is_large
    }

    /// The value may be large.
    pub(super) fn suspect(&self, key: u64) {
        if !self.knows(key) {
            self.slot(key).store(key & !KNOWN, Ordering::Relaxed);
        }
    }

    fn slot(&self, key: u64) -> &AtomicU64 {
        &self.0[(key >> 1) as usize % self.0.len()]
    }
}

/// A read under way; given up, it makes its key a suspect.
pub(super) struct LargeRead<'a> {
    /// `None` once the reply is there.
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
    fn a_key_is_large_until_a_small_value_comes() {
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
