//! The tier that nodes share: Redis, or a server that speaks its protocol.
//!
//! [`RedisOptions`] and [`Redis::connect`] accept one form of address for a single server, a cluster and Sentinel
//! (`topology`). A few connections are taken from a deadpool pool and held (`link`, `links`), and each command runs on a
//! clone of one of them: taking a connection from the pool for each command would send UNWATCH and PING before each lookup.
//! `store` has the commands: SET with an expiry, DEL, and GET, or MGET for concurrent reads (`mget`). `lease` has the leases
//! on computing an entry, `bus` carries messages between nodes, and `seal` protects entries and messages. In a cluster,
//! each command names one key, so no hash tags are needed.

mod bus;
mod connect;
mod error;
mod info;
mod large;
mod lease;
mod link;
mod links;
mod mget;
mod names;
mod options;
mod reply;
mod script;
mod seal;
mod store;
mod topology;

pub use error::RedisError;
pub use info::RedisInfo;
pub use options::RedisOptions;
pub use store::Redis;
