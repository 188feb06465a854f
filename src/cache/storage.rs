//! Puts entries into the store, finds them whether they are valid or not, and removes them.

use std::sync::Arc;

use futures_util::FutureExt;

use super::background::{spawn, to_the_end};
use super::cache::Cache;
use super::lease::LeaseGuard;
use crate::entry::{Entry, Key};
use crate::store::Found;

impl Cache {
    /// The entry that is stored under a key, valid or not.
    pub(crate) async fn stored(&self, key: &Key) -> Option<Found> {
        let store = &self.shared.store;
        match store.peek(key) {
            Some(found) => Some(found),
            None => store.get(key).await.ok().flatten(),
        }
    }

    /// Stores an entry: in memory at once, in the shared store in the background. Releases `lease` once other nodes can
    /// find the entry.
    pub(crate) fn put(&self, key: &Key, entry: &Arc<Entry>, lease: Option<Box<LeaseGuard>>) {
        let rest = match lease {
            Some(lease) => lease.put(entry),
            None => self.shared.store.put(key, entry),
        };
        if let Some(rest) = rest {
            let cache = self.clone();
            spawn(async move { cache.noted(rest.await) });
        }
    }

    /// Removes an unusable entry. The removal completes even if the caller is cancelled.
    pub(crate) async fn remove(&self, key: &Key) {
        let (cache, key) = (self.clone(), key.clone());
        to_the_end(async move { cache.noted(cache.shared.store.remove(&key).await) }).await;
    }

    /// Removes an entry: from memory at once, from the shared store in the background.
    pub(super) fn remove_soon(&self, key: &Key) {
        let _ = self.remove(key).now_or_never();
    }
}
