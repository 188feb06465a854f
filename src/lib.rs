//! A cache-aside layer for services that read from Postgres.

#![forbid(unsafe_code)]

mod clock;
mod entry;
#[cfg(feature = "postgres")]
mod postgres;
mod store;
#[cfg(feature = "testing")]
pub mod testing;

pub use entry::{Entry, Epoch, Key, KeyText, Position, Tag};
#[cfg(feature = "memory")]
pub use store::Memory;
pub use store::{Found, Lease, LeaseToken, Store, StoreError, Tier};
