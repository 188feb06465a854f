//! Internal functions for this project's own benchmarks and tests; not part of the public interface.

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

/// The entry that is stored under a key, valid or not.
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

/// Clears the epoch, as a node does when it loses the primary.
pub fn end_epoch(cache: &Cache) {
    cache.fences().end_epoch();
}

/// Shifts the wall clock that the library reads in this process: forward, or back if `millis` is negative. This simulates
/// an administrator who sets the clock, or a virtual machine that was suspended.
pub fn put_clock_forward(millis: i64) {
    crate::clock::put_forward(millis);
}
