//! Several nodes of one service over one Redis and one Postgres.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{ask, calls, eventually, send};
use crate::entries;
use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use redis::cmd;
use sqlx::Connection;
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Guard, Key, Listener, Memory, Policy, Redis,
    Tiered, Triggers, ValuePolicy,
};
use tidegate_testing::{Postgres, RedisServer};

const TTL: Duration = Duration::from_secs(60);

struct World {
    postgres: Postgres,
    redis: RedisServer,
    db: Database,
    /// How often a handler ran, on any node.
    runs: Arc<AtomicUsize>,
}

#[derive(Clone)]
struct Node {
    db: Database,
    runs: Arc<AtomicUsize>,
}

impl World {
    async fn new() -> Self {
        let postgres = Postgres::start().await.unwrap();
        postgres
            .psql("create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 999) i")
            .await
            .unwrap();
        let mut conn = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
        Triggers::new().table("t").install(&mut conn).await.unwrap();
        let db = DatabaseOptions::new(postgres.url()).connect().await.unwrap();
        let redis = RedisServer::start().await.unwrap();
        Self { postgres, redis, db, runs: Arc::default() }
    }

    /// A node, with limits for Redis that a busy test machine keeps to.
    async fn node(&self) -> (Router, Cache) {
        let redis = Redis::connect(self.redis.url()).await.unwrap();
        let patient = Guard::new(redis).read_within(Duration::from_secs(5));
        self.node_over(Tiered::with_guard(Memory::new(16 << 20), patient)).await
    }

