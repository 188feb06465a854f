//! The time from a commit until no node serves the previous data.

use std::fmt::{Display, Formatter};
use std::future::ready;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::header::CACHE_CONTROL;
use axum::routing::get;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};
use tidegate_testing::Postgres;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep};
use tower::Service;

use super::pgbench::Load;
use super::spread::quantile;
use crate::Failure;
use crate::output::Output;
use crate::source::Source;

/// The pause between two polls, which limits the precision of the results.
const LOOKS: Duration = Duration::from_micros(100);

/// If a node still serves the previous data after this time, the measurement fails.
const TOO_LONG: Duration = Duration::from_secs(10);

/// The pause between two measured commits.
const PAUSE: Duration = Duration::from_millis(5);

/// The row that is measured. All other writes go to other rows.
const ROW: i64 = 1;
const ROWS: u32 = 100_000;

/// The number of nodes, the duration and the write load.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of nodes
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Duration in seconds: once without other writes, and once more with them
    #[arg(long, default_value_t = 15)]
    seconds: u32,
    /// Rate of other writes per second, each a transaction on one row
    #[arg(long, default_value_t = 5000)]
    rate: u32,
    /// Where nodes learn of changes
    #[arg(long, value_enum, default_value_t = Source::Triggers)]
    source: Source,
}

#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    nodes: usize,
    load: Vec<Measured>,
}

/// Times from the moment when the writer's commit returned until no node served the previous data.
#[derive(Debug, Serialize)]
struct Measured {
    asked_for_per_second: u32,
    /// The rate of other writes that was reached.
    writes_per_second: f64,
    commits: usize,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// All of them, sorted.
    millis: Vec<f64>,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.nodes == 0 || options.seconds == 0 {
        return Err("at least one node and one second are needed".into());
    }
    let mut world = World::start(options.nodes, options.source).await?;
    let mut load = vec![world.measure(options.seconds, 0).await?];
    if options.rate > 0 {
        load.push(world.measure(options.seconds, options.rate).await?);
    }
    output.print(&Found { bench: "staleness", nodes: options.nodes, load })?;
    Ok(ExitCode::SUCCESS)
}

struct World {
    postgres: Postgres,
    writer: PgConnection,
    nodes: Vec<Node>,
}

impl World {
    async fn start(count: usize, source: Source) -> Result<Self, Failure> {
        let settings = [("max_connections", "300"), ("wal_level", "logical")];
        let postgres = Postgres::start_with(&settings).await?;
        postgres.psql(&schema()).await?;
        let mut writer = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().source(source.into()).table("items").install(&mut writer).await?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(Node::start(&postgres.url()).await?);
        }
        Ok(Self { postgres, writer, nodes })
    }

    /// Measures commits during `rate` other writes per second.
    async fn measure(&mut self, seconds: u32, rate: u32) -> Result<Measured, Failure> {
        let Self { postgres, writer, nodes } = self;
        let over = AtomicBool::new(false);
        let load = async {
            let made = load(postgres, seconds, rate).await;
            over.store(true, Ordering::Relaxed);
            made
        };
        let (made, followed) = tokio::join!(load, follow(writer, nodes, &over));
        let mut millis = followed?;
        millis.sort_by(f64::total_cmp);
        if millis.is_empty() {
            return Err("no commit could be followed in that time".into());
        }
        Ok(Measured {
            asked_for_per_second: rate,
            writes_per_second: made?,
            commits: millis.len(),
            p50_ms: quantile(&millis, 500),
            p99_ms: quantile(&millis, 990),
            max_ms: quantile(&millis, 1000),
            millis,
        })
    }
}

fn schema() -> String {
    format!(
        "create table items (id bigint primary key, value bigint) with (fillfactor = 50); \
         insert into items select id, 0 from generate_series(1, {ROWS}) id; \
         vacuum analyze items"
    )
}

/// Writes to other rows; returns the rate that it reached.
async fn load(postgres: &Postgres, seconds: u32, rate: u32) -> Result<f64, Failure> {
    if rate == 0 {
        sleep(Duration::from_secs(seconds.into())).await;
        return Ok(0.0);
    }
    let update = "update items set value = value + 1 where id = :id;";
    let script = format!("\\set id random(2, {ROWS})\n{update}\n");
    let (url, rate) = (postgres.url(), Some(rate.into()));
    let load = Load { url: &url, script: &script, clients: 8, seconds, rate };
    Ok(load.run(postgres, ready(Ok(()))).await?.rate)
}

