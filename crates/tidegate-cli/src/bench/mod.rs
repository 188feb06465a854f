//! `tidegate bench`: what a cache gains, measured on a running service or on recorded accesses.
//!
//! Load goes where it is told to, and is bounded in count or time. Every measurement prints what it ran and with
//! which seed.

mod hitrate;
mod http;

use std::process::ExitCode;

use super::Failure;
use super::output::Output;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Asks a running service as fast as it answers, or at a steady rate, and says how fast that was
    Http(http::Options),
    /// Replays accesses through the cache, and says how many it answers, and how many of them stale
    Hitrate(hitrate::Options),
}

pub(crate) async fn run(bench: Bench, output: Output) -> Result<ExitCode, Failure> {
    match bench {
        Bench::Http(options) => http::run(options, output).await,
        Bench::Hitrate(options) => hitrate::run(options, output).await,
    }
}
