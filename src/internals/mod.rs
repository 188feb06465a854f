//! What this project's own benchmarks and tests reach and nobody else can: no part of the public interface.

mod benching;
mod entries;
#[cfg(fuzzing)]
pub mod fuzzing;

use std::sync::Arc;

pub use benching::{decode, decode_value, encode, key};
pub use entries::entry;

use crate::cache::Cache;
pub use crate::cache::protocol;
use crate::entry::{Entry, Key, Position, Tag};

/// What is stored under a key, proven or not.
pub async fn stored(cache: &Cache, key: &Key) -> Option<Arc<Entry>> {
    cache.stored(key).await.map(|found| found.entry)
}

/// Raises the fence of a tag.
pub fn raise(cache: &Cache, tag: Tag, fence: Position) {
    cache.fences().raise(tag, fence);
}

/// Judges an entry by the fences as they are now.
pub fn judge(cache: &Cache, entry: &Entry) -> protocol::Verdict {
    cache.fences().judge(entry)
}

/// Forgets the epoch, as a node does that has lost the primary.
pub fn lose(cache: &Cache) {
    cache.fences().lose();
}

/// Puts the wall clock of this process, as the library reads it, so many milliseconds before what it is
/// in truth, or behind if negative: what an administrator does, or a virtual machine that was asleep.
pub fn put_clock_forward(millis: i64) {
    crate::clock::put_forward(millis);
}
