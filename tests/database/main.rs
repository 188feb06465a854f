//! The whole path on real servers: answers are right, and keep coming, whatever the database does.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cold;
#[path = "../common/mod.rs"]
mod common;
mod failover;
mod inputs;
mod listener;
mod path;
mod plans;
mod pooled;
mod pooler;
mod protocol;
mod records;
mod replicas;
mod schema;
mod sessions;
mod world;
