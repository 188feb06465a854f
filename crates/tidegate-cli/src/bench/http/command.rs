use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use super::found::Found;
use super::generator::{self, Load};
use super::pace::Bounds;
use super::target::Target;
use crate::Failure;
use crate::output::Output;
use crate::progress::Progress;

/// How long to ask where neither time nor count is given.
const DURATION: f64 = 10.0;

/// Whom to ask, for what, how fast and how long.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// What to ask for in turn, as http://host:port/path; all of one server
    #[arg(required = true)]
    urls: Vec<String>,
    /// A file with a path in each line, asked for in turn instead; the server is that of the URL
    #[arg(long)]
    paths: Option<PathBuf>,
    /// Connections, all open at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Ends after so many seconds; 10 if there is no other end
    #[arg(long)]
    duration: Option<f64>,
    /// Ends after so many requests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Requests a second, at a steady pace, whatever the service does; without it, as fast as it answers
    #[arg(long)]
    rate: Option<f64>,
    /// Threads that ask
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// A header of every request, as "Name: value"
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Gives up on a service that has not answered anything for so many seconds
    #[arg(long, default_value_t = 10.0)]
    patience: f64,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.threads > options.connections {
        return Err("each thread needs a connection: fewer --threads or more --connections".into());
    }
    let bounds = options.bounds()?;
    let paths = options.paths.as_ref().map(std::fs::read_to_string).transpose();
    let paths = paths.map_err(|error| format!("--paths can't be read: {error}"))?;
    let target = Target::new(&options.urls, paths.as_deref(), &options.headers)?;
    let load = Load { target: Arc::new(target), bounds, threads: u64::from(options.threads) };
    let streams = load.target.connect(options.connections).await?;
    let progress = Progress::running(format!("{} connections", options.connections))?;
    let tally = generator::run(&load, streams).await?;
    drop(progress);
    let found = Found::new(&load, options.connections, &tally)?;
    output.print(&found)?;
    Ok(if found.is_whole() { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

impl Options {
    fn bounds(&self) -> Result<Bounds, Failure> {
        let duration = match (self.duration, self.requests) {
            (None, None) => Some(DURATION),
            (duration, _) => duration,
        };
        if self.rate.is_some_and(|rate| !rate.is_finite() || rate <= 0.0) {
            return Err("--rate is a number of requests a second, above 0".into());
        }
        Ok(Bounds {
            duration: duration.map(|seconds| span("--duration", seconds)).transpose()?,
            requests: self.requests,
            rate: self.rate,
            patience: span("--patience", self.patience)?,
        })
    }
}

fn span(name: &str, seconds: f64) -> Result<Duration, Failure> {
    let span = Duration::try_from_secs_f64(seconds).ok().filter(|span| !span.is_zero());
    Ok(span.ok_or_else(|| format!("{name} is a number of seconds, above 0"))?)
}
