//! Nodes that share a Redis, on tables whose changes are read from the write-ahead log.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use sqlx::Connection;
use tidegate::{
    Cache, CacheLayer, ChangeSource, Database, Listener, Policy, Redis, RelayRole, Triggers,
};
use tidegate_testing::FaultProxy;

use crate::common::{eventually, fetch};
use crate::entries;
use crate::world::{World, tiered};

const TTL: Duration = Duration::from_secs(60);

/// What slots may retain is bounded, so that they may outlive their connections.
const KEEPS: [(&str, &str); 2] = [("wal_level", "logical"), ("max_slot_wal_keep_size", "100MB")];

/// Servers whose table is published, and the nodes of a service on them.
struct Service {
    world: World,
}

struct Node {
    app: Router,
    listener: Listener,
    _cache: Cache,
}

const TABLE: &str = "create table t (id int primary key, n int);
    insert into t select i, 0 from generate_series(1, 99) i";

impl Service {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let published = Triggers::new().source(ChangeSource::LogicalReplication);
        Self { world: World::with(settings, TABLE, published.table("t")).await }
    }

    async fn node(&self) -> Node {
        self.node_at(&self.world.redis.url()).await
    }

    async fn node_at(&self, redis: &str) -> Node {
        let cache = tiered(Redis::connect(redis).await.unwrap());
        let db = &self.world.db;
        let listener = Listener::spawn(db, &cache).await.unwrap();
        let layer = CacheLayer::new(cache.clone())
            .route("/{id}", Policy::ttl(TTL).tag("t:id={id}").wait(TTL).lease(TTL));
        let app = Router::new().route("/{id}", get(read)).layer(layer).with_state(db.clone());
        Node { app, listener, _cache: cache }
    }

    /// Stores these rows in Redis.
    async fn store(&self, node: &Node, ids: &[i32]) {
        for id in ids {
            eventually("it is stored", async || {
                fetch(&node.app, &format!("/{id}")).await.1.contains("hit")
            })
            .await;
        }
        eventually("Redis has them", async || entries(&self.world.redis).await.len() >= ids.len())
            .await;
    }

    async fn set(&self, ids: &[i32], n: i32) {
        let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.world
            .postgres
            .psql(&format!("update t set n = {n} where id in ({ids})"))
            .await
            .unwrap();
    }

    /// Waits until a node is the relay and has read a change from the stream.
    async fn is_led_by(&self, node: &Node) {
        eventually("it is the relay", async || node.listener.role() == RelayRole::Relay).await;
        let n = self.world.postgres.psql("select n + 1 from t where id = 99").await.unwrap();
        eventually("it is stored", async || fetch(&node.app, "/99").await.1.contains("hit")).await;
        self.set(&[99], n.parse().unwrap()).await;
        eventually("it sees a change", async || fetch(&node.app, "/99").await.0 == n).await;
    }

    async fn kept_slots(&self) -> String {
        let slots =
            r"select count(*) from pg_replication_slots where slot_name like 'tidegate\_kept\_%'";
        self.world.postgres.psql(slots).await.unwrap()
    }
}

async fn read(State(db): State<Database>, Path(id): Path<i32>) -> String {
    let query = sqlx::query_scalar::<_, i32>("select n from t where id = $1").bind(id);
    query.fetch_one(db.reader()).await.unwrap().to_string()
}

/// Whether a row is served from Redis as it is, and another one, which has changed, is not.
async fn knows(node: &Node, (same, n): (i32, &str), (changed, now): (i32, &str)) {
    let (body, status) = fetch(&node.app, &format!("/{same}")).await;
    assert!(body == n && status.contains("hit"), "/{same}: {body} {status}");
    let (body, status) = fetch(&node.app, &format!("/{changed}")).await;
    assert!(body == now && !status.contains("hit"), "/{changed}: {body} {status}");
}

