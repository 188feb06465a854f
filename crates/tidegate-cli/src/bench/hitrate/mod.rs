//! `tidegate bench hitrate`: the share of reads that the cache takes off the database, and the share of stale values.
//!
//! Accesses, with writes in between, are replayed through the cache itself at several memory sizes. For comparison, they
//! are also replayed through models: of caches with well-known policies of eviction, and of the optimal cache. In all
//! models, a write removes the row's entries, as row tags do. A TTL is a number of accesses, since a trace has no clock.

mod models;
mod optimal;
mod replay;
mod trace;

use std::fmt::{Display, Formatter};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::available_parallelism;

use serde::Serialize;

use crate::Failure;
use crate::output::Output;
use crate::progress::Progress;
use models::{Lru, S3Fifo, Sieve, TinyLfu, hits};
use optimal::optimal;
use replay::{By, replay};
use trace::{Trace, Writes};

/// The accesses and writes to replay.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// File of accesses: big-endian 32-bit numbers, compressed by xz or not; benches/data has an example
    #[arg(long, conflicts_with = "zipf", required_unless_present = "zipf")]
    trace: Option<PathBuf>,
    /// Draw the accesses by Zipf's law instead, with this exponent, such as 0.99
    #[arg(long)]
    zipf: Option<f64>,
    /// Number of keys, with --zipf
    #[arg(long, default_value_t = 100_000)]
    keys: u32,
    /// Maximum number of accesses
    #[arg(long, default_value_t = 5_000_000)]
    requests: usize,
    /// Cache sizes in entries, as percentages of the number of keys; separate several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [1.0, 10.0, 50.0])]
    sizes: Vec<f64>,
    /// Writes per access; separate several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [0.0, 0.01, 0.05])]
    writes: Vec<f64>,
    /// TTL, in accesses, of the run that relies on a TTL alone, without invalidation by writes
    #[arg(long, default_value_t = 60_000)]
    ttl: usize,
    /// Seed for the accesses by Zipf's law, and for the writes
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    accesses: usize,
    keys: usize,
    seed: u64,
    ttl: usize,
    rows: Vec<Line>,
}

/// One size with one share of writes. All but counts are shares of the accesses.
#[derive(Debug, Serialize)]
struct Line {
    writes: f64,
    size_percent: f64,
    entries: usize,
    lru: f64,
    s3_fifo: f64,
    sieve: f64,
    tiny_lfu: f64,
    optimal: f64,
    tags: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    by: &'static str,
    /// Accesses served from the cache, which the database does not see.
    hits: f64,
    stale: f64,
    /// The number of entries at the end.
    entries: u64,
}

pub(crate) fn run(options: &Options, output: Output) -> Result<ExitCode, Failure> {
    let trace = load(options)?;
    let writes =
        options.writes.iter().map(|&share| (share, Writes::draw(&trace, share, options.seed)));
    let writes: Vec<(f64, Writes)> = writes.collect();
    let sizes = || options.sizes.iter();
    let lines: Vec<_> =
        writes.iter().flat_map(|drawn| sizes().map(move |&size| (drawn, size))).collect();
    let (progress, replayed) = (Progress::new("replays", lines.len() as u64)?, AtomicUsize::new(0));
    let rows = in_parallel(&lines, |&((share, writes), percent)| {
        let line = line((&trace, writes), *share, percent, options.ttl);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let line = runtime.block_on(line)?;
        progress.set(replayed.fetch_add(1, Ordering::Relaxed) as u64 + 1);
        Ok(line)
    })?;
    drop(progress);
    let is_sound = rows.iter().all(Line::is_sound);
    output.print(&Found {
        bench: "hitrate",
        accesses: trace.accesses.len(),
        keys: trace.keys(),
        seed: options.seed,
        ttl: options.ttl,
        rows,
    })?;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

/// Does all the work, a part of it on each core. The results are in the order of the work.
fn in_parallel<T: Sync, R: Send>(
    work: &[T],
    run: impl Fn(&T) -> Result<R, Failure> + Sync,
) -> Result<Vec<R>, Failure> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let take = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(part) = work.get(at) else { break };
            // The error itself may belong to its thread.
            let result = run(part).map_err(|error| error.to_string());
            done.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..available_parallelism().map_or(1, NonZeroUsize::get) {
            scope.spawn(take);
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(at, _)| *at);
    Ok(done.into_iter().map(|(_, result)| result).collect::<Result<_, _>>()?)
}

