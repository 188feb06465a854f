//! The layer by itself: HTTP, bodies, and other services than axum's. No servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod bodies;
mod canonical;
mod circles;
mod compression;
mod confirmed;
mod details;
mod dictionaries;
mod fills;
mod groups;
mod http;
mod hyper;
mod layering;
mod memory;
mod no_vary_search;
mod post;
mod probes;
mod query;
mod scopes;
mod settings;
mod stack;
mod standard;
mod streams;
mod superseded;
mod tower;
mod uncacheable;
mod validation;
mod walk;
