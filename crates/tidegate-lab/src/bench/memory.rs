//! The memory of a node over time, while keys, sessions and the schema keep changing.

use std::fmt::{Display, Formatter};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::resident::resident;
use crate::Failure;
use crate::output::Output;
use node::Node;

mod node;

/// Concurrent requests of one kind.
const AT_A_TIME: usize = 16;

const MEBIBYTE: u64 = 1 << 20;

/// The duration, and the number of operations, which are spread evenly over it.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Duration in minutes
    #[arg(long, default_value_t = 60)]
    minutes: u32,
    /// Number of keys, each of which is requested twice
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Number of sessions, each with a write and a read that must see it
    #[arg(long, default_value_t = 100_000)]
    sessions: u64,
    /// Number of schema changes, each of which invalidates all entries
    #[arg(long, default_value_t = 60)]
    changes: u64,
    /// Capacity of the cache, in MiB
    #[arg(long, default_value_t = 64)]
    capacity: u64,
    /// Allowed growth of the process from the middle third of the time to the last third, in percent
    #[arg(long, default_value_t = 5.0)]
    growth: f64,
}

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    minutes: Vec<Minute>,
    /// Means of the resident set, in MiB, in the middle third of the time and in the last one.
    middle: f64,
    last: f64,
    /// By how much the last third is above the middle third, in percent.
    growth: f64,
    is_flat: bool,
    failed: u64,
}

/// The operations done by the end of a minute, and the process's memory at that time.
#[derive(Debug, Serialize)]
struct Minute {
    keys: u64,
    hits: u64,
    sessions: u64,
    changes: u64,
    entries: u64,
    /// As the cache counts, in MiB.
    counted: u64,
    /// The resident set of the process, in MiB.
    resident: u64,
}

/// The operations done.
#[derive(Debug, Default)]
struct Counts {
    keys: AtomicU64,
    hits: AtomicU64,
    sessions: AtomicU64,
    changes: AtomicU64,
    failed: AtomicU64,
}

/// A kind of operation.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Key,
    Session,
    Change,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.minutes == 0 {
        return Err("at least one minute is needed".into());
    }
    let node = Arc::new(Node::start(options.capacity * MEBIBYTE).await?);
    let counts = Arc::new(Counts::default());
    let span = Duration::from_secs(60) * options.minutes;
    let start = Instant::now();
    let mut load = JoinSet::new();
    for (kind, count, workers) in [
        (Kind::Key, options.keys, AT_A_TIME),
        (Kind::Session, options.sessions, AT_A_TIME),
        (Kind::Change, options.changes, 1),
    ] {
        let pace = Arc::new(Pace { start, span, count, next: AtomicU64::new(0) });
        for _ in 0..workers {
            load.spawn(work(kind, node.clone(), counts.clone(), pace.clone()));
        }
    }
    let found = watch(&options, &node, &counts).await?;
    load.abort_all();
    output.print(&found)?;
    let is_sound = found.is_flat && found.failed == 0;
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

/// A number of operations at an even rate.
#[derive(Debug)]
struct Pace {
    start: Instant,
    span: Duration,
    count: u64,
    next: AtomicU64,
}

impl Pace {
    /// Waits until the next operation is due, and returns its index; `None` at the end.
    async fn next(&self) -> Option<u64> {
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        if next >= self.count || self.start.elapsed() >= self.span {
            return None;
        }
        let micros = self.span.as_micros() * u128::from(next) / u128::from(self.count);
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        sleep_until(self.start + Duration::from_micros(micros)).await;
        Some(next)
    }
}

async fn work(kind: Kind, node: Arc<Node>, counts: Arc<Counts>, pace: Arc<Pace>) {
    let add = |count: &AtomicU64, more: bool| count.fetch_add(u64::from(more), Ordering::Relaxed);
    while let Some(number) = pace.next().await {
        let (done, count) = match kind {
            Kind::Key => (node.ask_twice(number).await, &counts.keys),
            Kind::Session => (node.write_and_read(number).await.map(|()| false), &counts.sessions),
            Kind::Change => (node.change_schema(number).await.map(|()| false), &counts.changes),
        };
        add(count, true);
        add(&counts.hits, done.as_ref().is_ok_and(|is_hit| *is_hit));
        if let Err(error) = &done
            && add(&counts.failed, true) == 0
        {
            eprintln!("the first failure: {error}");
        }
    }
}

/// Measures the process every second until the end.
async fn watch(options: &Options, node: &Node, counts: &Counts) -> Result<Found, Failure> {
    let (mut samples, mut minutes) = (Vec::new(), Vec::new());
    let mut seconds = interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = seconds.tick().await;
    while minutes.len() < usize::try_from(options.minutes)? {
        seconds.tick().await;
        samples.push(resident(None).ok_or("this system does not report the memory of a process")?);
        if start.elapsed() >= Duration::from_secs(60) * (u32::try_from(minutes.len())? + 1) {
            let minute = Minute::now(node, counts)?;
            eprintln!("minute {}: {minute}", minutes.len() + 1);
            minutes.push(minute);
        }
    }
    let third = samples.len() / 3;
    let (middle, last) = (mean(&samples[third..2 * third]), mean(&samples[2 * third..]));
    let growth = (last / middle - 1.0) * 100.0;
    let failed = counts.failed.load(Ordering::Relaxed);
    let is_flat = growth <= options.growth;
    Ok(Found { bench: "memory", minutes, middle, last, growth, is_flat, failed })
}

/// The mean of samples in bytes, as MiB.
#[expect(clippy::cast_precision_loss, reason = "a process has less than 2^53 bytes")]
fn mean(samples: &[u64]) -> f64 {
    let sum: f64 = samples.iter().map(|sample| *sample as f64).sum();
    sum / samples.len() as f64 / MEBIBYTE as f64
}

impl Minute {
    fn now(node: &Node, counts: &Counts) -> Result<Self, Failure> {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let kept = node.cache.store_status().memory.ok_or("no memory")?;
        Ok(Self {
            keys: of(&counts.keys),
            hits: of(&counts.hits),
            sessions: of(&counts.sessions),
            changes: of(&counts.changes),
            entries: kept.entries,
            counted: kept.bytes / MEBIBYTE,
            resident: resident(None).ok_or("no resident set")? / MEBIBYTE,
        })
    }
}

impl Display for Minute {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { keys, hits, sessions, changes, entries, counted, resident } = self;
        write!(f, "{keys} keys, {hits} hits, {sessions} sessions, {changes} changes; ")?;
        write!(f, "{entries} entries of {counted} MiB; {resident} MiB resident")
    }
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "minute | keys | hits | sessions | schema changes | entries | MiB | RSS, MiB")?;
        writeln!(f, "---: | ---: | ---: | ---: | ---: | ---: | ---: | ---:")?;
        for (at, minute) in self.minutes.iter().enumerate() {
            let Minute { keys, hits, sessions, changes, entries, counted, resident } = minute;
            write!(f, "{} | {keys} | {hits} | {sessions} | {changes} | ", at + 1)?;
            writeln!(f, "{entries} | {counted} | {resident}")?;
        }
        let Self { middle, last, growth, is_flat, failed, .. } = self;
        let verdict = if *is_flat { "flat" } else { "not flat" };
        writeln!(f, "{failed} requests failed")?;
        write!(
            f,
            "middle third {middle:.1} MiB, last third {last:.1} MiB: {growth:+.1} %, {verdict}"
        )
    }
}
