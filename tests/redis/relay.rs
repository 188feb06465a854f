//! One node polls the log for all nodes that share a Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{eventually, fetch, read, send};
use crate::world::{World, tiered};
use axum::Router;
use axum::extract::State;
use axum::http::Request;
use axum::routing::get;
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Listener, Policy, RedisOptions, RelayRole,
    Sessions, Triggers,
};
use tidegate_testing::FaultProxy;

const TTL: Duration = Duration::from_mins(10);

/// Servers, and the nodes of a service on them.
struct Service {
    world: World,
    /// How often the handler ran, on any node.
    runs: Arc<AtomicUsize>,
}

struct Node {
    app: Router,
    cache: Cache,
    listener: Listener,
}

type Shared = (Database, Arc<AtomicUsize>);

impl Service {
    async fn new() -> Self {
        let (settings, table) =
            ([("max_connections", "200")], "create table t (n bigint); insert into t values (0)");
        let world = World::with(&settings, table, Triggers::new().table("t")).await;
        Self { world, runs: Arc::default() }
    }

    async fn node(&self) -> Node {
        self.node_with(RedisOptions::new(self.world.redis.url())).await
    }

    async fn node_with(&self, redis: RedisOptions) -> Node {
        self.node_of(&self.world.db, redis).await
    }

    async fn node_of(&self, db: &Database, redis: RedisOptions) -> Node {
        let cache = tiered(redis.connections(1).connect().await.unwrap());
        let listener = Listener::spawn(db, &cache).await.unwrap();
        let policy = Policy::ttl(TTL).wait(TTL).lease(TTL);
        let layer = CacheLayer::new(cache.clone())
            .default_policy(policy)
            .sessions(Sessions::new("the same on every node").unwrap());
        let app = Router::new()
            .route("/", get(value).put(write))
            .layer(layer)
            .with_state((db.clone(), self.runs.clone()));
        Node { app, cache, listener }
    }

    /// Nodes of which one polls the log for all.
    async fn nodes(&self, number: usize) -> Vec<Node> {
        let mut nodes = Vec::new();
        for _ in 0..number {
            nodes.push(self.node().await);
        }
        settled(&nodes).await;
        nodes
    }

    async fn set(&self, n: usize) {
        self.world.postgres.psql(&format!("update t set n = {n}")).await.unwrap();
    }

    async fn listeners(&self) -> usize {
        let sql = "select count(*) from pg_stat_activity
            where datname = 'postgres' and query not like '%pg_stat_activity%'
            and query ~ 'tidegate|LISTEN'";
        self.world.postgres.psql(sql).await.unwrap().parse().unwrap()
    }
}

async fn value(State((db, runs)): State<Shared>) -> String {
    runs.fetch_add(1, Ordering::SeqCst);
    let n: i64 = sqlx::query_scalar("select n from t").fetch_one(db.reader()).await.unwrap();
    n.to_string()
}

async fn write(State((db, _)): State<Shared>, n: String) {
    let n: i64 = n.parse().unwrap();
    sqlx::query("update t set n = $1").bind(n).execute(db.writer()).await.unwrap();
}

fn roles(nodes: &[Node], role: RelayRole) -> usize {
    nodes.iter().filter(|node| node.listener.role() == role).count()
}

/// Waits until one node polls the log for all.
async fn settled(nodes: &[Node]) {
    eventually("one node polls the log for all", async || {
        roles(nodes, RelayRole::Relay) == 1 && roles(nodes, RelayRole::Follower) == nodes.len() - 1
    })
    .await;
}

