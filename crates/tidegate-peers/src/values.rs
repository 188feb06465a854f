//! Hits on typed values: in memory beside caches that one would call by hand, and a batch in Redis beside MGET by hand.
//!
//! All in one thread. The variants alternate within each round.

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::hint::black_box;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bincode::config::standard;
use bincode::serde::{decode_from_slice, encode_to_vec};
use redis::aio::MultiplexedConnection;
use redis::caching::CacheConfig;
use redis::{AsyncCommands, AsyncConnectionConfig};
use serde::{Deserialize, Serialize};
use tidegate::{Cache, Key, Memory, RedisOptions, ValuePolicy};
use tidegate_testing::RedisServer;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::spread::Spread;

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Rounds, in each of which every variant is measured
    #[arg(long, default_value_t = 15)]
    rounds: u32,
    /// Hits in memory per round and variant; a hundredth as many batches
    #[arg(long, default_value_t = 100_000)]
    hits: u32,
    /// Where to write the results as JSON
    #[arg(long)]
    write: Option<PathBuf>,
}

/// What is cached.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    id: u32,
    price: u64,
    name: String,
}

#[derive(Debug, Serialize)]
struct Results {
    rounds: u32,
    /// Nanoseconds of a hit in memory.
    memory: Vec<Measured>,
    /// Microseconds of a batch in Redis.
    batch: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Measured {
    variant: &'static str,
    time: Spread,
    /// To the first variant's time in the same round.
    ratio: Spread,
}

/// Keys in memory, and keys of a batch.
const KEYS: u32 = 10_000;
const BATCH: u32 = 100;

/// How often a value was loaded.
static LOADS: AtomicU32 = AtomicU32::new(0);

const TTL: Duration = Duration::from_secs(3600);

pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let rounds = options.rounds.max(1);
    let results = Results {
        rounds,
        memory: memory(rounds, options.hits.max(1)).await?,
        batch: batch(rounds, options.hits.div_ceil(100).max(1)).await?,
    };
    if let Some(path) = &options.write {
        std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")?;
    }
    print!("{}", table(&results)?);
    Ok(())
}

impl Item {
    fn new(id: u32) -> Self {
        Self { id, price: u64::from(id) * 100, name: format!("item number {id}") }
    }

    fn load(id: u32) -> Self {
        LOADS.fetch_add(1, Ordering::Relaxed);
        Self::new(id)
    }
}

/// A connection that stores replies in this process until Redis announces a change (Redis manual, "Client-side caching").
async fn client_side(server: &RedisServer) -> Result<MultiplexedConnection, Failure> {
    let size = NonZeroUsize::new(2 * KEYS as usize).ok_or("no keys")?;
    let config = AsyncConnectionConfig::new().set_cache_config(CacheConfig::new().set_size(size));
    let client = redis::Client::open(format!("{}?protocol=resp3", server.url()))?;
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    for id in 0..KEYS {
        let _: () = connection.set(name(id), encode_to_vec(Item::new(id), standard())?).await?;
    }
    Ok(connection)
}

async fn memory(rounds: u32, hits: u32) -> Result<Vec<Measured>, Failure> {
    let moka = moka::future::Cache::<u32, Item>::builder();
    // With room for twice as many: shards are not filled evenly.
    let moka = moka.max_capacity(2 * u64::from(KEYS)).time_to_live(TTL).build();
    let foyer: foyer_memory::Cache<u32, Item> =
        foyer_memory::CacheBuilder::new(2 * KEYS as usize).build();
    let server = RedisServer::start().await?;
    let client_side = client_side(&server).await?;
    let cache = Cache::new(Memory::new(64 << 20));
    let policy = ValuePolicy::ttl(TTL).tag("items").build()?;
    let from_moka = async |id| moka.get_with(id, async move { Item::load(id) }).await;
    let from_foyer = async |id| {
        let found =
            foyer.get_or_fetch(&id, || async move { Ok::<_, Infallible>(Item::load(id)) }).await;
        found.map(|found| found.value().clone()).map_err(|error| error.to_string())
    };
    let from_redis = async |id| {
        let bytes: Vec<u8> = client_side.clone().get(name(id)).await?;
        decode_one(&bytes)
    };
    let from_tidegate = async |id: u32| {
        let key = Key::new("item").part(id.to_be_bytes()).finish();
        cache.get_or_load(&key, &policy, async || Ok::<_, Infallible>(Item::load(id))).await
    };
    for id in 0..KEYS {
        let found = [
            from_moka(id).await,
            from_foyer(id).await?,
            from_redis(id).await?,
            from_tidegate(id).await?,
        ];
        if found != [(); 4].map(|()| Item::new(id)) {
            return Err("a cache returned another value".into());
        }
    }
    let mut random = fastrand::Rng::with_seed(1);
    let mut times = [const { Vec::new() }; 4];
    for round in 0..rounds as usize {
        let ids: Vec<u32> = (0..hits).map(|_| random.u32(..KEYS)).collect();
        for at in 0..4 {
            let at = (at + round) % 4;
            let began = Instant::now();
            for &id in &ids {
                match at {
                    0 => drop(black_box(from_moka(id).await)),
                    1 => drop(black_box(from_foyer(id).await?)),
                    2 => drop(black_box(from_redis(id).await?)),
                    _ => drop(black_box(from_tidegate(id).await?)),
                }
            }
            times[at].push(began.elapsed().as_secs_f64() * 1e9 / f64::from(hits));
        }
    }
    if LOADS.swap(0, Ordering::Relaxed) != 3 * KEYS {
        return Err("a cache has lost values".into());
    }
    let misses = client_side.get_cache_statistics().map(|counted| counted.miss);
    if misses != Some(KEYS as usize) {
        return Err(format!("the client-side cache had {misses:?} misses").into());
    }
    measured(["moka", "foyer", "redis, client-side", "tidegate"], &times)
}

