//! The cache on Redis, and several nodes that share one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod deploys;
mod faults;
mod large;
mod metrics;
mod nodes;
mod reads;
mod relay;
mod stores;
