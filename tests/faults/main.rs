//! What goes wrong with the database, done to real servers: the answers stay right, and keep coming.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod cold;
#[path = "../common/mod.rs"]
mod common;
mod failover;
mod inputs;
mod listener;
mod protocol;
mod records;
mod replicas;
mod sessions;
mod world;
