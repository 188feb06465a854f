//! Entries for tests of stores.

use std::time::Duration;

use bytes::Bytes;

use crate::entry::{Entry, Epoch, Key, Lifetime, LogPosition, Position, Tag};

/// An entry for `key` in epoch 7 that is stored for `keep`, with a value in every field.
pub fn entry(key: &Key, body: impl Into<Bytes>, as_of: u64, keep: Duration) -> Entry {
    let life = Lifetime::starting_now(keep / 2, keep, Duration::from_micros(1500));
    let tags = [Tag::table("users"), Tag::column("users", "id", "42")].into();
    let basis = LogPosition::new(Epoch::new(7), Position::new(as_of));
    Entry::new(key, basis, tags, life, Bytes::from_static(b"head"), body.into())
}
