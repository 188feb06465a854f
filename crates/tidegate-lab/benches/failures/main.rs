//! What clients notice when something fails: `cargo bench -p tidegate-lab --bench failures`. With `-- servers` or
//! `-- fills`, it prints only one of its two tables.
//!
//! In the first, 64 clients continuously request a thousand rows from two nodes on a primary, a replica and Redis, while
//! rows are written. One thing after another fails. Each line has the number of requests and of failed ones, the slowest
//! response, the largest number of concurrent computations, the number of computed responses (each with one read of the
//! database), and the longest time without a write. The events include transactions that change more rows than a node
//! reads from the log. At the end, 512 clients come to nodes with empty caches.
//!
//! The bench fails if a request failed, or if more responses were computed at once than the nodes have permits for.
//!
//! The second table is about fills: see `fills`.

#![allow(missing_docs, clippy::unwrap_used, clippy::panic)]

use std::error::Error;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use http_body_util::BodyExt;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, RedisOptions, Tiered,
    Triggers,
};
use tidegate_testing::{FaultProxy, Postgres, RedisServer};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;

mod fills;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const ROWS: u32 = 1000;
const NODES: usize = 2;
const CLIENTS: usize = 64;
const CROWD: usize = 512;
/// The number of responses that a node computes at a time.
const LOADS: usize = 32;
const WINDOW: Duration = Duration::from_secs(5);
const BETWEEN_WRITES: Duration = Duration::from_millis(20);

/// Counts since the last line of the table.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
    slowest: AtomicU64,
    making: AtomicU64,
    most: AtomicU64,
    made: AtomicU64,
    unwritten: AtomicU64,
}

struct World {
    primary: Postgres,
    replica: Postgres,
    heir: Postgres,
    redis: RedisServer,
    /// The primary, by the name that follows it.
    name: FaultProxy,
    load: Arc<Load>,
    /// The rows that show an error.
    wrong: Vec<String>,
}

/// What clients and the writer share.
struct Load {
    nodes: RwLock<Vec<Router>>,
    counts: Arc<Counts>,
    over: AtomicBool,
}

#[tokio::main]
async fn main() -> Result<()> {
    let asked: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let is_asked = |table: &str| asked.is_empty() || asked.iter().any(|word| word == table);
    if is_asked("servers") {
        servers().await?;
    }
    if is_asked("fills") {
        fills::run().await?;
    }
    Ok(())
}

/// One thing after another fails, under load.
async fn servers() -> Result<()> {
    let mut world = World::start().await?;
    let mut tasks = JoinSet::new();
    for _ in 0..CLIENTS {
        tasks.spawn(world.load.clone().ask());
    }
    tasks.spawn(world.load.clone().write(url(&world.name)));
    world.window().await;
    world.load.counts.take();
    println!("what happens | requests | failed | slowest | at once | computed | no write for");
    println!("--- | ---: | ---: | ---: | ---: | ---: | ---:");
    world.run().await?;
    world.load.over.store(true, Ordering::Relaxed);
    tasks.join_all().await;
    world.cold_start().await?;
    if world.wrong.is_empty() { Ok(()) } else { Err(world.wrong.join("\n").into()) }
}

impl World {
    async fn start() -> Result<Self> {
        let primary = Postgres::start_with(&[("max_connections", "300")]).await?;
        let table = "create table items (id int primary key, n bigint not null);
            insert into items select id, 0 from generate_series(0, 999) id";
        primary.psql(table).await?;
        let mut conn = PgConnection::connect(&primary.url()).await?;
        Triggers::new().table("items").install(&mut conn).await?;
        let (replica, heir) = (primary.standby().await?, primary.standby().await?);
        let (redis, name) = (RedisServer::start().await?, FaultProxy::start(primary.addr()).await?);
        let counts = Arc::new(Counts::default());
        let load = Load { nodes: RwLock::default(), counts, over: AtomicBool::new(false) };
        let (load, wrong) = (Arc::new(load), Vec::new());
        let world = Self { primary, replica, heir, redis, name, load, wrong };
        world.start_nodes(&world.replica.url()).await?;
        Ok(world)
    }

