//! Servers for tests: private, on free ports of the loopback interface, gone when dropped.
//!
//! A server that is missing on the machine is an error that says what to install; nothing is
//! skipped. Where we are root, servers run as an unprivileged user, since Postgres refuses root.

mod entry;
mod eventually;
#[cfg(feature = "postgres")]
mod pgbouncer;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
mod proxy;
#[cfg(feature = "redis")]
mod redis;

pub use entry::{encoded, entry};
pub use eventually::eventually;
#[cfg(feature = "postgres")]
pub use pgbouncer::PgBouncer;
#[cfg(feature = "postgres")]
pub use postgres::Postgres;
pub use process::{Process, Scratch, free_port};
pub use proxy::FaultProxy;
#[cfg(feature = "redis-cluster")]
pub use redis::RedisCluster;
#[cfg(feature = "redis-sentinel")]
pub use redis::RedisSentinel;
#[cfg(feature = "redis")]
pub use redis::RedisServer;

/// Puts the wall clock of this process, as the library reads it, so many milliseconds before what it is
/// in truth, or behind if negative: what an administrator does, or a virtual machine that was asleep.
pub fn put_clock_forward(millis: i64) {
    crate::clock::put_forward(millis);
}