/// Each node that starts knows what has changed since entries were stored, whoever stored them.
#[tokio::test(flavor = "multi_thread")]
async fn a_starting_node_knows_the_changes_that_the_relay_knows() {
    let service = Service::new(&KEEPS[..1]).await;
    let relay = service.node().await;
    service.is_led_by(&relay).await;
    service.store(&relay, &[1, 2, 3, 4, 5, 6]).await;
    service.set(&[2, 4, 6], 7).await;
    for id in [1, 3, 5] {
        let late = service.node().await;
        knows(&late, (id, "0"), (id + 1, "7")).await;
        service.set(&[id], 8).await;
        eventually("it follows", async || fetch(&late.app, &format!("/{id}")).await.0 == "8").await;
    }
    assert_eq!(service.kept_slots().await, "0", "what a slot may retain is not bounded");
}

/// The next relay continues the stream of the last one, so no node forgets anything.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_that_becomes_the_relay_continues_the_stream() {
    let service = Service::new(&KEEPS).await;
    let mut nodes = vec![service.node().await];
    service.is_led_by(&nodes[0]).await;
    for round in 0..3 {
        nodes.push(service.node().await);
        eventually("it follows", async || nodes[1].listener.role() == RelayRole::Follower).await;
        let ids = [10 * round + 1, 10 * round + 2, 10 * round + 3];
        service.store(&nodes[0], &ids).await;
        // The relay may be gone before it has read this.
        service.set(&ids[1..2], 7).await;
        nodes.remove(0).listener.stop();
        service.set(&ids[2..], 8).await;
        service.is_led_by(&nodes[0]).await;
        let changed = format!("/{}", ids[2]);
        eventually("it reads on", async || fetch(&nodes[0].app, &changed).await.0 == "8").await;
        knows(&nodes[0], (ids[0], "0"), (ids[1], "7")).await;
    }
    assert_eq!(service.kept_slots().await, "1");
}

/// A relay that can't reach Redis is replaced, and lives on. It must leave its slot to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_replaced_while_it_lives_leaves_its_slot_to_the_next() {
    let service = Service::new(&KEEPS).await;
    let line = FaultProxy::start(service.world.redis.addr()).await.unwrap();
    let first = service.node_at(&format!("redis://{}/", line.addr())).await;
    service.is_led_by(&first).await;
    let second = service.node().await;
    eventually("it follows", async || second.listener.role() == RelayRole::Follower).await;
    service.store(&second, &[1, 2, 3]).await;
    let names = r"select string_agg(slot_name, ' ') from pg_replication_slots where slot_name like 'tidegate\_kept\_%'";
    let slot = service.world.postgres.psql(names).await.unwrap();
    line.cut();
    eventually("it is replaced", async || second.listener.role() == RelayRole::Relay).await;
    service.set(&[2], 7).await;
    eventually("it sees a change", async || fetch(&second.app, "/2").await.0 == "7").await;
    let (body, status) = fetch(&second.app, "/1").await;
    assert!(body == "0" && status.contains("hit"), "{status}");
    line.heal().await.unwrap();
    eventually("it follows", async || first.listener.role() == RelayRole::Follower).await;
    eventually("it sees the change", async || fetch(&first.app, "/2").await.0 == "7").await;
    assert_eq!(service.world.postgres.psql(names).await.unwrap(), slot);
}

/// As in a deployment that stops all nodes before it starts others.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_after_all_have_stopped_knows_the_changes_since_then() {
    let service = Service::new(&KEEPS).await;
    let node = service.node().await;
    service.is_led_by(&node).await;
    service.store(&node, &[1, 2, 3]).await;
    service.set(&[2], 7).await;
    eventually("the relay has left what it knows", async || {
        let mut keys = redis::cmd("KEYS");
        let keys = service.world.redis.run::<Vec<String>>(keys.arg("*:value:checkpoint:*")).await;
        keys.is_ok_and(|keys| keys.len() == 1)
    })
    .await;
    node.listener.stop();
    service.set(&[3], 8).await;
    let late = service.node().await;
    knows(&late, (1, "0"), (3, "8")).await;
    let (body, _) = fetch(&late.app, "/2").await;
    assert_eq!(body, "7");
    assert_eq!(service.kept_slots().await, "1");
}

