//! The time of a hit as the number of keys, tags, bytes or threads grows.

use std::fmt::{Display, Formatter};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::thread::available_parallelism;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::routing::get;
use serde::Serialize;
use tidegate::{Cache, CacheLayer, Key, Memory, Policy, PolicyError, ValuePolicy};
use tokio::runtime::Builder;
use tokio::time::Instant;
use tower::Service;

use super::resident::resident;
use super::spread::Spread;
use crate::Failure;
use crate::output::Output;

const ROUNDS: usize = 5;

/// A memory limit that is never reached.
const ROOM: u64 = 1 << 40;

/// The largest sizes, and the number of hits.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Largest number of keys; ten million take about 8 GB of memory
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Number of hits in each of five rounds
    #[arg(long, default_value_t = 100_000)]
    hits: u64,
    /// Capacity in MiB of a cache that is filled ten times over
    #[arg(long, default_value_t = 64)]
    capacity: u64,
    /// Seed for the choice of keys
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    seed: u64,
    curves: Vec<Curve>,
    bound: Bound,
}

/// The time of one hit.
#[derive(Debug, Serialize)]
struct Curve {
    by: &'static str,
    points: Vec<Point>,
}

#[derive(Debug, Serialize)]
struct Point {
    at: u64,
    nanos: Spread,
}