async fn all_see(nodes: &[Node], n: usize) {
    for node in nodes {
        eventually("a write is seen", async || fetch(&node.app, "/").await.0 == n.to_string())
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_polls_the_log_for_all() {
    let service = Service::new().await;
    let nodes = service.nodes(5).await;
    eventually("the others let go of the primary", async || service.listeners().await <= 2).await;
    let looks = |nodes: &[Node]| {
        let relayed = nodes.iter().filter(|node| node.listener.role() == RelayRole::Follower);
        relayed.map(|node| node.listener.polls()).sum::<u64>()
    };
    let before = looks(&nodes);
    for n in 1..20 {
        service.set(n).await;
        all_see(&nodes, n).await;
    }
    assert_eq!(looks(&nodes), before, "a relayed node polled the log itself");
    let ages = nodes.iter().map(|node| node.cache.fences().age());
    assert!(ages.flatten().all(|age| age < Duration::from_secs(5)));
}

/// If each node polled the log itself, it would have its own fence for the write, and reject entries of other nodes as a
/// little too old.
#[tokio::test(flavor = "multi_thread")]
async fn one_write_causes_one_refill_for_all_nodes() {
    let service = Service::new().await;
    let nodes = service.nodes(10).await;
    all_see(&nodes, 0).await;
    let before = service.runs.load(Ordering::SeqCst);
    for n in 1..=20 {
        service.set(n).await;
        all_see(&nodes, n).await;
        // And again, now that each knows of the write for certain.
        all_see(&nodes, n).await;
    }
    assert_eq!(service.runs.load(Ordering::SeqCst) - before, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_stops_is_replaced() {
    let service = Service::new().await;
    let mut nodes = service.nodes(4).await;
    let relay = nodes.iter().position(|node| node.listener.role() == RelayRole::Relay).unwrap();
    nodes.remove(relay).listener.stop();
    service.set(1).await;
    all_see(&nodes, 1).await;
    settled(&nodes).await;
    service.set(2).await;
    all_see(&nodes, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_loses_the_primary_hands_over_its_leadership() {
    let service = Service::new().await;
    let proxy = FaultProxy::start(service.world.postgres.addr()).await.unwrap();
    let listen = format!("postgres://postgres@{}/postgres", proxy.addr());
    let options = DatabaseOptions::new(service.world.postgres.url()).listen_url(listen);
    let redis = || RedisOptions::new(service.world.redis.url());
    let first = service.node_of(&options.connect().await.unwrap(), redis()).await;
    eventually("it is elected", async || first.listener.role() == RelayRole::Relay).await;
    let second = service.node().await;
    let nodes = [first, second];
    settled(&nodes).await;
    proxy.cut();
    eventually("the other is elected and relays to the first", async || {
        nodes[1].listener.role() == RelayRole::Relay
    })
    .await;
    service.set(1).await;
    all_see(&nodes[1..], 1).await;
    proxy.heal().await.unwrap();
    settled(&nodes).await;
    all_see(&nodes, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_each_node_polls_the_log_itself() {
    let mut service = Service::new().await;
    let nodes = service.nodes(3).await;
    service.world.redis.kill().await.unwrap();
    eventually("each polls the log itself", async || roles(&nodes, RelayRole::Standalone) == 3)
        .await;
    service.set(1).await;
    all_see(&nodes, 1).await;
    service.world.redis.restart().await.unwrap();
    settled(&nodes).await;
    service.set(2).await;
    all_see(&nodes, 2).await;
}

/// Messages that were published meanwhile never arrive. The node notices the gap, or that nobody replies.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_receives_no_messages_polls_the_log_itself() {
    let service = Service::new().await;
    let line = FaultProxy::start(service.world.redis.addr()).await.unwrap();
    let url = format!("redis://{}/", line.addr());
    let mut nodes = service.nodes(2).await;
    nodes.push(service.node_with(RedisOptions::new(url)).await);
    settled(&nodes).await;
    line.freeze();
    service.set(1).await;
    all_see(&nodes, 1).await;
    assert_eq!(nodes[2].listener.role(), RelayRole::Standalone);
    line.heal().await.unwrap();
    settled(&nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_writes_on_every_node() {
    let service = Service::new().await;
    let nodes = service.nodes(4).await;
    for n in 1..=50 {
        let write = Request::put("/").body(n.to_string().into()).unwrap();
        let written = send(&nodes[n % 4].app, write).await;
        let token = written.headers()["tidegate-position"].clone();
        for node in &nodes {
            let request = Request::get("/").header("tidegate-position", &token);
            let response = send(&node.app, request.body(axum::body::Body::empty()).unwrap()).await;
            assert_eq!(read(response).await.0, n.to_string());
        }
    }
    assert_eq!(roles(&nodes, RelayRole::Follower), 3, "one node polled the log for all, all along");
}

/// The old primary still runs, and the relay's connection leads to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_wrote_on_a_new_primary_gets_no_response_from_the_old_one() {
    let service = Service::new().await;
    let standby = service.world.postgres.standby().await.unwrap();
    let name = FaultProxy::start(service.world.postgres.addr()).await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", name.addr());
    let redis = || RedisOptions::new(service.world.redis.url());
    let mut nodes = Vec::new();
    for _ in 0..3 {
        let db = DatabaseOptions::new(&url).connect().await.unwrap();
        nodes.push(service.node_of(&db, redis()).await);
    }
    settled(&nodes).await;
    all_see(&nodes, 0).await;
    standby.promote().await.unwrap();
    name.retarget(standby.addr());
    let direct = DatabaseOptions::new(standby.url()).connect().await.unwrap();
    let elsewhere = service.node_of(&direct, redis().relay(false)).await;
    let written = send(&elsewhere.app, Request::put("/").body("7".into()).unwrap()).await;
    let token = written.headers()["tidegate-position"].clone();
    for node in &nodes {
        let request = Request::get("/").header("tidegate-position", &token);
        let response = send(&node.app, request.body(axum::body::Body::empty()).unwrap()).await;
        assert_eq!(read(response).await.0, "7");
    }
}

/// It has missed nothing, and sends sync requests again while it can't read the log itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_the_primary_refuses_follows_the_next_relay() {
    let service = Service::new().await;
    let line = FaultProxy::start(service.world.postgres.addr()).await.unwrap();
    let listen = format!("postgres://postgres@{}/postgres", line.addr());
    let options = DatabaseOptions::new(service.world.postgres.url()).listen_url(listen);
    let refused = options.connect().await.unwrap();
    let bus = FaultProxy::start(service.world.redis.addr()).await.unwrap();
    let first = service.node().await;
    eventually("it is elected", async || first.listener.role() == RelayRole::Relay).await;
    let second = service.node_with(RedisOptions::new(format!("redis://{}/", bus.addr()))).await;
    let third = service.node_of(&refused, RedisOptions::new(service.world.redis.url())).await;
    let nodes = [first, second, third];
    settled(&nodes).await;
    line.cut();
    // The second can't be elected yet.
    bus.freeze();
    let [first, second, third] = nodes;
    first.listener.stop();
    let age = || third.cache.fences().age().unwrap();
    eventually("it has left the relay", async || age() > Duration::from_secs(2)).await;
    bus.heal().await.unwrap();
    eventually("it follows the next one", async || age() < Duration::from_secs(1)).await;
    assert_eq!(second.listener.role(), RelayRole::Relay);
}

/// No trigger reports it.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_reaches_every_node_with_one_floor() {
    let service = Service::new().await;
    let nodes = service.nodes(3).await;
    let floors = |nodes: &[Node]| -> Vec<_> {
        nodes.iter().map(|node| node.cache.fences().floor()).collect()
    };
    let before = floors(&nodes);
    service.world.postgres.psql("alter table t add column m int").await.unwrap();
    eventually("everything is invalidated", async || {
        floors(&nodes).iter().zip(&before).all(|(now, before)| now > before)
    })
    .await;
    let after = floors(&nodes);
    assert!(after.iter().all(|floor| *floor == after[0]), "by one look: {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_without_the_relay_each_poll_the_log_themselves() {
    let service = Service::new().await;
    let alone = || RedisOptions::new(service.world.redis.url()).relay(false);
    let nodes = [service.node_with(alone()).await, service.node_with(alone()).await];
    service.set(1).await;
    all_see(&nodes, 1).await;
    let before = nodes.each_ref().map(|node| node.listener.polls());
    eventually("both poll", async || {
        nodes.iter().zip(before).all(|(node, before)| node.listener.polls() > before)
    })
    .await;
    assert_eq!(roles(&nodes, RelayRole::Standalone), 2);
}

/// Forged batches and sync requests, unsigned, on the very channels that the nodes use.
#[tokio::test(flavor = "multi_thread")]
async fn security_nodes_that_share_a_secret_ignore_forged_messages() {
    let service = Service::new().await;
    let options =
        || RedisOptions::new(service.world.redis.url()).secrets(["the secret of this service"]);
    let nodes = vec![service.node_with(options()).await, service.node_with(options()).await];
    settled(&nodes).await;
    service.set(1).await;
    all_see(&nodes, 1).await;
    let refused = || nodes.iter().map(|node| node.cache.store_status().refused).sum::<u64>();
    assert_eq!(refused(), 0);
    let channels = redis::cmd("PUBSUB").arg("CHANNELS").arg("*:5s:channel:*").to_owned();
    let channels: Vec<String> = service.world.redis.run(&channels).await.unwrap();
    assert_eq!(channels.len(), 2, "invalidations and sync requests: {channels:?}");
    for channel in channels {
        let forged = [&b"TGR\x02"[..], &[0xff; 34]].concat();
        let receivers: u64 =
            service.world.redis.run(redis::cmd("PUBLISH").arg(channel).arg(forged)).await.unwrap();
        assert_eq!(receivers, 1);
    }
    eventually("both were refused", async || refused() == 2).await;
    service.set(2).await;
    all_see(&nodes, 2).await;
}
