//! The measurement: each variant in turn, in an order of its own in each round, on a core of its own.
//!
//! Whatever a variant claims is asked before and looked at after: a wrong body, or a handler that ran when it should not
//! have, ends the measurement.

mod backends;
mod command;
mod cpu;
mod http;
mod load;
mod pin;
mod proxies;
mod results;
mod server;

pub(crate) use command::{Options, run};
