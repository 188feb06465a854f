//! Fills that wait for each other, hang, are slow, fail or stream: one node with default settings, whose database is a
//! primary with a pool of ten connections.
//!
//! Each row counts the requests of clients, those that failed, the slowest response, how often a handler ran and how many
//! fills went on without a permit. The counts, but not the times, have bounds that hold on any machine: the bench fails if
//! one is out of bounds.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use http_body_util::BodyExt;
use sqlx::{Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Event, Listener, Memory, Policy, Triggers,
};
use tidegate_testing::Postgres;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tower::ServiceExt;

use super::Result;
use handlers::{fail, hang, page, query, recover, slowly, stream_slowly};

mod handlers;

const MEMORY: u64 = 64 << 20;
const COLD_KEYS: u32 = 599;
const TTL: Duration = Duration::from_hours(1);

/// A node, and what its handlers share.
struct Node {
    app: Router,
    shared: Shared,
}

#[derive(Clone)]
struct Shared {
    cache: Cache,
    db: Database,
    runs: Arc<AtomicU64>,
}

/// The counts of a row if the cache works.
struct Expected {
    failed: RangeInclusive<usize>,
    runs: RangeInclusive<u64>,
    without: RangeInclusive<u64>,
}

/// The results of some requests.
#[derive(Clone, Copy, Default)]
struct Responses {
    requests: usize,
    failed: usize,
    slowest: Duration,
}

/// Prints all rows. Fails if a count is out of its bounds.
pub(crate) async fn run() -> Result<()> {
    let postgres = Postgres::start().await?;
    postgres.psql("create table items (id int primary key)").await?;
    let mut conn = PgConnection::connect(&postgres.url()).await?;
    Triggers::new().table("items").install(&mut conn).await?;
    println!("what happens | requests | failed | slowest | handler runs | fills without a permit");
    println!("--- | ---: | ---: | ---: | ---: | ---:");
    let mut wrong = Vec::new();
    for permits in [None, Some(8), Some(1)] {
        wrong.extend(pages(&postgres, permits).await?);
    }
    wrong.extend(hanging(&postgres).await?);
    wrong.extend(slow(&postgres).await?);
    wrong.extend(failing(&postgres).await?);
    wrong.extend(cold(&postgres).await?);
    wrong.extend(streams(&postgres).await?);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

/// Pages that are not cached, each computed from one part of its own and one that all share.
async fn pages(postgres: &Postgres, permits: Option<usize>) -> Result<Option<String>> {
    let node = Node::start(postgres, permits).await?;
    let responses = node.ask_all(uris("page", 600)).await;
    let what = match permits {
        None => "600 cold pages at once, each of two cached values (default permits)".to_owned(),
        Some(permits) => format!("the same with permits for {permits}"),
    };
    // With one permit, all but one request may wait until their time is over.
    let without = if permits == Some(1) { 599 } else { 0 };
    Ok(node.print(&what, &responses, &Expected::new(600..=600, without)))
}

/// More fills than there are permits hang, while there are misses on another route.
async fn hanging(postgres: &Postgres) -> Result<Option<String>> {
    let node = Node::start(postgres, None).await?;
    let mut hanging = JoinSet::new();
    for uri in uris("hang", 600) {
        hanging.spawn(node.app.clone().oneshot(request(&uri)));
    }
    let mut responses = Responses::default();
    // Some come while the hanging fills hold or wait for permits, others after these have stopped waiting.
    for batch in 0..30 {
        responses.add(node.ask_all(uris(&format!("query/{batch}"), 10)).await);
        sleep(Duration::from_millis(100)).await;
    }
    hanging.abort_all();
    let what = "300 misses, 10 at a time, while 600 requests for another route hang";
    // All that hang but the 30 that have a permit, and no miss.
    Ok(node.print(what, &responses, &Expected::new(300..=300, 570)))
}

async fn slow(postgres: &Postgres) -> Result<Option<String>> {
    let node = Node::start(postgres, None).await?;
    let responses = node.ask_all(vec!["/slow".to_owned(); 1000]).await;
    let what = "1,000 requests at once for one key, whose handler takes 6 s";
    // One more run every three seconds. A busy machine may be late.
    Ok(node.print(what, &responses, &Expected::new(1..=5, 0)))
}

async fn failing(postgres: &Postgres) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (path, what, failed) in [
        ("/fail", "1,000 at once for one key, whose handler fails after 50 ms", 1000..=1000),
        ("/recover", "the same, where the first run fails and the next one succeeds", 1..=1),
    ] {
        let node = Node::start(postgres, None).await?;
        let responses = node.ask_all(vec![path.to_owned(); 1000]).await;
        // Requests that arrive after the end of a flight begin another one.
        let expected = Expected { failed, ..Expected::new(2..=10, 0) };
        wrong.extend(node.print(what, &responses, &expected));
    }
    Ok(wrong)
}

async fn cold(postgres: &Postgres) -> Result<Option<String>> {
    let node = Node::start(postgres, None).await?;
    let responses = node.ask_all(uris("cold", COLD_KEYS)).await;
    let what = format!("cold start: {COLD_KEYS} keys at once, a query of 150 ms each");
    let runs = u64::from(COLD_KEYS);
    Ok(node.print(&what, &responses, &Expected::new(runs..=runs, 0)))
}