/// A slot of a relay that has stopped may be gone, or have lost what it would have to deliver.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_continue_the_stream_invalidates_all_stored_entries() {
    let service = Service::new(&KEEPS).await;
    let (first, second) = (service.node().await, service.node().await);
    service.is_led_by(&first).await;
    eventually("it follows", async || second.listener.role() == RelayRole::Follower).await;
    service.store(&second, &[1, 2]).await;
    first.listener.stop();
    let drop_slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where active_pid is null";
    eventually("the slot is dropped", async || {
        service.world.postgres.psql(drop_slots).await.unwrap();
        service.kept_slots().await == "0"
    })
    .await;
    service.set(&[2], 7).await;
    service.is_led_by(&second).await;
    eventually("it sees the change", async || fetch(&second.app, "/2").await.0 == "7").await;
    assert_eq!(fetch(&second.app, "/1").await.0, "0");
    assert_eq!(service.kept_slots().await, "1");
}

/// The server delivers what ends the stream again each time, so it can't be continued.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_whenever_it_is_continued_starts_over() {
    let service = Service::new(&KEEPS).await;
    let node = service.node().await;
    service.is_led_by(&node).await;
    for n in 1..4 {
        service.store(&node, &[1]).await;
        // Up to version 17, the server can't decode a change from when there was no publication.
        let replaced = format!(
            "drop publication tidegate; update t set n = {n} where id = 1; create publication tidegate for table t"
        );
        service.world.postgres.psql(&replaced).await.unwrap();
        eventually("it sees the change", async || fetch(&node.app, "/1").await.0 == n.to_string())
            .await;
    }
    service.is_led_by(&node).await;
    eventually("one slot is left", async || service.kept_slots().await == "1").await;
}

/// When a server shuts down, it waits until each stream has confirmed everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_does_not_keep_its_server_from_shutting_down() {
    let mut service = Service::new(&KEEPS).await;
    let node = service.node().await;
    service.is_led_by(&node).await;
    service.store(&node, &[1]).await;
    service.set(&[1], 7).await;
    // With the signal for a fast shutdown.
    let restarted = tokio::time::timeout(Duration::from_secs(20), service.world.postgres.restart());
    restarted.await.expect("it shuts down").unwrap();
    eventually("it is followed again", async || {
        fetch(&node.app, "/1").await == ("7".to_owned(), fetch(&node.app, "/1").await.1)
            && fetch(&node.app, "/1").await.1.contains("hit")
    })
    .await;
}

/// With a slot that is left, no server starts with `wal_level = replica`.
#[tokio::test(flavor = "multi_thread")]
async fn removing_the_schema_drops_the_slot_while_a_node_runs() {
    let service = Service::new(&KEEPS).await;
    let node = service.node().await;
    service.is_led_by(&node).await;
    let mut conn = sqlx::PgConnection::connect(&service.world.postgres.url()).await.unwrap();
    Triggers::uninstall_all(&mut conn).await.unwrap();
    assert_eq!(service.kept_slots().await, "0");
}

/// Nobody reads the slot any more, so it would retain the write-ahead log up to its limit.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_is_dropped_with_the_last_published_table() {
    let service = Service::new(&KEEPS).await;
    let node = service.node().await;
    service.is_led_by(&node).await;
    assert_eq!(service.kept_slots().await, "1");
    let mut conn = sqlx::PgConnection::connect(&service.world.postgres.url()).await.unwrap();
    let triggers = Triggers::new().source(ChangeSource::Triggers);
    triggers.table("t").install(&mut conn).await.unwrap();
    eventually("it is dropped", async || service.kept_slots().await == "0").await;
    service.store(&node, &[1]).await;
    service.set(&[1], 7).await;
    eventually("triggers record changes", async || fetch(&node.app, "/1").await.0 == "7").await;
}
