//! Several nodes of one service over one Redis and one Postgres.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{calls, eventually, fetch, send};
use crate::entries;
use crate::world::{World, tiered};
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::middleware::map_request;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use redis::cmd;
use tidegate::{
    Cache, CacheLayer, Database, Key, Listener, Memory, Policy, Redis, Tiered, Triggers,
    ValuePolicy,
};
use tokio::sync::watch;

const TTL: Duration = Duration::from_secs(60);

const TABLE: &str = "create table t (id int primary key, n int);
    insert into t select i, 0 from generate_series(1, 999) i";

/// A service with several nodes.
struct Service {
    world: World,
    shared: Shared,
}

/// What all nodes have in common.
#[derive(Clone)]
struct Shared {
    db: Database,
    /// The number of requests that have reached a node.
    arrived: Arc<AtomicUsize>,
    /// How often a handler ran, on any node.
    runs: Arc<AtomicUsize>,
    /// Whether handlers may respond.
    gate: watch::Sender<bool>,
}

impl Service {
    async fn new() -> Self {
        let world = World::new(TABLE, Triggers::new().table("t")).await;
        let (arrived, runs, gate) = (Arc::default(), Arc::default(), watch::Sender::new(true));
        let shared = Shared { db: world.db.clone(), arrived, runs, gate };
        Self { world, shared }
    }

    async fn node(&self) -> (Router, Cache) {
        let (cache, _) = self.world.node().await;
        (self.router(&cache), cache)
    }

    fn router(&self, cache: &Cache) -> Router {
        let policy = Policy::ttl(TTL).wait(TTL).lease(TTL);
        let layer = CacheLayer::new(cache.clone())
            .route("/{id}", policy.clone().tag("t:id={id}"))
            .default_policy(policy);
        let arrived = self.shared.arrived.clone();
        let arrives = move |request: Request<Body>| {
            arrived.fetch_add(1, Ordering::SeqCst);
            ready(request)
        };
        Router::new()
            .route("/{id}", get(read))
            .route("/cookie/{id}", get(cookie))
            .route("/stream/{id}", get(streaming))
            .layer(layer)
            .layer(map_request(arrives))
            .with_state(self.shared.clone())
    }

    fn runs(&self) -> usize {
        self.shared.runs.load(Ordering::SeqCst)
    }

    /// Sends requests whose handlers respond only once so many requests have arrived, and so many nodes have tried to take
    /// a lease.
    async fn together<T>(&self, requests: usize, leases: usize, all: impl Future<Output = T>) -> T {
        let arrived = || self.shared.arrived.load(Ordering::SeqCst);
        // A lease is taken by SET.
        let sets = async || calls(&self.world.redis, "set").await;
        let (requests, leases) = (arrived() + requests, sets().await + leases);
        self.shared.gate.send_replace(false);
        let open = async {
            eventually("all requests arrive", async || arrived() >= requests).await;
            eventually("each node tries to take a lease", async || sets().await >= leases).await;
            self.shared.gate.send_replace(true);
        };
        tokio::join!(all, open).0
    }
}

async fn read(State(shared): State<Shared>, Path(id): Path<i32>) -> String {
    shared.runs.fetch_add(1, Ordering::SeqCst);
    let query = sqlx::query_scalar::<_, i32>("select n from t where id = $1").bind(id);
    let n = query.fetch_one(shared.db.reader()).await.unwrap();
    shared.gate.subscribe().wait_for(|is_open| *is_open).await.unwrap();
    n.to_string()
}

/// A response that is never stored.
async fn cookie(
    shared: State<Shared>,
    id: Path<i32>,
) -> ([(&'static str, &'static str); 1], String) {
    ([("set-cookie", "a=b")], read(shared, id).await)
}

/// A response that goes on for ever.
async fn streaming(shared: State<Shared>, id: Path<i32>) -> impl IntoResponse {
    let line = read(shared, id).await + "\n";
    let lines = stream::once(ready(Ok::<_, Infallible>(line))).chain(stream::pending());
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines))
}

/// The number of requests that a storm sends to each node.
const STORM: usize = 250;