/// When clients get their first byte if a response is already streaming to another client.
async fn streams(postgres: &Postgres) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (delay, when) in [(20, "20 ms"), (1000, "1 s")] {
        let node = Node::start(postgres, None).await?;
        let later = async {
            sleep(Duration::from_millis(delay)).await;
            node.first_bytes(100).await
        };
        let (mut first, later) = tokio::join!(node.first_bytes(1), later);
        first.add(later);
        let what = format!(
            "a response streams for 3 s, and 100 clients request it {when} later: until the first byte"
        );
        // None of them waits for the end of the first stream to share it.
        wrong.extend(node.print(&what, &first, &Expected::new(101..=101, 0)));
    }
    Ok(wrong)
}

impl Node {
    async fn start(postgres: &Postgres, permits: Option<usize>) -> Result<Self> {
        let db = DatabaseOptions::new(postgres.url()).connect().await?;
        let memory = Memory::new(MEMORY);
        let cache = match permits {
            None => Cache::new(memory),
            Some(permits) => Cache::with_limits(memory, 1 << 20, permits),
        };
        Listener::spawn(&db, &cache).await?;
        let shared = Shared { cache, db, runs: Arc::default() };
        let mut layer = CacheLayer::new(shared.cache.clone());
        let mut app = Router::new();
        for (path, handler) in [
            ("/page/{key}", get(page)),
            ("/hang/{key}", get(hang)),
            ("/query/{batch}/{key}", get(query)),
            ("/cold/{key}", get(query)),
            ("/slow", get(slowly)),
            ("/fail", get(fail)),
            ("/recover", get(recover)),
            ("/stream", get(stream_slowly)),
        ] {
            layer = layer.route(path, Policy::ttl(TTL).untracked());
            app = app.route(path, handler);
        }
        let app = app.layer(layer.validate()?).with_state(shared.clone());
        Ok(Self { app, shared })
    }

    /// Requests all at once, and reads the responses to their ends.
    async fn ask_all(&self, uris: Vec<String>) -> Responses {
        let mut tasks = JoinSet::new();
        for uri in uris {
            tasks.spawn(ask(self.app.clone(), uri, false));
        }
        Responses::of(tasks).await
    }

    /// Requests a stream so many times at once: when the first bytes come.
    async fn first_bytes(&self, count: usize) -> Responses {
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            tasks.spawn(ask(self.app.clone(), "/stream".to_owned(), true));
        }
        Responses::of(tasks).await
    }

    /// Prints a row, and says what is wrong with it.
    fn print(&self, what: &str, responses: &Responses, expected: &Expected) -> Option<String> {
        let Responses { requests, failed, slowest } = responses;
        let runs = self.shared.runs.load(Ordering::Relaxed);
        let without = self.shared.cache.counters().event(Event::NoPermit);
        println!(
            "{what} | {requests} | {failed} | {} ms | {runs} | {without}",
            slowest.as_millis()
        );
        let is_right = expected.failed.contains(failed)
            && expected.runs.contains(&runs)
            && expected.without.contains(&without);
        (!is_right).then(|| {
            let Expected { failed, runs, without } = expected;
            format!(
                "{what}: expected {failed:?} failed, {runs:?} runs, {without:?} without a permit"
            )
        })
    }
}

impl Expected {
    /// No request fails, and at most so many fills go on without a permit.
    fn new(runs: RangeInclusive<u64>, without: u64) -> Self {
        Self { failed: 0..=0, runs, without: 0..=without }
    }
}

impl Responses {
    async fn of(mut tasks: JoinSet<(bool, Duration)>) -> Self {
        let mut all = Self::default();
        while let Some(done) = tasks.join_next().await {
            // A handler that panicked has failed too.
            let (is_right, took) = done.unwrap_or_default();
            all.add(Self { requests: 1, failed: usize::from(!is_right), slowest: took });
        }
        all
    }

    fn add(&mut self, more: Self) {
        self.requests += more.requests;
        self.failed += more.failed;
        self.slowest = self.slowest.max(more.slowest);
    }
}

fn uris(path: &str, count: u32) -> Vec<String> {
    (0..count).map(|key| format!("/{path}/{key}")).collect()
}

fn request(uri: &str) -> Request<Body> {
    Request::get(uri).body(Body::empty()).unwrap()
}

/// Whether a response is a success, and how long it took to its end, or to its first byte.
async fn ask(app: Router, uri: String, only_first: bool) -> (bool, Duration) {
    let began = Instant::now();
    let Ok(response) = app.oneshot(request(&uri)).await;
    let is_success = response.status().is_success();
    let mut body = response.into_body();
    if !only_first {
        let is_whole = body.collect().await.is_ok();
        return (is_success && is_whole, began.elapsed());
    }
    let has_begun = matches!(body.frame().await, Some(Ok(_)));
    let took = began.elapsed();
    let is_whole = body.collect().await.is_ok();
    (is_success && has_begun && is_whole, took)
}
