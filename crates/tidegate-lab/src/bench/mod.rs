//! `tidegate-lab bench`: measures the cache's costs and its behavior under load, on private servers on loopback.
//!
//! Load ends after a number of requests or a time. `docs/performance.md` has results.

mod compression;
mod connections;
mod memory;
mod misses;
mod nodes;
mod pgbench;
mod processor;
mod resident;
mod scaling;
mod spread;
mod staleness;
mod stampede;
mod writes;

use std::process::ExitCode;

use super::Failure;
use super::output::Output;
use super::progress::Progress;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Send many concurrent requests for one response that no node has stored, and count the handler's runs
    Stampede(stampede::Options),
    /// Measure the latency of a miss with Redis some time away
    Misses(misses::Options),
    /// Store and read bodies in Redis, compressed and not
    Compression(compression::Options),
    /// Measure the time from a commit until no node serves the previous data
    Staleness(staleness::Options),
    /// Measure the write throughput of tables with and without triggers
    Writes(writes::Options),
    /// Measure the time of a hit with growing numbers of keys, tags, bytes and threads
    Scaling(scaling::Options),
    /// Count the transactions that nodes cause on the primary, by their number
    Nodes(nodes::Options),
    /// Hold many connections open, and measure the memory of each
    Connections(connections::Options),
    /// Change keys, sessions and the schema for a time, and check that the process does not grow
    Memory(memory::Options),
}

pub(crate) async fn run(bench: Bench, output: Output) -> Result<ExitCode, Failure> {
    let _progress = Progress::running("measuring, on servers of its own")?;
    match bench {
        Bench::Stampede(options) => stampede::run(options, output).await,
        Bench::Misses(options) => misses::run(options, output).await,
        Bench::Compression(options) => compression::run(options, output).await,
        Bench::Staleness(options) => staleness::run(options, output).await,
        Bench::Writes(options) => writes::run(options, output).await,
        Bench::Scaling(options) => scaling::run(options, output).await,
        Bench::Nodes(options) => nodes::run(options, output).await,
        Bench::Connections(options) => connections::run(options, output).await,
        Bench::Memory(options) => memory::run(options, output).await,
    }
}
