//! Servers for tests: private, on free ports of the loopback interface, gone when dropped.
//!
//! [`Postgres`] is a primary or a standby, [`PgBouncer`] a pool in front of one, [`RedisServer`], [`RedisCluster`] and
//! [`RedisSentinel`] what their names say, and [`FaultProxy`] a network between them that fails on demand.
//!
//! A server that is missing on the machine is an error that says what to install; nothing is
//! skipped. Where we are root, servers run as an unprivileged user, since Postgres refuses root.

#![forbid(unsafe_code)]

mod eventually;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;
#[cfg(feature = "redis")]
mod redis;

pub use eventually::eventually;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use process::{Process, Scratch, free_port};
pub use proxy::FaultProxy;
#[cfg(feature = "redis")]
pub use redis::{RedisCluster, RedisSentinel, RedisServer};
