//! The cache on Postgres: what changes, what is read, and what becomes of it when servers fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod audit;
mod cancelled;
mod changes;
mod cold;
mod connections;
mod copies;
mod databases;
mod declared;
mod executors;
mod failover;
mod functions;
mod handlers;
mod inputs;
mod listener;
mod many;
mod newer;
mod own_writes;
mod path;
mod plans;
mod pooled;
mod pooler;
mod protocol;
mod published;
mod queries;
mod records;
mod replicas;
mod resets;
mod responses;
mod restored;
mod rows;
mod schema;
mod scopes;
mod sessions;
mod subscriptions;
mod transactions;
mod unscoped_reads;
mod world;
