//! `tidegate bench`: what a cache gains and what it costs, measured.
//!
//! Load goes where it is told to, or to servers of its own on loopback, and is bounded in count or time.
//! Every measurement says what it ran and with which seed; `docs/performance.md` shows results.

mod connections;
mod hitrate;
mod http;
mod peers;
mod pgbench;
mod resident;
mod scaling;
mod spread;
mod staleness;
mod stampede;
mod writes;

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
    /// Asks for one answer that nobody has, many times at once, and says how often it was made
    Stampede(stampede::Options),
    /// Follows commits, and says how long nodes answer with what was before them
    Staleness(staleness::Options),
    /// Writes to tables with triggers and without, and says what they cost
    Writes(writes::Options),
    /// Hits with more and more keys, tags and bytes, and says what each takes
    Scaling(scaling::Options),
    /// Holds many connections open, and says what each takes
    Connections(connections::Options),
    /// Answers the same requests as other caches do, each in a server of its own, and says how fast
    Peers(peers::Options),
}

pub(crate) async fn run(bench: Bench, output: Output) -> Result<ExitCode, Failure> {
    match bench {
        Bench::Http(options) => http::run(options, output).await,
        Bench::Hitrate(options) => hitrate::run(options, output).await,
        Bench::Stampede(options) => stampede::run(options, output).await,
        Bench::Staleness(options) => staleness::run(options, output).await,
        Bench::Writes(options) => writes::run(options, output).await,
        Bench::Scaling(options) => scaling::run(options, output).await,
        Bench::Connections(options) => connections::run(options, output).await,
        Bench::Peers(options) => peers::run(options).await,
    }
}
