//! `tidegate-lab`: checks Tidegate's guarantee while servers fail, and measures its costs.
//!
//! `check` compares every response with what was written, and `bench` measures on private servers.

#![forbid(unsafe_code)]

mod bench;
mod check;
// `tidegate` prints its results and progress in the same way.
#[path = "../../tidegate-cli/src/output.rs"]
#[allow(dead_code, reason = "the command uses more of it")]
mod output;
#[path = "../../tidegate-cli/src/progress.rs"]
mod progress;
mod source;

use std::process::ExitCode;

use clap::Parser;
use output::Output;

type Failure = Box<dyn std::error::Error>;

/// The exit code if a measurement is not valid or the guarantee was violated. 1 means that the command itself failed.
const UNSOUND: u8 = 2;

/// Check and measure Tidegate on private servers.
#[derive(Debug, Parser)]
#[command(name = "tidegate-lab", version)]
struct Arguments {
    /// Print JSON instead of text
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Measure the cache
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Check every response while private servers are killed, disconnected and promoted
    Check(check::Options),
    /// Run one node of the service under check
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