async fn batch(rounds: u32, batches: u32) -> Result<Vec<Measured>, Failure> {
    let server = RedisServer::start().await?;
    let mut connection =
        redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    let cache = Cache::new(RedisOptions::new(server.url()).connect().await?);
    let policy = ValuePolicy::ttl(TTL).tag("items:id={id}").build()?;
    let from_tidegate = async || {
        let key = |id: &u32| Key::new("item").part(id.to_be_bytes()).finish();
        let load = async |missing: Vec<u32>| {
            Ok::<_, Infallible>(missing.into_iter().map(|id| (id, Item::load(id))).collect())
        };
        cache.get_many::<u32, Item, _, _>(0..BATCH, key, &policy, load).await
    };
    for id in 0..BATCH {
        let _: () = connection.set(name(id), encode_to_vec(Item::new(id), standard())?).await?;
    }
    let expected: HashMap<u32, Item> = (0..BATCH).map(|id| (id, Item::new(id))).collect();
    // Values are stored in the background.
    for attempt in 0.. {
        from_tidegate().await?;
        if LOADS.swap(0, Ordering::Relaxed) == 0 {
            break;
        }
        if attempt == 100 {
            return Err("Redis does not store the values".into());
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut times = [const { Vec::new() }; 3];
    for round in 0..rounds as usize {
        for at in 0..3 {
            let at = (at + round) % 3;
            let mut took = Duration::ZERO;
            for _ in 0..batches {
                let began = Instant::now();
                let (found, seconds) = match at {
                    0 => by_hand(&mut connection).await?,
                    1 => (from_tidegate().await?, None),
                    _ => decode_alone(&mut connection).await?,
                };
                took += seconds.unwrap_or_else(|| began.elapsed());
                if found != expected {
                    return Err("a batch returned other values".into());
                }
            }
            times[at].push(took.as_secs_f64() * 1e6 / f64::from(batches));
        }
    }
    if LOADS.load(Ordering::Relaxed) > 0 {
        return Err("Redis has lost values".into());
    }
    measured(["MGET by hand", "tidegate", "decoding alone"], &times)
}

fn name(id: u32) -> String {
    format!("by-hand:{id}")
}

/// The values, and the time if it is not all that passed.
type Timed = (HashMap<u32, Item>, Option<Duration>);

async fn by_hand(connection: &mut MultiplexedConnection) -> Result<Timed, Failure> {
    let names: Vec<String> = (0..BATCH).map(name).collect();
    let found: Vec<Vec<u8>> = connection.mget(&names).await?;
    Ok((decode(&found)?, None))
}

async fn decode_alone(connection: &mut MultiplexedConnection) -> Result<Timed, Failure> {
    let names: Vec<String> = (0..BATCH).map(name).collect();
    let found: Vec<Vec<u8>> = connection.mget(&names).await?;
    let began = Instant::now();
    let decoded = decode(&found)?;
    Ok((decoded, Some(began.elapsed())))
}

fn decode(found: &[Vec<u8>]) -> Result<HashMap<u32, Item>, Failure> {
    found.iter().map(|bytes| decode_one(bytes).map(|item| (item.id, item))).collect()
}

#[expect(clippy::disallowed_methods, reason = "as one decodes by hand")]
fn decode_one(bytes: &[u8]) -> Result<Item, Failure> {
    Ok(decode_from_slice::<Item, _>(bytes, standard())?.0)
}

fn measured<const N: usize>(
    names: [&'static str; N],
    times: &[Vec<f64>; N],
) -> Result<Vec<Measured>, Failure> {
    let variants = names.into_iter().zip(times).map(|(variant, own)| {
        let ratios = own.iter().zip(&times[0]).map(|(own, first)| own / first);
        Some(Measured {
            variant,
            time: Spread::of(own.iter().copied())?,
            ratio: Spread::of(ratios)?,
        })
    });
    variants.collect::<Option<_>>().ok_or_else(|| "nothing was measured".into())
}

fn table(results: &Results) -> Result<String, Failure> {
    let mut text = format!(
        "{} rounds; medians, with the least and the most in parentheses.\n",
        results.rounds
    );
    for (head, unit, variants) in [
        ("a hit in memory", "ns", &results.memory),
        ("a batch of 100 in Redis", "µs", &results.batch),
    ] {
        write!(text, "\n| {head} | {unit} | of the first |\n| --- | ---: | ---: |\n")?;
        for Measured { variant, time, ratio } in variants {
            write!(text, "| {variant} | {:.0} ({:.0}–{:.0}) ", time.median, time.min, time.max)?;
            writeln!(text, "| {:.2} ({:.2}–{:.2}) |", ratio.median, ratio.min, ratio.max)?;
        }
    }
    Ok(text)
}
