//! What entries in Redis cost by their size, compressed and not, beside bytes that are stored by hand.

use std::fmt::{Display, Formatter};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, cmd};
use serde::Serialize;
use tidegate::internals::entry;
use tidegate::{Entry, Key, Redis, RedisOptions, Store};
use tidegate_testing::RedisServer;
use tokio::time::Instant;

use super::spread::Spread;
use crate::Failure;
use crate::output::Output;

/// The bodies to store.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Sizes of the bodies, in bytes; separate several with commas
    #[arg(long, value_delimiter = ',', default_values_t = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20])]
    sizes: Vec<usize>,
    /// Number of times that each body is stored and read, by hand, as it is, and compressed in turn
    #[arg(long, default_value_t = 200)]
    rounds: u32,
}

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    rounds: u32,
    sizes: Vec<Size>,
}

/// One size of bodies.
#[derive(Debug, Serialize)]
struct Size {
    bytes: usize,
    by_hand: Measured,
    plain: Measured,
    compressed: Measured,
}

/// Microseconds of a write to Redis on loopback and of a read from it, and the bytes that Redis then holds.
#[derive(Debug, Serialize)]
struct Measured {
    put: Spread,
    get: Spread,
    stored: usize,
}

const LONG: Duration = Duration::from_hours(1);

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    let server = RedisServer::start().await?;
    let largest = options.sizes.iter().copied().max().ok_or("at least one size is needed")?;
    let redis = RedisOptions::new(server.url()).body_limit(largest).prefix("plain");
    let client = redis::Client::open(server.url())?;
    let mut ways = [
        Way::ByHand(client.get_multiplexed_async_connection().await?),
        Way::Stored(redis.clone().connect().await?),
        Way::Stored(redis.prefix("compressed").compress_from(1).connect().await?),
    ];
    let mut sizes = Vec::new();
    for &bytes in &options.sizes {
        let body = json(bytes);
        let key = Key::new("compression").part(bytes.to_string()).finish();
        let entry = Arc::new(entry(&key, body.clone(), 100, LONG));
        let mut times = [const { (Vec::new(), Vec::new()) }; 3];
        for round in 0..options.rounds.max(1) as usize {
            // In turns, so that a slow moment of the machine slows all.
            for at in 0..ways.len() {
                let at = (at + round) % ways.len();
                times[at].0.push(ways[at].store(&key, &entry).await?);
                times[at].1.push(ways[at].read(&key, body.len()).await?);
            }
        }
        let names = server.run::<Vec<String>>(cmd("KEYS").arg("*")).await?;
        let mut measured = Vec::new();
        for (prefix, (put, get)) in [BY_HAND, "plain", "compressed"].into_iter().zip(times) {
            let is_it = |name: &&String| name.starts_with(prefix);
            let name = names.iter().find(is_it).ok_or("nothing was stored")?;
            let stored = server.run(cmd("STRLEN").arg(name)).await?;
            let (Some(put), Some(get)) = (Spread::of(put), Spread::of(get)) else {
                return Err("nothing was measured".into());
            };
            measured.push(Measured { put, get, stored });
        }
        server.run::<redis::Value>(&cmd("FLUSHALL")).await?;
        let [by_hand, plain, compressed] =
            <[_; 3]>::try_from(measured).map_err(|_| "three are measured")?;
        sizes.push(Size { bytes, by_hand, plain, compressed });
    }
    output.print(&Found { bench: "compression", rounds: options.rounds, sizes })?;
    Ok(ExitCode::SUCCESS)
}

/// How a body is stored.
enum Way {
    /// As one writes it without a cache: SET and GET of the body alone.
    ByHand(MultiplexedConnection),
    /// As an entry.
    Stored(Redis),
}

/// The name of the body that is stored by hand.
const BY_HAND: &str = "by-hand";

impl Way {
    /// Returns how long it took, in microseconds.
    async fn store(&mut self, key: &Key, entry: &Arc<Entry>) -> Result<f64, Failure> {
        let began = Instant::now();
        match self {
            Self::ByHand(connection) => {
                connection.set_ex::<_, _, ()>(BY_HAND, &entry.body()[..], LONG.as_secs()).await?;
            }
            Self::Stored(redis) => {
                if let Some(rest) = redis.put(key, entry) {
                    rest.await?;
                }
            }
        }
        Ok(began.elapsed().as_secs_f64() * 1e6)
    }

    /// Returns how long it took, in microseconds.
    async fn read(&mut self, key: &Key, length: usize) -> Result<f64, Failure> {
        let began = Instant::now();
        let body = match self {
            Self::ByHand(connection) => {
                Some(Bytes::from(connection.get::<_, Vec<u8>>(BY_HAND).await?))
            }
            Self::Stored(redis) => redis.get(key).await?.map(|found| found.entry.body().clone()),
        };
        let took = began.elapsed();
        match body.is_some_and(|body| body.len() == length) {
            true => Ok(took.as_secs_f64() * 1e6),
            false => Err("the body is not there".into()),
        }
    }
}

/// A list of items as a service returns it: names of fields repeat, and values differ.
fn json(bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(1);
    let mut json = String::from("[");
    while json.len() < bytes {
        let (id, price) = (random.u32(..1_000_000), random.u32(..100_000));
        let word = |random: &mut fastrand::Rng| -> String {
            (0..random.usize(3..10)).map(|_| random.lowercase()).collect()
        };
        let (name, maker) = (word(&mut random), word(&mut random));
        let item = format!(
            r#"{{"id":{id},"name":"{name} {maker}","price_cents":{price},"in_stock":{},"created_at":"2026-{:02}-{:02}T{:02}:{:02}:00Z"}},"#,
            random.bool(),
            random.u8(1..13),
            random.u8(1..29),
            random.u8(..24),
            random.u8(..60),
        );
        json += &item;
    }
    json.truncate(bytes);
    json
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "bodies of JSON in Redis on loopback, {} rounds; medians", self.rounds)?;
        writeln!(f, "{:>8} {:>26} {:>29} {:>29}", "", "bytes in Redis", "write, µs", "read, µs")?;
        write!(
            f,
            "{:>8} {:>9} {:>9} {:>6} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  zstd reads gain below",
            "body",
            "as it is",
            "zstd",
            "",
            "by hand",
            "as it is",
            "zstd",
            "by hand",
            "as it is",
            "zstd"
        )?;
        for Size { bytes, by_hand, plain, compressed } in &self.sizes {
            let longer = compressed.get.median - plain.get.median;
            let percent = 100 * compressed.stored / plain.stored.max(1);
            write!(f, "\n{bytes:>8} {:>9} {:>9} {percent:>5}%", plain.stored, compressed.stored)?;
            for Measured { put, .. } in [by_hand, plain, compressed] {
                write!(f, " {:>9.0}", put.median)?;
            }
            for Measured { get, .. } in [by_hand, plain, compressed] {
                write!(f, " {:>9.0}", get.median)?;
            }
            match longer > 0.0 {
                // Bytes per microsecond are megabytes per second.
                true => write!(f, "  {:>6.0} MB/s", saved(plain, compressed) / longer)?,
                false => write!(f, "  any speed")?,
            }
        }
        Ok(())
    }
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn saved(plain: &Measured, compressed: &Measured) -> f64 {
    plain.stored as f64 - compressed.stored as f64
}
