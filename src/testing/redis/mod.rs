//! Redis: one server, a cluster, and a master with a replica under Sentinel. Nothing is saved to disk.

#[cfg(feature = "redis-cluster")]
mod cluster;
#[cfg(feature = "redis-sentinel")]
mod sentinel;
mod server;

#[cfg(feature = "redis-cluster")]
pub use cluster::RedisCluster;
#[cfg(feature = "redis-sentinel")]
pub use sentinel::RedisSentinel;
pub use server::RedisServer;
