//! Servers for tests: private, on free ports of the loopback interface, gone when dropped.
//!
//! A server that is missing on the machine is an error that says what to install; nothing is
//! skipped. Where we are root, servers run as an unprivileged user, since Postgres refuses root.

mod postgres;
mod process;

pub use postgres::Postgres;
pub use process::{Process, Scratch, free_port};
