//! `tidegate-lab check`: checks that responses keep the guarantee while servers, connections and nodes fail.
//!
//! ```text
//! writers ──→ primary ⇒ standbys        `history` knows what was committed when, as the writers saw it
//!                │
//!           nodes of the real service ←── readers ── compare each response with the history
//!                │
//!              Redis           `faults` kills, freezes, cuts and promotes, by a seed that is printed
//! ```
//!
//! Responses come from cached routes, from cached queries and values, from handlers that use other cached results, and from
//! handlers that have just written. A response shows the version of each row from which it was computed (`question`), and
//! each version is judged by itself (`judge`). A response counts as one check, however many versions it shows.
//!
//! Each row of the table has a version that only grows. With each response, a node says how long ago its last read of the
//! log began. By the guarantee, the response contains every write that was acknowledged before that. All times are from
//! one monotonic clock. The checker does not inspect a node's internal state.

mod batch;
mod client;
mod clock;
mod cluster;
mod faults;
mod history;
mod judge;
pub(crate) mod node;
mod process;
mod question;
mod readers;
mod redis;
mod report;
mod schema;
mod writers;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use tokio::task::JoinSet;

use super::Failure;
use super::progress::Progress;
use crate::source::Source;
use clock::Monotonic;
use cluster::Cluster;
use history::History;
use readers::Reader;
use redis::Topology;
use report::Report;
use schema::Schema;

/// How many rows there are, and how many groups they are in.
pub(crate) const ROWS: usize = 40;
pub(crate) const GROUPS: u32 = 6;

/// The extent of a run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Stop after this many responses
    #[arg(long, default_value_t = 100_000)]
    reads: u64,
    /// Stop after this many seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Seed of an earlier run, to repeat its faults
    #[arg(long)]
    seed: Option<u64>,
    /// Number of nodes
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// Number of clients that write
    #[arg(long, default_value_t = 4)]
    writers: usize,
    /// Number of clients that read
    #[arg(long, default_value_t = 120)]
    readers: usize,
    /// Number of requests that a reading client sends in one batch; every fourth client sends them one at a time
    #[arg(long, default_value_t = 32, value_parser = RangedU64ValueParser::<usize>::new().range(1..=batch::MOST as u64))]
    batch: usize,
    /// Maximum duration of a fault, in milliseconds
    #[arg(long, default_value_t = 2500)]
    hold: u64,
    /// Stop after this many faults of each kind, once 2,000 responses were checked
    #[arg(long)]
    rounds: Option<u64>,
    /// Topology of Redis
    #[arg(long, value_enum, default_value_t = Topology::Server)]
    redis: Topology,
    /// Where nodes learn of changes
    #[arg(long, value_enum, default_value_t = Source::Triggers)]
    source: Source,
    /// Inject no faults
    #[arg(long)]
    calm: bool,
}

/// The state that all tasks share.
pub(crate) struct Run {
    pub(crate) history: History,
    pub(crate) schema: Schema,
    pub(crate) report: Report,
    pub(crate) reads: AtomicU64,
    /// Converts times that nodes report, by the clock that they share with the checker.
    pub(crate) clock: Monotonic,
    over: AtomicBool,
}

impl Run {
    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// The number of responses that were checked.
    pub(crate) fn responses(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

/// Runs the check. The exit code is [`UNSOUND`](crate::UNSOUND) if the guarantee was violated.
pub(crate) async fn run(options: Options) -> Result<ExitCode, Failure> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed} (to repeat the faults: --seed {seed})");
    let cluster = Arc::new(Cluster::start(options.nodes, options.redis, options.source).await?);
    let epoch = cluster.first_epoch().await?;
    let run = Arc::new(Run {
        history: History::new(epoch),
        schema: Schema::new(),
        report: Report::default(),
        reads: AtomicU64::new(0),
        clock: Monotonic::new(),
        over: AtomicBool::new(false),
    });
    let mut seeds = fastrand::Rng::with_seed(seed);
    let mut tasks = JoinSet::new();
    for _ in 0..options.writers {
        tasks.spawn(writers::write(run.clone(), cluster.clone(), seeds.fork()));
    }
    for reader in 0..options.readers {
        let (run, cluster, batch, rng) =
            (run.clone(), cluster.clone(), options.batch, seeds.fork());
        tasks.spawn(Reader::new(run, cluster, reader, batch, rng).read());
    }
    let faults = async {
        let struck = match options.calm {
            true => Ok(()),
            false => faults::inject(&run, &cluster, &options, seeds.fork()).await,
        };
        if struck.is_err() || options.rounds.is_some() {
            run.over.store(true, Ordering::Release);
        }
        struck
    };
    let ended = async {
        let ended = wait(&run, &options, &mut tasks).await;
        run.over.store(true, Ordering::Release);
        ended
    };
    let (struck, ended) = tokio::join!(faults, ended);
    struck.and(ended)?;
    while let Some(ended) = tasks.join_next().await {
        ended?;
    }
    run.report.print(run.reads.load(Ordering::Relaxed));
    let kept = run.report.violations() == 0;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

/// Waits until enough responses were checked, the time is over, a task failed, or the guarantee was violated.
async fn wait(run: &Run, options: &Options, tasks: &mut JoinSet<()>) -> Result<(), Failure> {
    let limit = tokio::time::sleep(Duration::from_secs(options.seconds));
    let progress = Progress::new("responses checked", options.reads)?;
    tokio::pin!(limit);
    let began = tokio::time::Instant::now();
    let mut minutes = 0;
    loop {
        tokio::select! {
            () = &mut limit => return Ok(()),
            Some(ended) = tasks.join_next() => ended?,
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
        let reads = run.reads.load(Ordering::Relaxed);
        progress.set(reads);
        if began.elapsed().as_secs() / 60 > minutes {
            minutes += 1;
            let (faults, failed) = run.report.progress();
            eprintln!(
                "{minutes} min: {reads} responses checked, {faults} faults, {failed} failed requests"
            );
        }
        let enough = run.is_over() || reads >= options.reads;
        if enough || run.report.violations() > 0 {
            return Ok(());
        }
    }
}
