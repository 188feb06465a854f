//! Tidegate beside other caches: each in a server process of its own, on the same core, under the same load.
//!
//! `serve` is one such server; `run` starts them in turn, asks whether each answers as it should, and measures. `values`
//! measures hits on typed values, which need no server. `plot` draws what they and `tidegate bench` have found.

#![forbid(unsafe_code)]

mod plot;
mod run;
mod serve;
// The lab summarizes its rounds in the same way.
#[path = "../../tidegate-lab/src/bench/spread.rs"]
#[allow(dead_code, reason = "the lab uses more of it")]
mod spread;
mod values;
mod variant;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Measures tidegate beside other caches
#[derive(Debug, Parser)]
#[command(name = "tidegate-peers")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves one variant on a free port of 127.0.0.1, and prints where
    Serve(serve::Options),
    /// Starts variants in turn and measures them
    Run(run::Options),
    /// Measures hits on typed values
    Values(values::Options),
    /// Draws what was measured
    Plot(plot::Options),
}

/// One thread for all: a server under test has one core.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(options) => serve::run(options).await,
        Command::Run(options) => run::run(options).await,
        Command::Values(options) => values::run(options).await,
        Command::Plot(options) => plot::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidegate-peers: {error}");
            ExitCode::FAILURE
        }
    }
}
