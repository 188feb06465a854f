//! The tier that nodes share: Redis, or what speaks as it does.
//!
//! [`RedisOptions`] and [`Redis::connect`] take one form of address for a single server, a cluster
//! and Sentinel (`topology`). A few connections are taken from a deadpool pool and held (`link`),
//! and each command runs on a clone of one of them: taking a connection from the pool per command
//! would send UNWATCH and PING before each lookup. `store` is what is said on them: SET with an
//! expiry, DEL, and GET, which is MGET where several reads come together (`reads`); `lease` is one node's claim
//! to make an entry; `bus` carries messages between nodes; `seal` is what protects entries and messages. In a cluster each
//! command names one key, so there is no need of hash tags.

mod bus;
mod error;
mod info;
mod large;
mod lease;
mod link;
mod mget;
mod names;
mod options;
mod seal;
mod store;
mod topology;

pub use error::RedisError;
pub use info::RedisInfo;
pub use options::RedisOptions;
pub use store::Redis;
