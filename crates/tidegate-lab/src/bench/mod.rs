//! `tidegate-lab bench`: what the cache costs and how it holds up, measured on servers of its own on loopback.
//!
//! Load is bounded in count or time. Every measurement prints what it ran and with which seed;
//! `docs/performance.md` shows results.

mod connections;
mod memory;
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
use super::progress::Progress;

/// What to measure.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
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
    /// Changes keys, sessions and the schema for a time, and says whether the process grows
    Memory(memory::Options),
}

pub(crate) async fn run(bench: Bench, output: Output) -> Result<ExitCode, Failure> {
    let _progress = Progress::running("measuring, on servers of its own")?;
    match bench {
        Bench::Stampede(options) => stampede::run(options, output).await,
        Bench::Staleness(options) => staleness::run(options, output).await,
        Bench::Writes(options) => writes::run(options, output).await,
        Bench::Scaling(options) => scaling::run(options, output).await,
        Bench::Connections(options) => connections::run(options, output).await,
        Bench::Memory(options) => memory::run(options, output).await,
    }
}
