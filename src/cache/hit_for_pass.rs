//! Hit-for-pass: keys whose last response could not be stored.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::entry::Key;

/// Keys whose last response could not be stored, so that requests for them do not wait for one another.
/// A small lock-free table; if two keys collide, one of them only loses its single flight.
pub(crate) struct HitForPass(Box<[AtomicU64]>);

/// Which requests can share the responses for a key, by the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SharedBy {
    /// All requests: it was stored.
    All,
    /// Those that do not identify their clients: it was for a client that was identified. Nothing is known about others.
    Anonymous,
    None,
}

impl HitForPass {
    pub(super) fn new() -> Self {
        Self((0..1024).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether a request for this key is unlikely to share its response with others.
    pub(crate) fn has(&self, key: &Key, is_identified: bool) -> bool {
        match self.get(key) {
            SharedBy::All => false,
            SharedBy::Anonymous => is_identified,
            SharedBy::None => true,
        }
    }

    fn get(&self, key: &Key) -> SharedBy {
        match self.slot(key).load(Ordering::Relaxed) {
            slot if slot == key.short() => SharedBy::None,
            slot if slot == !key.short() => SharedBy::Anonymous,
            _ => SharedBy::All,
        }
    }

    /// Records who can share the responses for a key. Returns whether this has changed.
    pub(crate) fn set(&self, key: &Key, shared: SharedBy) -> bool {
        let before = self.get(key);
        let slot = match shared {
            SharedBy::All if before == SharedBy::All => return false,
            SharedBy::All => 0,
            SharedBy::Anonymous => !key.short(),
            SharedBy::None => key.short(),
        };
        self.slot(key).store(slot, Ordering::Relaxed);
        before != shared
    }

    #[expect(clippy::cast_possible_truncation, reason = "only the low bits choose the slot")]
    fn slot(&self, key: &Key) -> &AtomicU64 {
        &self.0[key.short() as usize % self.0.len()]
    }
}
