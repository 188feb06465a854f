//! The cache on Redis, and several nodes that share one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod copies;
mod deploys;
mod faults;
mod large;
mod leases;
mod metrics;
mod nodes;
mod reads;
mod relay;
mod stores;

/// The name in Redis of the entry for `key`, with the prefix of a service that does not name itself.
fn place(key: &tidegate::Key) -> String {
    let executable = std::env::current_exe().unwrap();
    format!("tidegate:{}:4:{key}", executable.file_stem().unwrap().display())
}
