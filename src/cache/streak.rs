//! Routes whose responses can't be stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// After this many keys in a row whose responses could not be stored, requests for a new key do not wait for one another.
const LONG: u32 = 32;

/// The number of keys of a policy in a row whose responses could not be stored. Clones of the policy share it.
///
/// Requests that wait for another one's response can use it only if it turns out to be storable. Otherwise, they take twice
/// as long as without a cache. [`HitForPass`](super::hit_for_pass::HitForPass) prevents that for later requests with the same key;
/// this prevents it for the first requests with other keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct UncacheableStreak(Arc<AtomicU32>);

impl UncacheableStreak {
    /// Records a response that could not be stored, for a key that was not known for that yet.
    pub(crate) fn extend(&self) {
        // A long streak need not be counted further.
        if !self.is_long() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records a response that could be stored.
    pub(crate) fn end(&self) {
        if self.0.load(Ordering::Relaxed) != 0 {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the next response is unlikely to be storable.
    pub(crate) fn is_long(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= LONG
    }
}
