//! `tidegate-lab`: shows that Tidegate keeps its promise while servers break, and what it costs.
//!
//! `check` compares every response with what was written, `bench` measures on servers of its own; `tests/model` explores the
//! protocol state by state.

#![forbid(unsafe_code)]

mod bench;
mod check;
// The command prints its findings and its progress in the same way.
#[path = "../../tidegate-cli/src/output.rs"]
#[allow(dead_code, reason = "the command uses more of it")]
mod output;
#[path = "../../tidegate-cli/src/progress.rs"]
mod progress;

use std::process::ExitCode;

use clap::Parser;
use output::Output;

type Failure = Box<dyn std::error::Error>;

/// A measurement that is worth nothing, or a promise that was broken; 1 is for what could not be done.
const UNSOUND: u8 = 2;

/// Checks and measures Tidegate on servers of its own.
#[derive(Debug, Parser)]
#[command(name = "tidegate-lab", version)]
struct Arguments {
    /// Prints JSON, for programs
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measures the cache
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Checks every answer while servers of its own are killed, cut, and promoted
    Check(check::Options),
    /// One node of the service that is checked
    #[command(hide = true)]
    CheckNode,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::new(arguments.json);
    let ended = match arguments.command {
        Command::Bench(bench) => bench::run(bench, output).await,
        Command::Check(options) => check::run(options).await,
        Command::CheckNode => check::node::serve().await.map(|()| ExitCode::SUCCESS),
    };
    ended.unwrap_or_else(|error| {
        eprintln!("tidegate-lab: {error}");
        ExitCode::FAILURE
    })
}
