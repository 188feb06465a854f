//! Many concurrent requests for one response that no node has stored: how often the handler runs.

use std::fmt::{Display, Formatter};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::routing::get;
use serde::Serialize;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, RedisOptions, Tiered,
    Triggers,
};
use tidegate_testing::{Postgres, RedisServer};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tower::Service;

use crate::Failure;
use crate::output::Output;

/// The number of requests, nodes and rounds.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Number of concurrent requests for one response
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Number of nodes, which share one Redis
    #[arg(long, default_value_t = 4)]
    nodes: usize,
    /// Number of rounds, each for another response
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Time that the handler takes in addition to its read, in milliseconds
    #[arg(long, default_value_t = 50)]
    work: u64,
}

/// The result.
#[derive(Debug, Serialize)]
struct Found {
    bench: &'static str,
    requests: usize,
    nodes: usize,
    /// How often the handler ran in each round.
    with_cache: Vec<u64>,
    without_cache: Vec<u64>,
    /// Statements that handlers sent to the primary, over all rounds with a cache.
    reads: u64,
}

/// The servers, and the counter that all handlers share.
struct World {
    postgres: Postgres,
    redis: RedisServer,
    runs: Arc<AtomicU64>,
}

#[derive(Clone)]
struct Shop {
    db: Database,
    runs: Arc<AtomicU64>,
    work: Duration,
}

pub(crate) async fn run(options: Options, output: Output) -> Result<ExitCode, Failure> {
    if options.requests == 0 || options.nodes == 0 {
        return Err("at least one request and one node are needed".into());
    }
    let world = World::start().await?;
    let mut found = Found {
        bench: "stampede",
        requests: options.requests,
        nodes: options.nodes,
        with_cache: Vec::new(),
        without_cache: Vec::new(),
        reads: 0,
    };
    for cached in [true, false] {
        let mut nodes = Vec::new();
        for _ in 0..options.nodes {
            nodes.push(world.node(&options, cached).await?);
        }
        for round in 0..options.rounds {
            let runs = world.round(&nodes, options.requests, round).await?;
            if cached { &mut found.with_cache } else { &mut found.without_cache }.push(runs);
        }
        if cached {
            let statements =
                |node: &Node| node.db.status().iter().map(|server| server.statements).sum::<u64>();
            found.reads = nodes.iter().map(statements).sum();
        }
    }
    output.print(&found)?;
    let is_one = found.with_cache.iter().all(|runs| *runs == 1);
    Ok(if is_one { ExitCode::SUCCESS } else { ExitCode::from(crate::UNSOUND) })
}

/// One node of a service.
struct Node {
    app: Router,
    db: Database,
    _listener: Option<Listener>,
}

impl World {
    async fn start() -> Result<Self, Failure> {
        let postgres = Postgres::start().await?;
        postgres.psql("create table items (id bigint primary key, price bigint)").await?;
        postgres.psql("insert into items select id, id from generate_series(1, 1000) id").await?;
        let mut conn = PgConnection::connect(&postgres.url()).await?;
        Triggers::new().table("items").install(&mut conn).await?;
        Ok(Self { postgres, redis: RedisServer::start().await?, runs: Arc::default() })
    }

    async fn node(&self, options: &Options, cached: bool) -> Result<Node, Failure> {
        let db = DatabaseOptions::new(self.postgres.url()).connections(8).connect().await?;
        let work = Duration::from_millis(options.work);
        let service = Shop { db: db.clone(), runs: self.runs.clone(), work };
        let app = Router::new().route("/items/{id}", get(item));
        if !cached {
            return Ok(Node { app: app.with_state(service), db, _listener: None });
        }
        let redis = RedisOptions::new(self.redis.url()).connect().await?;
        let cache = Cache::new(Tiered::new(Memory::new(64 << 20), redis));
        let listener = Listener::spawn(&db, &cache).await?;
        let policy = Policy::ttl(Duration::from_secs(600)).tag("items:id={id}");
        let layer = CacheLayer::new(cache).route("/items/{id}", policy).validate()?;
        Ok(Node { app: app.layer(layer).with_state(service), db, _listener: Some(listener) })
    }

    /// Sends all requests at once, spread over all nodes; returns how often the handler ran.
    async fn round(&self, nodes: &[Node], requests: usize, round: u32) -> Result<u64, Failure> {
        let before = self.runs.load(Ordering::Relaxed);
        let start = Arc::new(Barrier::new(requests));
        let mut clients = JoinSet::new();
        for at in 0..requests {
            let (mut app, start) = (nodes[at % nodes.len()].app.clone(), start.clone());
            let request = Request::get(format!("/items/{}", round + 1)).body(Body::empty())?;
            clients.spawn(async move {
                start.wait().await;
                let response = match app.call(request).await {
                    Ok(response) => response,
                    Err(never) => match never {},
                };
                let body = axum::body::to_bytes(response.into_body(), 1 << 10).await;
                body.is_ok_and(|body| body == format!("{}", round + 1))
            });
        }
        while let Some(right) = clients.join_next().await {
            if !right? {
                return Err("a request got a wrong answer".into());
            }
        }
        Ok(self.runs.load(Ordering::Relaxed) - before)
    }
}

async fn item(State(service): State<Shop>, Path(id): Path<i64>) -> Result<String, String> {
    service.runs.fetch_add(1, Ordering::Relaxed);
    let query = sqlx::query_scalar("select price from items where id = $1").bind(id);
    let price: i64 = query.fetch_one(service.db.reader()).await.map_err(|e| e.to_string())?;
    tokio::time::sleep(service.work).await;
    Ok(price.to_string())
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { requests, nodes, with_cache, without_cache, reads, .. } = self;
        writeln!(
            f,
            "{requests} concurrent requests for one response that is not stored, over {nodes} nodes"
        )?;
        writeln!(f, "handler runs in each round")?;
        writeln!(f, "  with the cache     {with_cache:?}")?;
        writeln!(f, "  without the cache  {without_cache:?}")?;
        write!(f, "statements from handlers, all rounds with the cache: {reads}")
    }
}
