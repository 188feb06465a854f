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

/// How long the load lasts if neither a time nor a count is given.
const DURATION: f64 = 10.0;

/// The server, the requests, and the bounds of the load.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// URLs to request in turn, as http://host:port/path; all on one server
    #[arg(required = true)]
    urls: Vec<String>,
    /// File with one path per line; the paths are requested in turn, from the URL's server, instead of the URLs
    #[arg(long)]
    paths: Option<PathBuf>,
    /// Number of connections, all open at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Stop after this many seconds; by default after 10, or never if --requests is given
    #[arg(long)]
    duration: Option<f64>,
    /// Stop after this many requests
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Requests per second, at a steady pace whatever the service does; without this option, as fast as it responds
    #[arg(long)]
    rate: Option<f64>,
    /// Number of threads that send requests
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
    /// Header for every request, as "Name: value"; can be repeated
    #[arg(short = 'H', long = "header")]
    headers: Vec<String>,
    /// Give up on a service that has responded to no request for this many seconds
    #[arg(long, default_value_t = 10.0)]
    patience: f64,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.threads > options.connections {
        return Err(
            "each thread needs a connection: use fewer --threads or more --connections".into()
        );
    }
    let bounds = options.bounds()?;
    let paths = options.paths.as_ref().map(std::fs::read_to_string).transpose();
    let paths = paths.map_err(|error| format!("can't read --paths: {error}"))?;
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
            return Err("--rate must be a number of requests per second, above 0".into());
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
    Ok(span.ok_or_else(|| format!("{name} must be a number of seconds, above 0"))?)
}
