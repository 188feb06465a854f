//! Redis: one server, a cluster, and a master with a replica under Sentinel. Nothing is saved to disk.

#[cfg(feature = "redis")]
mod cluster;
#[cfg(feature = "redis")]
mod sentinel;
mod server;

#[cfg(feature = "redis")]
pub use cluster::RedisCluster;
#[cfg(feature = "redis")]
pub use sentinel::RedisSentinel;
pub use server::RedisServer;
