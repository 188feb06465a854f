//! Entries of a store, by name.

use std::sync::Arc;
use std::time::Duration;

use tidegate::internals::entry;
use tidegate::{Entry, Key, Store, StoreError};

/// How long an entry lives: longer than any test takes.
pub(crate) const LONG: Duration = Duration::from_mins(10);

pub(crate) fn key(name: &str) -> Key {
    Key::new("entries").part(name).finish()
}

/// An entry with this body.
pub(crate) fn entry_of(name: &str, body: impl Into<String>) -> Arc<Entry> {
    Arc::new(entry(&key(name), body.into(), 100, LONG))
}

/// Stores an entry, and waits for the store's reply.
pub(crate) async fn put(
    store: &dyn Store,
    name: &str,
    entry: &Arc<Entry>,
) -> Result<(), StoreError> {
    match store.put(&key(name), entry) {
        Some(rest) => rest.await,
        None => Ok(()),
    }
}

/// The body of an entry that the store has.
pub(crate) async fn body(store: &dyn Store, name: &str) -> Result<Option<String>, StoreError> {
    let found = store.get(&key(name)).await?;
    Ok(found.map(|found| String::from_utf8(found.entry.body().to_vec()).unwrap()))
}
