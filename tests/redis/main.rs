//! The cache on Redis, and several nodes that share one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod compressed;
mod copies;
mod deploys;
mod faults;
mod large;
mod leases;
mod metrics;
mod misses;
mod nodes;
mod published;
mod reads;
mod relay;
mod stores;
mod world;

/// The names of all entries in Redis, if it responds. A name ends in `:5:` and the key; leases, leaderships and channels have
/// one more part.
async fn entries(redis: &tidegate_testing::RedisServer) -> Vec<String> {
    let mut keys = redis::cmd("KEYS");
    let keys = redis.run::<Vec<String>>(keys.arg("*:5:*")).await.unwrap_or_default();
    let is_entry = |name: &String| name.rsplit(':').nth(1) == Some("5");
    keys.into_iter().filter(is_entry).collect()
}

/// The name in Redis of the entry for `key`, with the prefix of a service that does not name itself.
fn place(key: &tidegate::Key) -> String {
    let executable = std::env::current_exe().unwrap();
    format!("tidegate:{}:5:{{{key}}}", executable.file_stem().unwrap().display())
}