/// The memory after storing ten times its capacity.
#[derive(Debug, Serialize)]
struct Bound {
    capacity: u64,
    /// As the cache counts.
    counted: u64,
    entries: u64,
    /// By how much the process grew, if the system reports it.
    resident: Option<u64>,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.keys == 0 || options.hits == 0 || !(1..=1 << 20).contains(&options.capacity) {
        return Err("at least one key, one hit and a capacity of 1 MiB to 1 TiB are needed".into());
    }
    // First, while the process is small.
    let bound = bound(options.capacity << 20).await?;
    let curves = vec![
        by_keys(&options).await?,
        by_tags(&options).await?,
        by_bytes(&options).await?,
        by_threads(&options).await?,
    ];
    let is_within = bound.counted <= bound.capacity;
    output.print(&Found { bench: "scaling", seed: options.seed, curves, bound })?;
    Ok(if is_within { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

/// By the number of keys, which are requested at random.
async fn by_keys(options: &Options) -> Result<Curve, Failure> {
    let (mut points, mut count) = (Vec::new(), 1000);
    while count <= options.keys {
        let cache = Cache::new(Memory::new(ROOM));
        fill(&cache, count, &policy(1)?).await?;
        points.push(Point { at: count, nanos: hits(&cache, count, 1, options).await? });
        count *= 10;
    }
    Ok(Curve { by: "keys", points })
}

/// By the number of tags of each entry.
async fn by_tags(options: &Options) -> Result<Curve, Failure> {
    let mut points = Vec::new();
    for tags in [1, 2, 4, 8, 16, 32, 64] {
        let cache = Cache::new(Memory::new(ROOM));
        fill(&cache, 1, &policy(tags)?).await?;
        points.push(Point { at: tags, nanos: hits(&cache, 1, tags, options).await? });
    }
    Ok(Curve { by: "tags", points })
}

/// By the size of a response's body, through the layer.
async fn by_bytes(options: &Options) -> Result<Curve, Failure> {
    let mut points = Vec::new();
    for size in [100, 1 << 10, 10 << 10, 100 << 10, 1 << 20, 10 << 20] {
        let body = Bytes::from(vec![b'x'; size]);
        let policy = Policy::ttl(Duration::from_secs(3600)).untracked().body_limit(size);
        let layer = CacheLayer::with_policy(Cache::new(Memory::new(ROOM)), policy);
        let mut app = Router::new().route("/", get(async move || body)).layer(layer);
        let is_hit = ask(&mut app, size).await? | ask(&mut app, size).await?;
        if !is_hit {
            return Err(format!("a response of {size} bytes is not stored").into());
        }
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            for _ in 0..options.hits {
                ask(&mut app, size).await?;
            }
            rounds.push(each(start, options.hits));
        }
        let nanos = Spread::of(rounds).ok_or("no rounds")?;
        points.push(Point { at: size as u64, nanos });
    }
    Ok(Curve { by: "bytes", points })
}

/// By the number of threads, up to that of cores, which all request the same key.
async fn by_threads(options: &Options) -> Result<Curve, Failure> {
    let cores = available_parallelism().map_or(1, NonZeroUsize::get);
    let cache = Cache::new(Memory::new(ROOM));
    fill(&cache, 1, &policy(1)?).await?;
    let (mut points, mut count) = (Vec::new(), 1);
    while count <= cores {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let start = Instant::now();
            std::thread::scope(|scope| {
                let threads =
                    (0..count).map(|_| scope.spawn(|| hits_of_thread(&cache, options.hits)));
                // All have to begin before the first is waited for.
                let threads: Vec<_> = threads.collect();
                threads.into_iter().try_for_each(|thread| {
                    thread.join().unwrap_or_else(|_| Err("a thread has panicked".to_owned()))
                })
            })?;
            rounds.push(each(start, options.hits));
        }
        points.push(Point { at: count as u64, nanos: Spread::of(rounds).ok_or("no rounds")? });
        count *= 2;
    }
    Ok(Curve { by: "threads", points })
}

fn hits_of_thread(cache: &Cache, hits: u64) -> Result<(), String> {
    let runtime = Builder::new_current_thread().build().map_err(|error| error.to_string())?;
    let policy = policy(1).map_err(|error| error.to_string())?;
    runtime.block_on(async {
        for _ in 0..hits {
            let found = cache.get_or_load(&key(0), &policy, async || Err::<u64, _>(())).await;
            found.map_err(|()| "an entry is gone".to_owned())?;
        }
        Ok(())
    })
}

/// Sends a request and returns whether it was a hit; the response must have `size` bytes.
async fn ask(app: &mut Router, size: usize) -> Result<bool, Failure> {
    let response = match app.call(Request::get("/").body(Body::empty())?).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let status = response.headers().get("cache-status").map(|status| status.as_bytes().to_vec());
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await?;
    if body.len() != size {
        return Err("a response is incomplete".into());
    }
    Ok(status.is_some_and(|status| status.starts_with(b"tidegate; hit")))
}

async fn bound(capacity: u64) -> Result<Bound, Failure> {
    let before = resident(None);
    let cache = Cache::new(Memory::new(capacity));
    for at in 0..capacity * 10 / 1024 {
        let load = async || Ok::<_, ()>("x".repeat(512));
        let loaded = cache.get_or_load(&key(at), &policy(1)?, load).await;
        loaded.map_err(|()| "no value")?;
    }
    let kept = cache.store_status().memory.ok_or("no memory")?;
    let resident = before.zip(resident(None)).map(|(before, after)| after.saturating_sub(before));
    Ok(Bound { capacity, counted: kept.bytes, entries: kept.entries, resident })
}

async fn fill(cache: &Cache, count: u64, policy: &ValuePolicy) -> Result<(), Failure> {
    for at in 0..count {
        let load = async || Ok::<_, ()>(at);
        cache.get_or_load(&key(at), policy, load).await.map_err(|()| "no value")?;
    }
    let kept = cache.store_status().memory.map_or(0, |kept| kept.entries);
    if kept != count {
        return Err(format!("{kept} of {count} entries were stored").into());
    }
    Ok(())
}

/// The time of one hit, in nanoseconds.
async fn hits(cache: &Cache, keys: u64, tags: u64, options: &Options) -> Result<Spread, Failure> {
    let (mut random, policy) = (fastrand::Rng::with_seed(options.seed), policy(tags)?);
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..options.hits {
            let at = random.u64(..keys);
            let found = cache.get_or_load(&key(at), &policy, async || Err::<u64, _>(())).await;
            if found != Ok(at) {
                return Err("an entry is gone".into());
            }
        }
        rounds.push(each(start, options.hits));
    }
    Spread::of(rounds).ok_or_else(|| "no rounds".into())
}

fn policy(tags: u64) -> Result<ValuePolicy, PolicyError> {
    let policy = ValuePolicy::ttl(Duration::from_secs(3600)).untracked().build()?;
    Ok(policy.with_tags((0..tags).map(|at| format!("tag-{at}"))))
}

fn key(at: u64) -> Key {
    Key::new("scaling").part(at.to_le_bytes()).finish()
}

#[expect(clippy::cast_precision_loss, reason = "as exact as time is")]
fn each(start: Instant, of: u64) -> f64 {
    start.elapsed().as_nanos() as f64 / of as f64
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "nanoseconds of a hit in memory, median of {ROUNDS} rounds (least to most)")?;
        for Curve { by, points } in &self.curves {
            for Point { at, nanos } in points {
                write!(f, "{at:>10} {by:<7} {:>9.0}", nanos.median)?;
                writeln!(f, " ({:.0} to {:.0})", nanos.min, nanos.max)?;
            }
        }
        let Bound { capacity, counted, entries, resident } = &self.bound;
        writeln!(f, "after storing ten times the capacity:")?;
        write!(f, "{counted} bytes of {capacity} in {entries} entries")?;
        match resident {
            Some(bytes) => write!(f, "; the process grew by {bytes}"),
            None => Ok(()),
        }
    }
}