    async fn start_nodes(&self, replica: &str) -> Result<()> {
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let db = DatabaseOptions::new(url(&self.name)).replica(replica).connect().await?;
            let redis = RedisOptions::new(self.redis.url()).connect().await?;
            let store = Tiered::new(Memory::new(16 << 20), redis);
            let cache = Cache::with_limits(store, 8 << 20, LOADS);
            Listener::spawn(&db, &cache).await?;
            let policy = Policy::ttl(Duration::from_mins(10)).tag("items:id={id}");
            let layer = CacheLayer::new(cache).route("/items/{id}", policy);
            let app = Router::new().route("/items/{id}", get(item)).layer(layer);
            nodes.push(app.with_state((db, self.load.counts.clone())));
        }
        *self.load.nodes.write().unwrap() = nodes;
        Ok(())
    }

    /// One failure after another.
    async fn run(&mut self) -> Result<()> {
        self.window().await;
        self.print("nothing");
        self.large(10_000, 100).await?;
        self.print("a transaction of 10,000 statements of 100 rows, and 5 s after it");
        self.large(1_000_000, 1).await?;
        self.print("a transaction of a million statements of one row, and 5 s after it");
        self.redis.kill().await?;
        self.window().await;
        self.print("Redis is killed");
        self.redis.restart().await?;
        self.window().await;
        self.print("Redis is back, empty");
        self.redis.pause()?;
        self.window().await;
        self.print("Redis hangs");
        self.redis.resume()?;
        self.window().await;
        self.print("Redis goes on");
        self.replica.kill().await?;
        self.window().await;
        self.print("the replica is killed");
        self.replica.restart().await?;
        self.window().await;
        self.print("the replica is back");
        let listeners = "select pg_terminate_backend(pid) from pg_stat_activity
            where query ~ 'tidegate' and pid <> pg_backend_pid()";
        self.primary.psql(listeners).await?;
        self.window().await;
        self.print("the listeners' connections are killed");
        self.primary.kill().await?;
        sleep(Duration::from_secs(2)).await;
        self.heir.promote().await?;
        self.name.retarget(self.heir.addr());
        self.name.cut();
        self.name.heal().await?;
        self.window().await;
        self.print("the primary is killed, a standby promoted 2 s later");
        self.window().await;
        self.print("after that");
        Ok(())
    }

    /// Sends all requests at once to nodes with empty caches.
    async fn cold_start(&mut self) -> Result<()> {
        let replica = self.heir.standby().await?;
        self.redis.run::<()>(&redis::cmd("FLUSHALL")).await?;
        self.start_nodes(&replica.url()).await?;
        self.load.over.store(false, Ordering::Relaxed);
        self.load.counts.take();
        let clients: JoinSet<_> = (0..CROWD).map(|_| self.load.clone().ask()).collect();
        sleep(WINDOW).await;
        self.load.over.store(true, Ordering::Relaxed);
        clients.join_all().await;
        self.print("512 clients at once, nodes that have just started");
        Ok(())
    }

    /// One transaction with many statements, on the table that clients read, but on other rows.
    async fn large(&self, statements: u32, rows: u32) -> Result<()> {
        let large = format!(
            "do $$ declare first int; begin
                select max(id) + 1 into first from items;
                for statement in 1..{statements} loop
                    insert into items select first + g, 0 from generate_series(0, {rows} - 1) g;
                    first := first + {rows};
                end loop;
            end $$"
        );
        self.primary.psql(&large).await?;
        self.window().await;
        Ok(())
    }

    async fn window(&self) {
        sleep(WINDOW).await;
    }

    fn print(&mut self, what: &str) {
        let [requests, failed, slowest, most, made, unwritten] = self.load.counts.take();
        let [slowest, unwritten] = [slowest, unwritten].map(|micros| micros / 1000);
        println!(
            "{what} | {requests} | {failed} | {slowest} ms | {most} | {made} | {unwritten} ms"
        );
        let permits = (NODES * LOADS) as u64;
        if failed > 0 || most > permits {
            self.wrong
                .push(format!("{what}: expected none to fail, and at most {permits} at once"));
        }
    }
}

impl Counts {
    /// Returns the counts and resets them.
    fn take(&self) -> [u64; 6] {
        let Self { requests, failed, slowest, most, made, unwritten, .. } = self;
        let counts = [requests, failed, slowest, most, made, unwritten];
        counts.map(|count| count.swap(0, Ordering::Relaxed))
    }
}

impl Load {
    /// Asks for one row after another.
    async fn ask(self: Arc<Self>) {
        while !self.over.load(Ordering::Relaxed) {
            let app = {
                let nodes = self.nodes.read().unwrap();
                nodes[fastrand::usize(..nodes.len())].clone()
            };
            let request = Request::get(format!("/items/{}", fastrand::u32(..ROWS)));
            let began = Instant::now();
            let Ok(answer) = app.oneshot(request.body(Body::empty()).unwrap()).await;
            let failed =
                !answer.status().is_success() || answer.into_body().collect().await.is_err();
            self.counts.requests.fetch_add(1, Ordering::Relaxed);
            self.counts.failed.fetch_add(u64::from(failed), Ordering::Relaxed);
            self.counts.slowest.fetch_max(micros(began), Ordering::Relaxed);
            // Some thousand requests a second in all, so that the servers have room on two cores.
            sleep(Duration::from_millis(fastrand::u64(..20))).await;
        }
    }

    /// Writes to one row after another, for as long as there is a primary.
    async fn write(self: Arc<Self>, url: String) {
        let (mut conn, mut written) = (None, Instant::now());
        while !self.over.load(Ordering::Relaxed) {
            sleep(BETWEEN_WRITES).await;
            let write = async {
                let mut conn = match conn.take() {
                    Some(conn) => conn,
                    None => PgConnection::connect(&url).await?,
                };
                let update = sqlx::query("update items set n = n + 1 where id = $1");
                let id = i32::try_from(fastrand::u32(..ROWS)).unwrap();
                update.bind(id).execute(&mut conn).await.map(|_| conn)
            };
            conn = timeout(Duration::from_secs(1), write).await.ok().and_then(sqlx::Result::ok);
            if conn.is_some() {
                self.counts.unwritten.fetch_max(micros(written), Ordering::Relaxed);
                written = Instant::now();
            }
        }
    }
}

type Shared = (Database, Arc<Counts>);
type Answer = std::result::Result<String, StatusCode>;

async fn item(State((db, counts)): State<Shared>, Path(id): Path<i32>) -> Answer {
    let making = counts.making.fetch_add(1, Ordering::Relaxed) + 1;
    counts.most.fetch_max(making, Ordering::Relaxed);
    counts.made.fetch_add(1, Ordering::Relaxed);
    let query = sqlx::query_scalar("select n from items where id = $1").bind(id);
    let n: sqlx::Result<i64> = query.fetch_one(db.reader()).await;
    counts.making.fetch_sub(1, Ordering::Relaxed);
    n.map(|n| n.to_string()).map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn url(name: &FaultProxy) -> String {
    format!("postgres://postgres@{}/postgres", name.addr())
}
