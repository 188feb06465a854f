//! The stores of entries.
//!
//! A [`Store`] gets, puts and removes entries by key; it knows nothing of validity. `Memory` is in this process, `Redis` is
//! shared by all nodes, `Tiered` puts one store in front of another, and `Guard` makes any store fail fast. Each of these
//! implements `Store`, and all pass the same tests (`tests/redis/stores.rs`). Nothing that a store does or loses can make a
//! node serve stale data, since each entry carries its own proof.

mod breaker;
mod bus;
mod contract;
mod error;
mod found;
mod guard;
mod lease;
#[cfg(feature = "memory")]
mod memory;
#[cfg(feature = "redis")]
mod redis;
mod split;
mod status;
mod tiered;

pub use bus::Bus;
pub use contract::Store;
pub use error::StoreError;
pub use found::{Found, IsOutdated, Tier};
pub use guard::Guard;
pub use lease::{FoundOrLease, Lease, LeaseToken};
#[cfg(feature = "memory")]
pub use memory::Memory;
#[cfg(feature = "redis")]
pub use redis::{Redis, RedisError, RedisInfo, RedisOptions};
pub use status::{MemoryStatus, StoreStatus};
pub use tiered::Tiered;
