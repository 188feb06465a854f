//! A cache-aside layer for services that read from Postgres.

#![forbid(unsafe_code)]

mod clock;
mod entry;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod redact;
mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use entry::{Entry, Epoch, Key, KeyText, Position, Tag};
#[cfg(feature = "memory")]
pub use store::Memory;
pub use store::{Found, Guard, Lease, LeaseToken, Store, StoreError, Tier, Tiered};
#[cfg(feature = "redis")]
pub use store::{Redis, RedisError, RedisOptions};