    async fn node_over(&self, store: Tiered) -> (Router, Cache) {
        let cache = Cache::new(store);
        Listener::spawn(&self.db, &cache).await.unwrap();
        let policy = Policy::ttl(TTL).tag("t:id={id}").wait(TTL).lease(TTL);
        let app = Router::new()
            .route("/{id}", get(read))
            .route("/cookie/{id}", get(cookie))
            .route("/stream/{id}", get(streaming))
            .layer(
                CacheLayer::new(cache.clone())
                    .route("/{id}", policy.clone())
                    .default_policy(Policy::ttl(TTL).wait(TTL).lease(TTL)),
            )
            .with_state(Node { db: self.db.clone(), runs: self.runs.clone() });
        (app, cache)
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

async fn read(State(node): State<Node>, Path(id): Path<i32>) -> String {
    node.runs.fetch_add(1, Ordering::SeqCst);
    // Slow enough that everyone is there before the first is done.
    let query = sqlx::query_scalar::<_, i32>("select n from t where id = $1").bind(id);
    let n = query.fetch_one(node.db.reader()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    n.to_string()
}

/// An answer that is never stored.
async fn cookie(node: State<Node>, id: Path<i32>) -> ([(&'static str, &'static str); 1], String) {
    ([("set-cookie", "a=b")], read(node, id).await)
}

/// A response that goes on for ever.
async fn streaming(node: State<Node>, id: Path<i32>) -> impl IntoResponse {
    let line = read(node, id).await + "\n";
    let lines = stream::once(ready(Ok::<_, Infallible>(line))).chain(stream::pending());
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines))
}

/// 250 requests to each node for one path, all at once.
async fn storm(nodes: &[&Router], uri: &'static str) {
    let asks = nodes.iter().flat_map(|node| {
        (0..250).map(|_| {
            let node = (*node).clone();
            tokio::spawn(async move { ask(&node, uri).await.0 })
        })
    });
    let asks: Vec<_> = asks.collect();
    let mut bodies = Vec::new();
    for asked in asks {
        bodies.push(asked.await.unwrap());
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stampede_on_four_nodes_runs_the_handler_once() {
    let world = World::new().await;
    let (a, b) = (world.node().await.0, world.node().await.0);
    let (c, d) = (world.node().await.0, world.node().await.0);
    storm(&[&a, &b, &c, &d], "/1").await;
    assert_eq!(world.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stampede_for_an_entry_in_redis_causes_few_reads() {
    let world = World::new().await;
    let (a, b) = (world.node().await.0, world.node().await.0);
    ask(&a, "/1").await;
    eventually("it is in Redis", async || !entries(&world.redis).await.is_empty()).await;
    world.redis.run::<()>(cmd("CONFIG").arg("RESETSTAT")).await.unwrap();
    storm(&[&b], "/1").await;
    let looks = calls(&world.redis, "get").await + calls(&world.redis, "mget").await;
    assert!((1..=25).contains(&looks), "{looks} looks for 250 requests");
    assert_eq!(world.runs(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_one_node_is_served_by_another_and_a_change_reaches_both() {
    let world = World::new().await;
    let ((a, _), (b, _)) = (world.node().await, world.node().await);
    ask(&a, "/1").await;
    eventually("b has it from Redis", async || ask(&b, "/1").await.1.contains("shared")).await;
    assert_eq!(world.runs(), 1);
    world.postgres.psql("update t set n = 7 where id = 1").await.unwrap();
    eventually("a sees it", async || ask(&a, "/1").await.0 == "7").await;
    eventually("b sees it", async || ask(&b, "/1").await.0 == "7").await;
}

/// The lease of a minute is given back, or found to be of no use, long before it ends.
#[tokio::test(flavor = "multi_thread")]
async fn no_node_waits_for_an_entry_that_another_node_cannot_provide() {
    let world = World::new().await;
    let ((a, _), (b, _)) = (world.node().await, world.node().await);
    let rounds = async {
        let (one, other) = tokio::join!(ask(&a, "/cookie/1"), ask(&b, "/cookie/1"));
        assert_eq!((one.0.as_str(), other.0.as_str()), ("0", "0"));
        for n in 1..20 {
            tokio::join!(ask(&a, "/1"), ask(&b, "/1"));
            world.postgres.psql(&format!("update t set n = {n} where id = 1")).await.unwrap();
            let seen = async |node: &Router| {
                eventually("it is seen", async || ask(node, "/1").await.0 == n.to_string()).await;
            };
            tokio::join!(seen(&a), seen(&b));
        }
    };
    assert!(
        tokio::time::timeout(TTL / 2, rounds).await.is_ok(),
        "someone waited for a lease's end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_waits_for_the_end_of_a_stream_on_another_node() {
    let world = World::new().await;
    let ((a, _), (b, _)) = (world.node().await, world.node().await);
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
    assert_eq!(world.runs(), 2);
    drop(on_a);
}

/// A node that starts trusts what the shared store has, as far as the log tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_starting_node_is_warm_and_knows_earlier_changes() {
    let world = World::new().await;
    let (a, cache) = world.node().await;
    eventually("a has looked at the log since it was marked", async || {
        let sql = "select max(lsn) from tidegate.marks where schema is not null";
        let marked = world.postgres.psql(sql).await.unwrap();
        let marked = marked.trim().parse::<tidegate::Position>();
        marked.is_ok_and(|marked| cache.fences().seen().is_some_and(|seen| seen.position > marked))
    })
    .await;
    ask(&a, "/1").await;
    ask(&a, "/2").await;
    world.postgres.psql("update t set n = 7 where id = 2").await.unwrap();
    eventually("they are stored", async || entries(&world.redis).await.len() >= 2).await;
    let (late, _) = world.node().await;
    let (body, status) = ask(&late, "/1").await;
    assert!(body == "0" && status.contains("shared"), "{status}");
    let (body, status) = ask(&late, "/2").await;
    assert!(body == "7" && status.contains("changed"), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_whatever_redis_does() {
    let mut world = World::new().await;
    let (app, _) = world
        .node_over(Tiered::new(
            Memory::new(16 << 20),
            Redis::connect(world.redis.url()).await.unwrap(),
        ))
        .await;
    let all_answer = async |from: u32| {
        for id in from..from + 20 {
            assert_eq!(ask(&app, &format!("/{id}")).await.0, "0");
        }
    };
    world.redis.pause().unwrap();
    all_answer(1).await;
    world.redis.resume().unwrap();
    world.redis.run::<()>(cmd("CONFIG").arg("SET").arg("maxmemory").arg(1)).await.unwrap();
    all_answer(100).await;
    world.redis.kill().await.unwrap();
    all_answer(200).await;
    world.redis.restart().await.unwrap();
    let mut id = 300;
    eventually("Redis is used again", async || {
        id += 1;
        ask(&app, &format!("/{id}")).await;
        !entries(&world.redis).await.is_empty()
    })
    .await;
}

/// An old dump has entries that were valid once: the fences know better.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_restored_from_an_old_dump_serves_nothing_stale() {
    let world = World::new().await;
    let (app, _) = world.node().await;
    ask(&app, "/1").await;
    let mut key = Vec::new();
    eventually("it is stored", async || {
        key = entries(&world.redis).await;
        !key.is_empty()
    })
    .await;
    let old: Vec<u8> = world.redis.run(cmd("GET").arg(&key[0])).await.unwrap();
    world.postgres.psql("update t set n = 7 where id = 1").await.unwrap();
    eventually("the change is seen", async || ask(&app, "/1").await.0 == "7").await;
    world.redis.run::<()>(cmd("SET").arg(&key[0]).arg(&old)).await.unwrap();
    let (fresh, _) = world.node().await;
    for node in [&app, &fresh] {
        assert_eq!(ask(node, "/1").await.0, "7");
    }
}

/// Without a mark of the first node's the second knew nothing of the time before it started.
#[tokio::test]
async fn a_node_that_starts_right_after_another_serves_its_entries() {
    let world = World::new().await;
    let cache = async || {
        let redis = Redis::connect(world.redis.url()).await.unwrap();
        let patient = Guard::new(redis).read_within(Duration::from_secs(5));
        Cache::new(Tiered::with_guard(Memory::new(16 << 20), patient))
    };
    let (key, policy) = (Key::new("first").finish(), ValuePolicy::ttl(TTL).build().unwrap());
    let (first, second) = (cache().await, cache().await);
    // On one thread it is stopped before it looks at the log for a second time.
    Listener::spawn(&world.db, &first).await.unwrap().stop();
    let query = "select n from t where id = 1";
    let load = async || sqlx::query_scalar::<_, i32>(query).fetch_one(world.db.reader()).await;
    assert_eq!(first.get_or_load(&key, &policy, load).await.unwrap(), 0);
    eventually("it is stored", async || !entries(&world.redis).await.is_empty()).await;
    Listener::spawn(&world.db, &second).await.unwrap();
    let load = async || Err::<i32, _>(sqlx::Error::RowNotFound);
    assert_eq!(second.get_or_load(&key, &policy, load).await.unwrap(), 0);
}
