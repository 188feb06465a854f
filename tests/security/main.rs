//! Attacks, and what each of them gets: the index of docs/security.md. What only a part of the code can show is tested
//! beside it, by tests whose names begin with `security_`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod http;
mod identity;
mod redis;
mod rewritten;
mod strict;
