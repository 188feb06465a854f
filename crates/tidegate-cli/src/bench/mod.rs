//! `tidegate bench`: what a cache gains, measured on a running service or on recorded accesses.
//!
//! Load goes only to the given server, and ends after a number of requests or a time. The output names what ran and, if
//! it was random, the seed.

mod hitrate;
mod http;

use std::process::ExitCode;

use super::Failure;
use super::output::Output;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Send load to a running service, as fast as it responds or at a steady rate, and report throughput and latency
    Http(http::Options),
    /// Replay accesses through the cache, and report the shares of hits and of stale values
    Hitrate(hitrate::Options),
}

pub(crate) async fn run(bench: Bench, output: Output) -> Result<ExitCode, Failure> {
    match bench {
        Bench::Http(options) => http::run(options, output).await,
        Bench::Hitrate(options) => hitrate::run(&options, output),
    }
}
