//! The load that nodes put on the primary, by their number: `cargo bench -p tidegate-lab --bench nodes`, which prints JSON.
//! Arguments after `--` are the numbers of nodes.
//!
//! Several nodes, each with its own cache, listener and pools, share one primary and one Redis. They serve continuous
//! requests for one hot key, which is written to. The primary counts its transactions, other than these writes and the
//! refills, and its connections. The handler counts its runs per write. This is measured once with a leader that reads
//! the log for all nodes, and once with each node reading it directly.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

// `tidegate` shows its progress in the same way.
#[path = "../../tidegate-cli/src/progress.rs"]
#[allow(dead_code, reason = "the command uses more of it")]
mod progress;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Request;
use axum::routing::get;
use http_body_util::BodyExt;
use progress::Progress;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, RedisOptions,
    RelayRole, Tiered, Triggers,
};
use tidegate_testing::{Postgres, RedisServer};
use tokio::time::{Instant, interval, sleep, timeout};
use tower::ServiceExt;

type Failure = Box<dyn Error + Send + Sync>;
type Result<T> = std::result::Result<T, Failure>;

const WRITES: u32 = 100;
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
const BETWEEN_READS: Duration = Duration::from_millis(20);

#[tokio::main]
async fn main() -> Result<()> {
    let asked: Vec<usize> =
        std::env::args().skip(1).filter_map(|count| count.parse().ok()).collect();
    let counts = if asked.is_empty() { vec![1, 10, 100] } else { asked };
    let mut rows = Vec::new();
    let progress = Progress::of("numbers of nodes", 2 * counts.len() as u64)?;
    for relay in [true, false] {
        for nodes in &counts {
            rows.push(measure(*nodes, relay).await?);
            progress.set(rows.len() as u64);
        }
    }
    drop(progress);
    println!("{}", json!({ "bench": "nodes", "rows": rows }));
    Ok(())
}

/// The servers and nodes of one measurement.
struct World {
    postgres: Postgres,
    counter: PgConnection,
    writer: PgConnection,
    nodes: Vec<Node>,
    runs: Arc<AtomicU32>,
}

struct Node {
    app: Router,
    listener: Listener,
}

/// Measures a number of nodes, with a leader (`relay`) or without.
async fn measure(number: usize, relay: bool) -> Result<Value> {
    let redis = RedisServer::start().await?;
    let mut world = World::start().await?;
    for _ in 0..number {
        let options = RedisOptions::new(redis.url()).connections(1).relay(relay);
        world.add(options).await?;
    }
    world.settle(relay).await?;
    let idle = world.asked_while(sleep(Duration::from_secs(10))).await?;
    let readers: Vec<_> = world.nodes.iter().map(|node| read(node.app.clone())).collect();
    let readers: Vec<_> = readers.into_iter().map(tokio::spawn).collect();
    sleep(Duration::from_secs(1)).await;
    let before = world.runs.load(Ordering::Relaxed);
    let (from, began) = (world.asked().await?, Instant::now());
    world.write().await?;
    let took = began.elapsed().as_secs_f64();
    sleep(Duration::from_secs(1)).await;
    let refills = world.runs.load(Ordering::Relaxed) - before;
    let asked = world.asked().await? - from;
    for reader in readers {
        reader.abort();
    }
    let busy = (asked - f64::from(refills + WRITES)) / (took + 1.0);
    let connections = world.connections().await?;
    Ok(json!({
        "nodes": number,
        "one_for_all": relay,
        "asked_per_second_idle": idle,
        "asked_per_second_written_to": busy,
        "connections": connections,
        "refills_per_write": f64::from(refills) / f64::from(WRITES),
    }))
}

impl World {
    async fn start() -> Result<Self> {
        let postgres = Postgres::start_with(&[("max_connections", "500")]).await?;
        postgres.psql("create table t (n bigint); insert into t values (0)").await?;
        let mut writer = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().table("t").install(&mut writer).await?;
        // Connect to another database, so that the counter does not count itself.
        let counter = PgConnection::connect(&postgres.url_of("template1")).await?;
        Ok(Self { postgres, counter, writer, nodes: Vec::new(), runs: Arc::default() })
    }

    async fn add(&mut self, redis: RedisOptions) -> Result<()> {
        let db = DatabaseOptions::new(self.postgres.url()).connect().await?;
        let cache = Cache::new(Tiered::new(Memory::new(1 << 20), redis.connect().await?));
        let listener = Listener::spawn(&db, &cache).await?;
        let layer = CacheLayer::new(cache).default_policy(Policy::ttl(Duration::from_mins(10)));
        let app = Router::new().route("/", get(value)).layer(layer);
        let app = app.with_state((db, self.runs.clone()));
        self.nodes.push(Node { app, listener });
        Ok(())
    }

    /// Waits until a leader is elected and the other nodes have closed the connections that they do not need.
    async fn settle(&self, relay: bool) -> Result<()> {
        let wanted = if relay { self.nodes.len() - 1 } else { 0 };
        let told =
            || self.nodes.iter().filter(|node| node.listener.role() == RelayRole::Relayed).count();
        timeout(Duration::from_secs(60), async {
            while told() != wanted {
                sleep(Duration::from_millis(100)).await;
            }
        })
        .await?;
        sleep(Duration::from_secs(5)).await;
        Ok(())
    }

    /// Writes to the hot row at fixed times.
    async fn write(&mut self) -> Result<()> {
        let mut ticks = interval(BETWEEN_WRITES);
        for n in 0..WRITES {
            ticks.tick().await;
            let update = sqlx::query("update t set n = $1").bind(i64::from(n));
            update.execute(&mut self.writer).await?;
        }
        ticks.tick().await;
        Ok(())
    }

    async fn asked_while(&mut self, passing: impl Future<Output = ()>) -> Result<f64> {
        let (before, began) = (self.asked().await?, Instant::now());
        passing.await;
        Ok((self.asked().await? - before) / began.elapsed().as_secs_f64())
    }

    /// The number of transactions on the primary so far. Each of the bench's own statements is one.
    async fn asked(&mut self) -> Result<f64> {
        let sql = "select (xact_commit + xact_rollback)::float8 from pg_stat_database
            where datname = 'postgres'";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.counter).await?)
    }

    async fn connections(&mut self) -> Result<i64> {
        let sql = "select count(*) from pg_stat_activity
            where datname = 'postgres' and backend_type = 'client backend'";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.counter).await?)
    }
}

/// Requests the hot key repeatedly.
async fn read(app: Router) {
    let mut ticks = interval(BETWEEN_READS);
    loop {
        ticks.tick().await;
        let request = Request::get("/").body(Body::empty()).unwrap();
        let Ok(answer) = app.clone().oneshot(request).await;
        assert!(answer.status().is_success(), "{answer:?}");
        answer.into_body().collect().await.unwrap();
    }
}

async fn value(State((db, runs)): State<(Database, Arc<AtomicU32>)>) -> String {
    runs.fetch_add(1, Ordering::Relaxed);
    let n: i64 = sqlx::query_scalar("select n from t").fetch_one(db.reader()).await.unwrap();
    n.to_string()
}
