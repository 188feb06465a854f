//! Private servers for tests, on free ports of the loopback interface. Each is stopped when dropped.
//!
//! [`Postgres`] is a primary or a standby, and [`PgBouncer`] a connection pooler in front of one. [`RedisServer`],
//! [`RedisCluster`] and [`RedisSentinel`] run Redis. [`FaultProxy`] is a network connection that fails on demand. With the feature
//! `tls`, `Authority` signs certificates.
//!
//! If a server is not installed, the error says what to install; no test is skipped. If the process runs as root, servers
//! run as an unprivileged user, since Postgres refuses to run as root.

#![forbid(unsafe_code)]

#[cfg(feature = "tls")]
mod authority;
mod eventually;
mod pgbouncer;
mod postgres;
mod process;
mod proxy;
#[cfg(feature = "redis")]
mod redis;

#[cfg(feature = "tls")]
pub use authority::{Authority, Certificate};
pub use eventually::eventually;
pub use pgbouncer::PgBouncer;
pub use postgres::Postgres;
pub use process::{Process, Scratch, free_port};
pub use proxy::FaultProxy;
#[cfg(feature = "redis")]
pub use redis::{RedisCluster, RedisSentinel, RedisServer};
