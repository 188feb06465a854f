//! `tidegate bench http`: load for a running service.
//!
//! It shares a machine with what it measures, so it does little for each answer: requests are prepared once, answers
//! are read into buffers that are kept, and each thread has a runtime and counts of its own. Of an answer it reads the
//! status, where the body ends, and `Cache-Status`.
//!
//! With a rate, requests are due at times that do not depend on the service, and latency counts from then: a service
//! that stalls is charged for all that it kept waiting (G. Tene's "coordinated omission"). Without one, each connection
//! asks when it has been answered, which finds the throughput and understates latency.

mod answer;
mod body;
mod cache_status;
mod command;
mod connection;
mod found;
mod generator;
mod pace;
mod tally;
mod target;

pub(super) use command::{Options, run};