/// Many requests to each node for one path, all at once.
async fn storm(nodes: &[&Router], uri: &'static str) {
    let requests = nodes.iter().flat_map(|node| {
        (0..STORM).map(|_| {
            let node = (*node).clone();
            tokio::spawn(async move { fetch(&node, uri).await.0 })
        })
    });
    let requests: Vec<_> = requests.collect();
    let mut bodies = Vec::new();
    for request in requests {
        bodies.push(request.await.unwrap());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stampede_on_four_nodes_runs_the_handler_once() {
    let service = Service::new().await;
    let (a, b) = (service.node().await.0, service.node().await.0);
    let (c, d) = (service.node().await.0, service.node().await.0);
    service.together(4 * STORM, 4, storm(&[&a, &b, &c, &d], "/1")).await;
    assert_eq!(service.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stampede_for_an_entry_in_redis_causes_few_reads() {
    let service = Service::new().await;
    let (a, b) = (service.node().await.0, service.node().await.0);
    fetch(&a, "/1").await;
    eventually("it is in Redis", async || !entries(&service.world.redis).await.is_empty()).await;
    service.world.redis.run::<()>(cmd("CONFIG").arg("RESETSTAT")).await.unwrap();
    storm(&[&b], "/1").await;
    let looks =
        calls(&service.world.redis, "get").await + calls(&service.world.redis, "mget").await;
    assert!((1..=25).contains(&looks), "{looks} looks for 250 requests");
    assert_eq!(service.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_one_node_is_served_by_another_and_a_change_reaches_both() {
    let service = Service::new().await;
    let ((a, _), (b, _)) = (service.node().await, service.node().await);
    fetch(&a, "/1").await;
    eventually("b has it from Redis", async || fetch(&b, "/1").await.1.contains("shared")).await;
    assert_eq!(service.runs(), 1);
    service.world.postgres.psql("update t set n = 7 where id = 1").await.unwrap();
    eventually("a sees it", async || fetch(&a, "/1").await.0 == "7").await;
    eventually("b sees it", async || fetch(&b, "/1").await.0 == "7").await;
}

/// The lease of a minute is given back, or found to be of no use, long before it ends.
#[tokio::test(flavor = "multi_thread")]
async fn no_node_waits_for_an_entry_that_another_node_cannot_provide() {
    let service = Service::new().await;
    let ((a, _), (b, _)) = (service.node().await, service.node().await);
    let rounds = async {
        let both = futures_util::future::join(fetch(&a, "/cookie/1"), fetch(&b, "/cookie/1"));
        let (one, other) = service.together(2, 2, both).await;
        assert_eq!((one.0.as_str(), other.0.as_str()), ("0", "0"));
        for n in 1..20 {
            tokio::join!(fetch(&a, "/1"), fetch(&b, "/1"));
            service
                .world
                .postgres
                .psql(&format!("update t set n = {n} where id = 1"))
                .await
                .unwrap();
            let seen = async |node: &Router| {
                eventually("it is seen", async || fetch(node, "/1").await.0 == n.to_string()).await;
            };
            service.together(0, 2, futures_util::future::join(seen(&a), seen(&b))).await;
        }
    };
    assert!(
        tokio::time::timeout(TTL / 2, rounds).await.is_ok(),
        "someone waited for a lease's end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_waits_for_the_end_of_a_stream_on_another_node() {
    let service = Service::new().await;
    let ((a, _), (b, _)) = (service.node().await, service.node().await);
    let first_line = async |node: &Router| {
        let request = Request::get("/stream/1").body(Body::empty()).unwrap();
        let mut response = send(node, request).await;
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "0\n");
        response
    };
    let on_a = first_line(&a).await;
    let on_b = tokio::time::timeout(TTL / 2, first_line(&b)).await;
    assert!(on_b.is_ok(), "someone waited for a lease's end");
    assert_eq!(service.runs(), 2);
    drop(on_a);
}

/// A node that starts trusts the entries in the shared store that the log does not invalidate.
#[tokio::test(flavor = "multi_thread")]
async fn a_starting_node_is_warm_and_knows_earlier_changes() {
    let service = Service::new().await;
    let (a, cache) = service.node().await;
    eventually("a has looked at the log since it was marked", async || {
        let sql = "select max(lsn) from tidegate.marks where schema is not null";
        let marked = service.world.postgres.psql(sql).await.unwrap();
        let marked = marked.trim().parse::<tidegate::Position>();
        marked.is_ok_and(|marked| cache.fences().seen().is_some_and(|seen| seen.position > marked))
    })
    .await;
    fetch(&a, "/1").await;
    fetch(&a, "/2").await;
    service.world.postgres.psql("update t set n = 7 where id = 2").await.unwrap();
    eventually("they are stored", async || entries(&service.world.redis).await.len() >= 2).await;
    let (late, _) = service.node().await;
    let (body, status) = fetch(&late, "/1").await;
    assert!(body == "0" && status.contains("shared"), "{status}");
    let (body, status) = fetch(&late, "/2").await;
    assert!(body == "7" && status.contains("changed"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_whatever_redis_does() {
    let mut service = Service::new().await;
    let redis = Redis::connect(service.world.redis.url()).await.unwrap();
    let cache = Cache::new(Tiered::new(Memory::new(16 << 20), redis));
    Listener::spawn(&service.world.db, &cache).await.unwrap();
    let app = service.router(&cache);
    let all_succeed = async |from: u32| {
        for id in from..from + 20 {
            assert_eq!(fetch(&app, &format!("/{id}")).await.0, "0");
        }
    };
    service.world.redis.pause().unwrap();
    all_succeed(1).await;
    service.world.redis.resume().unwrap();
    service.world.redis.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await.unwrap();
    all_succeed(100).await;
    service.world.redis.kill().await.unwrap();
    all_succeed(200).await;
    service.world.redis.restart().await.unwrap();
    let mut id = 300;
    eventually("Redis is used again", async || {
        id += 1;
        fetch(&app, &format!("/{id}")).await;
        !entries(&service.world.redis).await.is_empty()
    })
    .await;
}

/// An old dump has entries that were valid once: the fences know better.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restored_from_an_old_dump_serves_nothing_stale() {
    let service = Service::new().await;
    let (app, _) = service.node().await;
    fetch(&app, "/1").await;
    let mut key = Vec::new();
    eventually("it is stored", async || {
        key = entries(&service.world.redis).await;
        !key.is_empty()
    })
    .await;
    let old: Vec<u8> = service.world.redis.run(cmd("GET").arg(&key[0])).await.unwrap();
    service.world.postgres.psql("update t set n = 7 where id = 1").await.unwrap();
    eventually("the change is seen", async || fetch(&app, "/1").await.0 == "7").await;
    service.world.redis.run::<()>(cmd("SET").arg(&key[0]).arg(&old)).await.unwrap();
    let (fresh, _) = service.node().await;
    for node in [&app, &fresh] {
        assert_eq!(fetch(node, "/1").await.0, "7");
    }
}

/// Without a mark of the first node's the second knew nothing of the time before it started.
#[tokio::test]
async fn a_node_that_starts_right_after_another_serves_its_entries() {
    let service = Service::new().await;
    let cache = async || tiered(Redis::connect(service.world.redis.url()).await.unwrap());
    let (key, policy) = (Key::new("first").finish(), ValuePolicy::ttl(TTL).build().unwrap());
    let (first, second) = (cache().await, cache().await);
    // On one thread it is stopped before it looks at the log for a second time.
    Listener::spawn(&service.world.db, &first).await.unwrap().stop();
    let query = "select n from t where id = 1";
    let load =
        async || sqlx::query_scalar::<_, i32>(query).fetch_one(service.world.db.reader()).await;
    assert_eq!(first.get_or_load(&key, &policy, load).await.unwrap(), 0);
    eventually("it is stored", async || !entries(&service.world.redis).await.is_empty()).await;
    Listener::spawn(&service.world.db, &second).await.unwrap();
    let load = async || Err::<i32, _>(sqlx::Error::RowNotFound);
    assert_eq!(second.get_or_load(&key, &policy, load).await.unwrap(), 0);
}
