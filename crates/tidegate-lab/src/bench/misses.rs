//! The latency of a miss with Redis some time away, beside that of the read that it computes from.

use std::fmt::{Display, Formatter};
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::routing::get;
use redis::aio::MultiplexedConnection;
use redis::{Client, cmd};
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Guard, Listener, Memory, Policy, RedisOptions,
    Tiered, Triggers,
};
use tidegate_testing::{FaultProxy, Postgres, RedisServer};
use tokio::time::{Instant, sleep};
use tower::Service;

use super::spread::Spread;
use crate::Failure;
use crate::output::Output;

/// Time in which a node stores an entry after its response, without the delay of Redis, in milliseconds.
const SETTLED: u64 = 5;

/// The number of requests, and the distance of Redis.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of requests of each kind
    #[arg(long, default_value_t = 300)]
    requests: u32,
    /// Time that each reply of Redis is delayed by, in milliseconds
    #[arg(long, default_value_t = 1)]
    delay: u64,
}

/// The result: latencies in milliseconds.
#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    requests: u32,
    delay: u64,
    /// The handler alone.
    read: Spread,
    /// A PING of Redis.
    round_trip: Spread,
    /// A request for what is stored nowhere.
    absent: Spread,
    /// A request for what is stored in memory and in Redis, and was changed since.
    outdated: Spread,
}

/// The servers, and one node.
struct World {
    _postgres: Postgres,
    _redis: RedisServer,
    _proxy: FaultProxy,
    _listener: Listener,
    ping: MultiplexedConnection,
    cache: Cache,
    bare: Router,
    cached: Router,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.requests == 0 {
        return Err("at least one request is needed".into());
    }
    let mut world = World::start(&options).await?;
    let mut times = [const { Vec::new() }; 4];
    // In turns, so that a slow moment of the machine slows all of them.
    for id in 1..=options.requests {
        let path = format!("/items/{id}");
        times[0].push(ask(&mut world.bare, &path).await?);
        times[1].push(world.ping().await?);
        times[2].push(ask(&mut world.cached, &path).await?);
        // The entry is stored in Redis, and its lease released.
        sleep(Duration::from_millis(SETTLED + 4 * options.delay)).await;
        world.cache.invalidate([format!("items:id={id}")]).await?;
        times[3].push(ask(&mut world.cached, &path).await?);
    }
    let spreads =
        times.map(|times| Spread::of(times.into_iter().map(|time| time.as_secs_f64() * 1e3)));
    let [Some(read), Some(round_trip), Some(absent), Some(outdated)] = spreads else {
        return Err("nothing was measured".into());
    };
    let Options { requests, delay } = options;
    output.print(&Found {
        bench: "misses",
        requests,
        delay,
        read,
        round_trip,
        absent,
        outdated,
    })?;
    Ok(ExitCode::SUCCESS)
}

impl World {
    async fn start(options: &Options) -> Result<Self, Failure> {
        let postgres = Postgres::start().await?;
        postgres.psql("create table items (id bigint primary key, price bigint)").await?;
        let rows = format!(
            "insert into items select id, id from generate_series(1, {}) id",
            options.requests
        );
        postgres.psql(&rows).await?;
        let mut conn = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().table("items").install(&mut conn).await?;
        let db = DatabaseOptions::new(postgres.url()).connect().await?;
        let redis = RedisServer::start().await?;
        let proxy = FaultProxy::start(redis.addr()).await?;
        let url = format!("redis://{}/", proxy.addr());
        let ping = Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
        let far = Guard::new(RedisOptions::new(url).connect().await?)
            .read_within(Duration::from_secs(1))
            .write_within(Duration::from_secs(5));
        let cache = Cache::new(Tiered::with_guard(Memory::new(64 << 20), far));
        let listener = Listener::spawn(&db, &cache).await?;
        let policy = Policy::ttl(Duration::from_secs(600)).tag("items:id={id}");
        let layer = CacheLayer::new(cache.clone()).route("/items/{id}", policy).validate()?;
        let routes = Router::new().route("/items/{id}", get(item));
        let bare = routes.clone().with_state(db.clone());
        let mut cached = routes.layer(layer).with_state(db);
        // Everything is connected, and the statement's dependencies are known, before anything is measured.
        ask(&mut cached, "/items/0").await.ok();
        proxy.delay(Duration::from_millis(options.delay));
        Ok(Self {
            _postgres: postgres,
            _redis: redis,
            _proxy: proxy,
            _listener: listener,
            ping,
            cache,
            bare,
            cached,
        })
    }

    async fn ping(&mut self) -> Result<Duration, Failure> {
        let began = Instant::now();
        cmd("PING").query_async::<()>(&mut self.ping).await?;
        Ok(began.elapsed())
    }
}

/// Sends a request that no stored response may answer.
async fn ask(app: &mut Router, path: &str) -> Result<Duration, Failure> {
    let request = Request::get(path).body(Body::empty())?;
    let began = Instant::now();
    let response = match app.call(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let (parts, body) = response.into_parts();
    axum::body::to_bytes(body, 1 << 10).await?;
    let took = began.elapsed();
    let status = parts.headers.get("cache-status").and_then(|status| status.to_str().ok());
    if status.is_some_and(|status| status.contains("hit")) || !parts.status.is_success() {
        return Err(format!("not a miss: {}, {status:?}", parts.status).into());
    }
    Ok(took)
}

async fn item(State(db): State<Database>, Path(id): Path<i64>) -> Result<String, String> {
    let query = sqlx::query_scalar("select price from items where id = $1").bind(id);
    let price: Option<i64> = query.fetch_optional(db.reader()).await.map_err(|e| e.to_string())?;
    Ok(format!("{price:?}"))
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { requests, delay, read, round_trip, .. } = self;
        writeln!(
            f,
            "{requests} requests of each kind; Redis is {delay} ms away; medians (least to most)"
        )?;
        let mut line = |name: &str, of: &Spread| {
            writeln!(f, "  {name:<28} {:7.3} ms ({:.3} to {:.3})", of.median, of.min, of.max)
        };
        line("the read alone", read)?;
        line("a PING of Redis", round_trip)?;
        line("a miss, stored nowhere", &self.absent)?;
        line("a miss, stored and outdated", &self.outdated)?;
        let trips = |of: &Spread| (of.median - read.median) / round_trip.median;
        let [absent, outdated] = [trips(&self.absent), trips(&self.outdated)];
        write!(f, "beyond the read: {absent:.2} and {outdated:.2} round trips")
    }
}
