//! The load that nodes put on the primary, by their number.
//!
//! Several nodes, each with its own cache, listener and pools, share one primary and one Redis. They serve continuous
//! requests for one hot key, which is written to. The primary counts its transactions, other than these writes and the
//! refills, and its connections. The handler counts its runs per write. This is measured once with a leader that reads
//! the log for all nodes, and once with each node reading it directly.

use std::fmt::{Display, Formatter};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode, Uri};
use axum::routing::get;
use http_body_util::BodyExt;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, RedisOptions,
    RelayRole, Tiered, Triggers,
};
use tidegate_testing::{Postgres, RedisServer};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tower::ServiceExt;

use crate::Failure;
use crate::output::Output;

const WRITES: u32 = 100;
const BETWEEN_WRITES: Duration = Duration::from_millis(100);
const BETWEEN_READS: Duration = Duration::from_millis(20);

/// The numbers of nodes.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Numbers of nodes
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100])]
    nodes: Vec<usize>,
}

/// The result.
#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    rows: Vec<Row>,
}

/// What a number of nodes costs.
#[derive(Debug, Serialize)]
struct Row {
    nodes: usize,
    /// Whether one node reads the log for all.
    one_for_all: bool,
    /// Transactions on the primary per second, while nobody writes.
    asked_per_second_idle: f64,
    /// The same while the hot row is written to, without the writes and the refills.
    asked_per_second_written_to: f64,
    connections: i64,
    refills_per_write: f64,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    let mut rows = Vec::new();
    for relay in [true, false] {
        for nodes in &options.nodes {
            rows.push(measure(*nodes, relay).await?);
        }
    }
    output.print(&Found { bench: "nodes", rows })?;
    Ok(ExitCode::SUCCESS)
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
async fn measure(number: usize, relay: bool) -> Result<Row, Failure> {
    let redis = RedisServer::start().await?;
    let mut world = World::start().await?;
    for _ in 0..number {
        let options = RedisOptions::new(redis.url()).connections(1).relay(relay);
        world.add(options).await?;
    }
    world.settle(relay).await?;
    let idle = world.asked_while(sleep(Duration::from_secs(10))).await?;
    let readers = world.nodes.iter().map(|node| read(node.app.clone()));
    let mut readers: JoinSet<_> = readers.collect();
    sleep(Duration::from_secs(1)).await;
    let before = world.runs.load(Ordering::Relaxed);
    let (from, began) = (world.asked().await?, Instant::now());
    world.write().await?;
    let took = began.elapsed().as_secs_f64();
    sleep(Duration::from_secs(1)).await;
    let refills = world.runs.load(Ordering::Relaxed) - before;
    let asked = world.asked().await? - from;
    if let Some(status) = readers.try_join_next() {
        return Err(format!("a node's response is not whole: {}", status?).into());
    }
    drop(readers);
    let busy = (asked - f64::from(refills + WRITES)) / (took + 1.0);
    let connections = world.connections().await?;
    Ok(Row {
        nodes: number,
        one_for_all: relay,
        asked_per_second_idle: idle,
        asked_per_second_written_to: busy,
        connections,
        refills_per_write: f64::from(refills) / f64::from(WRITES),
    })
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{:>6}  {:<11}  transactions a second, idle and with writes",
            "nodes", "who drains"
        )?;
        for row in &self.rows {
            let who = if row.one_for_all { "one for all" } else { "each" };
            let (idle, busy) = (row.asked_per_second_idle, row.asked_per_second_written_to);
            writeln!(
                f,
                "{:>6}  {who:<11}  {idle:>8.1} {busy:>8.1}; {} connections, {:.2} refills per write",
                row.nodes, row.connections, row.refills_per_write
            )?;
        }
        Ok(())
    }
}

impl World {
    async fn start() -> Result<Self, Failure> {
        let postgres = Postgres::start_with(&[("max_connections", "500")]).await?;
        postgres.psql("create table t (n bigint); insert into t values (0)").await?;
        let mut writer = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().table("t").install(&mut writer).await?;
        // Connect to another database, so that the counter does not count itself.
        let counter = PgConnection::connect(&postgres.url_of("template1")).await?;
        Ok(Self { postgres, counter, writer, nodes: Vec::new(), runs: Arc::default() })
    }

    async fn add(&mut self, redis: RedisOptions) -> Result<(), Failure> {
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
    async fn settle(&self, relay: bool) -> Result<(), Failure> {
        let wanted = if relay { self.nodes.len() - 1 } else { 0 };
        let told =
            || self.nodes.iter().filter(|node| node.listener.role() == RelayRole::Follower).count();
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
    async fn write(&mut self) -> Result<(), Failure> {
        let mut ticks = interval(BETWEEN_WRITES);
        for n in 0..WRITES {
            ticks.tick().await;
            let update = sqlx::query("update t set n = $1").bind(i64::from(n));
            update.execute(&mut self.writer).await?;
        }
        ticks.tick().await;
        Ok(())
    }

    async fn asked_while(&mut self, passing: impl Future<Output = ()>) -> Result<f64, Failure> {
        let (before, began) = (self.asked().await?, Instant::now());
        passing.await;
        Ok((self.asked().await? - before) / began.elapsed().as_secs_f64())
    }

    /// The number of transactions on the primary so far. Each of the bench's own statements is one.
    async fn asked(&mut self) -> Result<f64, Failure> {
        let sql = "select (xact_commit + xact_rollback)::float8 from pg_stat_database
            where datname = 'postgres'";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.counter).await?)
    }

    async fn connections(&mut self) -> Result<i64, Failure> {
        let sql = "select count(*) from pg_stat_activity
            where datname = 'postgres' and backend_type = 'client backend'";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut self.counter).await?)
    }
}

/// Requests the hot key repeatedly. Returns the status of a response that is an error.
async fn read(app: Router) -> StatusCode {
    let mut ticks = interval(BETWEEN_READS);
    loop {
        ticks.tick().await;
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = Uri::from_static("/");
        let Ok(response) = app.clone().oneshot(request).await;
        let status = response.status();
        if !status.is_success() || response.into_body().collect().await.is_err() {
            return status;
        }
    }
}

async fn value(State((db, runs)): State<(Database, Arc<AtomicU32>)>) -> Result<String, StatusCode> {
    runs.fetch_add(1, Ordering::Relaxed);
    let n: Result<i64, _> = sqlx::query_scalar("select n from t").fetch_one(db.reader()).await;
    n.map(|n| n.to_string()).map_err(|_failed| StatusCode::INTERNAL_SERVER_ERROR)
}
