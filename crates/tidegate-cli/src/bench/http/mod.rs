//! `tidegate bench http`: load for a running service.
//!
//! The generator often shares a machine with the service that it measures, so it does little work for each response:
//! requests are prepared once, buffers are reused, and each thread has its own runtime and counters. It parses the
//! status, the length of the body, and `Cache-Status`.
//!
//! With a rate, requests are due at times that do not depend on the service, and latency is measured from those times.
//! So a stall counts against every request that it delays (G. Tene's "coordinated omission"). Without a rate, each
//! connection sends its next request when it has received a response: this measures throughput and understates latency.

mod body;
mod cache_status;
mod command;
mod connection;
mod found;
mod generator;
mod pace;
mod response;
mod tally;
mod target;

pub(super) use command::{Options, run};