fn load(options: &Options) -> Result<Trace, Failure> {
    let (keys, requests) = (options.keys, options.requests);
    match (&options.trace, options.zipf) {
        (Some(path), _) => Trace::read(path, requests),
        (None, Some(theta)) if theta.is_finite() && keys > 0 && requests > 0 => {
            Ok(Trace::zipf(theta, keys, requests, options.seed))
        }
        _ => Err("--zipf needs a finite exponent, and at least 1 for --keys and --requests".into()),
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "shares of counts far below 2^52"
)]
async fn line(
    (trace, writes): (&Trace, &Writes),
    share: f64,
    percent: f64,
    ttl: usize,
) -> Result<Line, Failure> {
    let entries = ((trace.keys() as f64 * percent / 100.0) as usize).max(1);
    let of_all = |count: u64| count as f64 / trace.accesses.len() as f64;
    let mut tags = Vec::new();
    for (name, by) in [("ttl", By::Ttl(ttl)), ("table", By::Table), ("row", By::Row)] {
        let counts = replay((trace, writes), by, entries).await?;
        let (hits, stale) = (of_all(counts.hits), of_all(counts.stale));
        tags.push(Measured { by: name, hits, stale, entries: counts.entries });
    }
    Ok(Line {
        writes: share,
        size_percent: percent,
        entries,
        lru: of_all(hits(Lru::new(entries), trace, writes)),
        s3_fifo: of_all(hits(S3Fifo::new(entries), trace, writes)),
        sieve: of_all(hits(Sieve::new(entries), trace, writes)),
        tiny_lfu: of_all(hits(TinyLfu::new(entries), trace, writes)),
        optimal: of_all(optimal(trace, writes, entries)),
        tags,
    })
}

impl Line {
    /// Whether tags prevented all stale values and had no more hits than the optimum.
    fn is_sound(&self) -> bool {
        let tagged = self.tags.iter().filter(|measured| measured.by != "ttl");
        tagged.clone().all(|measured| measured.stale == 0.0 && measured.hits <= self.optimal)
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { accesses, keys, seed, ttl, .. } = self;
        writeln!(f, "{accesses} accesses to {keys} keys; seed {seed}; TTL of {ttl} accesses")?;
        writeln!(
            f,
            "share of reads served from the cache; in parentheses, share of all reads that got a stale value"
        )?;
        write!(
            f,
            "{:>6} {:>6}  {:>7} {:>7} {:>7} {:>7} {:>7}  {:>7} {:>7} {:>16}",
            "writes",
            "size",
            "LRU",
            "S3-FIFO",
            "SIEVE",
            "TinyLFU",
            "best",
            "rows",
            "tables",
            "TTL alone"
        )?;
        for line in &self.rows {
            let of = |name: &str| line.tags.iter().find(|measured| measured.by == name);
            let hits = |name: &str| of(name).map_or(0.0, |measured| measured.hits * 100.0);
            let stale = of("ttl").map_or(0.0, |measured| measured.stale * 100.0);
            write!(f, "\n{:>5}% {:>5}%", line.writes * 100.0, line.size_percent)?;
            f.write_str(" ")?;
            for share in [line.lru, line.s3_fifo, line.sieve, line.tiny_lfu, line.optimal] {
                write!(f, " {:>6.2}%", share * 100.0)?;
            }
            write!(f, "  {:>6.2}% {:>6.2}%", hits("row"), hits("table"))?;
            write!(f, " {:>6.2}% ({stale:.2}%)", hits("ttl"))?;
        }
        Ok(())
    }
}
