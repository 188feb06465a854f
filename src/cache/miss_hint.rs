//! Whether the next lookup of a policy will probably find nothing in the shared store.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether the last lookup of a policy found nothing usable in the shared store. Clones of the policy share it.
///
/// A lookup that expects a miss takes the lease together with the read, in one round trip. One that expects a hit only reads,
/// since the server answers many reads with one command, and a script costs it more than a read.
#[derive(Clone, Debug, Default)]
pub(crate) struct MissHint(Arc<AtomicBool>);

impl MissHint {
    /// Records whether a lookup found nothing usable.
    pub(crate) fn note(&self, has_missed: bool) {
        // Loaded first: lookups on all threads come here.
        if self.expects_miss() != has_missed {
            self.0.store(has_missed, Ordering::Relaxed);
        }
    }

    pub(crate) fn expects_miss(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