/// Writes repeatedly, and measures how long any node serves the previous data, in milliseconds.
async fn follow(
    writer: &mut PgConnection,
    nodes: &[Node],
    over: &AtomicBool,
) -> Result<Vec<f64>, Failure> {
    let mut millis = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let mut old = String::new();
        for node in nodes {
            old = node.clone().keep().await?;
        }
        let (watched, runtime) = (nodes.to_vec(), Handle::current());
        let watch = tokio::task::spawn_blocking(move || runtime.block_on(watch(watched, old)));
        let update = sqlx::query("update items set value = value + 1 where id = $1").bind(ROW);
        update.execute(&mut *writer).await?;
        let committed = Instant::now();
        let gone = watch.await??;
        millis.push(gone.saturating_duration_since(committed).as_secs_f64() * 1e3);
        sleep(PAUSE).await;
    }
    Ok(millis)
}

/// Returns when the last node has stopped serving `old`. Runs on a thread of its own.
#[expect(clippy::disallowed_methods, reason = "tokio's timers are too coarse")]
async fn watch(mut nodes: Vec<Node>, old: String) -> Result<Instant, String> {
    let start = Instant::now();
    loop {
        let mut serving = Vec::new();
        for mut node in nodes {
            if node.stored().await.is_some_and(|body| body == old) {
                serving.push(node);
            }
        }
        let now = Instant::now();
        if serving.is_empty() {
            return Ok(now);
        }
        if now - start > TOO_LONG {
            return Err(format!("a node still serves {old} after {TOO_LONG:?}"));
        }
        nodes = serving;
        std::thread::sleep(LOOKS);
    }
}

/// One node of a service.
#[derive(Clone)]
struct Node {
    app: Router,
    _listener: Arc<Listener>,
}

impl Node {
    async fn start(url: &str) -> Result<Self, Failure> {
        let db = DatabaseOptions::new(url).connections(2).connect().await?;
        let cache = Cache::new(Memory::new(16 << 20));
        let listener = Arc::new(Listener::spawn(&db, &cache).await?);
        let policy = Policy::ttl(Duration::from_secs(3600)).tag("items:id={id}");
        let layer = CacheLayer::new(cache).route("/items/{id}", policy).validate()?;
        let app = Router::new().route("/items/{id}", get(item)).layer(layer).with_state(db);
        Ok(Self { app, _listener: listener })
    }

    /// Sends requests until a response is stored; returns its body.
    async fn keep(mut self) -> Result<String, Failure> {
        let start = Instant::now();
        while start.elapsed() < TOO_LONG {
            self.ask("no-transform").await;
            if let Some(kept) = self.stored().await {
                return Ok(kept);
            }
            sleep(Duration::from_millis(1)).await;
        }
        Err("a node does not store its responses".into())
    }

    /// The stored response, without calling the handler.
    async fn stored(&mut self) -> Option<String> {
        self.ask("only-if-cached").await
    }

    /// Sends a request with a directive of RFC 9111, section 5.2.1.
    async fn ask(&mut self, directive: &str) -> Option<String> {
        let path = format!("/items/{ROW}");
        let request = Request::get(path).header(CACHE_CONTROL, directive).body(Body::empty());
        let response = match self.app.call(request.ok()?).await {
            Ok(response) if response.status().is_success() => response,
            Ok(_) => return None,
            Err(never) => match never {},
        };
        let body = axum::body::to_bytes(response.into_body(), 1 << 10).await.ok()?;
        String::from_utf8(body.into()).ok()
    }
}

async fn item(State(db): State<Database>, Path(id): Path<i64>) -> Result<String, String> {
    let query = sqlx::query_scalar("select value from items where id = $1").bind(id);
    let value: i64 = query.fetch_one(db.reader()).await.map_err(|error| error.to_string())?;
    Ok(value.to_string())
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "time from a commit until none of {} nodes serves the previous data, in ms",
            self.nodes
        )?;
        write!(
            f,
            "{:>14}  {:>7}  {:>7} {:>7} {:>7}",
            "other writes/s", "commits", "p50", "p99", "max"
        )?;
        for of in &self.load {
            write!(f, "\n{:>14.0}  {:>7}  ", of.writes_per_second, of.commits)?;
            write!(f, "{:>7.2} {:>7.2} {:>7.2}", of.p50_ms, of.p99_ms, of.max_ms)?;
        }
        Ok(())
    }
}
