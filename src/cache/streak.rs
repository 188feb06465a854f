//! Routes whose responses can't be stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// After so many keys whose responses could not be stored, and none that could, requests at another key do not wait for
/// one another.
const LONG: u32 = 32;

/// How many keys of a policy, one after the other, had responses that could not be stored. Clones of the policy share it.
///
/// Requests for one response share it only if it turns out to be storable. If it does not, those that waited took twice
/// as long as without a cache. Hit-for-pass ([`Alone`](super::cache::HitForPass)) spares the next requests at the same key;
/// this spares the first ones at other keys.
#[derive(Clone, Debug, Default)]
pub(crate) struct UncacheableStreak(Arc<AtomicU32>);

impl UncacheableStreak {
    /// A response at a key that was not known for it could not be stored.
    pub(crate) fn extend(&self) {
        // Past its end it need not count.
        if !self.is_long() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A response could be stored.
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
