//! Nodes that share a Redis, on tables whose changes are read from the write-ahead log.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use sqlx::Connection;
use tidegate::{
    Cache, CacheLayer, ChangeSource, Database, DatabaseOptions, Guard, Listener, Memory, Policy,
    Redis, RelayRole, Tiered, Triggers,
};
use tidegate_testing::{FaultProxy, Postgres, RedisServer};

use crate::common::{ask, eventually};
use crate::entries;

const TTL: Duration = Duration::from_secs(60);

/// What slots may retain is bounded, so that they may outlive their connections.
const KEEPS: [(&str, &str); 2] = [("wal_level", "logical"), ("max_slot_wal_keep_size", "100MB")];

struct World {
    postgres: Postgres,
    redis: RedisServer,
    db: Database,
}

struct Node {
    app: Router,
    listener: Listener,
    _cache: Cache,
}

impl World {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let postgres = Postgres::start_with(settings).await.unwrap();
        let setup = "create table t (id int primary key, n int); insert into t select i, 0 from generate_series(1, 99) i";
        postgres.psql(setup).await.unwrap();
        let mut conn = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
        let published = Triggers::new().source(ChangeSource::LogicalReplication);
        published.table("t").install(&mut conn).await.unwrap();
        let db = DatabaseOptions::new(postgres.url()).connect().await.unwrap();
        let redis = RedisServer::start().await.unwrap();
        Self { postgres, redis, db }
    }

    /// With limits for Redis that a busy test machine keeps to.
    async fn node(&self) -> Node {
        self.node_at(&self.redis.url()).await
    }

    async fn node_at(&self, redis: &str) -> Node {
        let redis = Redis::connect(redis).await.unwrap();
        let patient = Guard::new(redis).read_within(Duration::from_secs(5));
        let cache = Cache::new(Tiered::with_guard(Memory::new(1 << 20), patient));
        let listener = Listener::spawn(&self.db, &cache).await.unwrap();
        let layer = CacheLayer::new(cache.clone())
            .route("/{id}", Policy::ttl(TTL).tag("t:id={id}").wait(TTL).lease(TTL));
        let app = Router::new().route("/{id}", get(read)).layer(layer).with_state(self.db.clone());
        Node { app, listener, _cache: cache }
    }

    /// Stores these rows in Redis.
    async fn store(&self, node: &Node, ids: &[i32]) {
        for id in ids {
            eventually("it is stored", async || {
                ask(&node.app, &format!("/{id}")).await.1.contains("hit")
            })
            .await;
        }
        eventually("Redis has them", async || entries(&self.redis).await.len() >= ids.len()).await;
    }

    async fn set(&self, ids: &[i32], n: i32) {
        let ids = ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        self.postgres.psql(&format!("update t set n = {n} where id in ({ids})")).await.unwrap();
    }

    /// Waits until a node is the relay and has read a change from the stream.
    async fn is_led_by(&self, node: &Node) {
        eventually("it is the relay", async || node.listener.role() == RelayRole::Relay).await;
        let n = self.postgres.psql("select n + 1 from t where id = 99").await.unwrap();
        eventually("it is stored", async || ask(&node.app, "/99").await.1.contains("hit")).await;
        self.set(&[99], n.parse().unwrap()).await;
        eventually("it sees a change", async || ask(&node.app, "/99").await.0 == n).await;
    }

    async fn kept_slots(&self) -> String {
        let slots =
            r"select count(*) from pg_replication_slots where slot_name like 'tidegate\_kept\_%'";
        self.postgres.psql(slots).await.unwrap()
    }
}

async fn read(State(db): State<Database>, Path(id): Path<i32>) -> String {
    let query = sqlx::query_scalar::<_, i32>("select n from t where id = $1").bind(id);
    query.fetch_one(db.reader()).await.unwrap().to_string()
}

/// Whether a row is served from Redis as it is, and another one, which has changed, is not.
async fn knows(node: &Node, (same, n): (i32, &str), (changed, now): (i32, &str)) {
    let (body, status) = ask(&node.app, &format!("/{same}")).await;
    assert!(body == n && status.contains("hit"), "/{same}: {body} {status}");
    let (body, status) = ask(&node.app, &format!("/{changed}")).await;
    assert!(body == now && !status.contains("hit"), "/{changed}: {body} {status}");
}

/// Each node that starts knows what has changed since entries were stored, whoever stored them.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_knows_what_the_relay_knows() {
    let world = World::new(&KEEPS[..1]).await;
    let relay = world.node().await;
    world.is_led_by(&relay).await;
    world.store(&relay, &[1, 2, 3, 4, 5, 6]).await;
    world.set(&[2, 4, 6], 7).await;
    for id in [1, 3, 5] {
        let late = world.node().await;
        knows(&late, (id, "0"), (id + 1, "7")).await;
        world.set(&[id], 8).await;
        eventually("it follows", async || ask(&late.app, &format!("/{id}")).await.0 == "8").await;
    }
    assert_eq!(world.kept_slots().await, "0", "what a slot may retain is not bounded");
}

/// The next relay continues the stream of the last one, so no node forgets anything.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_that_becomes_the_relay_continues_the_stream() {
    let world = World::new(&KEEPS).await;
    let mut nodes = vec![world.node().await];
    world.is_led_by(&nodes[0]).await;
    for round in 0..3 {
        nodes.push(world.node().await);
        eventually("it follows", async || nodes[1].listener.role() == RelayRole::Follower).await;
        let ids = [10 * round + 1, 10 * round + 2, 10 * round + 3];
        world.store(&nodes[0], &ids).await;
        // The relay may be gone before it has read this.
        world.set(&ids[1..2], 7).await;
        nodes.remove(0).listener.stop();
        world.set(&ids[2..], 8).await;
        world.is_led_by(&nodes[0]).await;
        let changed = format!("/{}", ids[2]);
        eventually("it reads on", async || ask(&nodes[0].app, &changed).await.0 == "8").await;
        knows(&nodes[0], (ids[0], "0"), (ids[1], "7")).await;
    }
    assert_eq!(world.kept_slots().await, "1");
}

/// A relay that can't reach Redis is replaced, and lives on. It must leave its slot to the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_replaced_while_it_lives_leaves_its_slot_to_the_next() {
    let world = World::new(&KEEPS).await;
    let line = FaultProxy::start(world.redis.addr()).await.unwrap();
    let first = world.node_at(&format!("redis://{}/", line.addr())).await;
    world.is_led_by(&first).await;
    let second = world.node().await;
    eventually("it follows", async || second.listener.role() == RelayRole::Follower).await;
    world.store(&second, &[1, 2, 3]).await;
    let names = r"select string_agg(slot_name, ' ') from pg_replication_slots where slot_name like 'tidegate\_kept\_%'";
    let slot = world.postgres.psql(names).await.unwrap();
    line.cut();
    eventually("it is replaced", async || second.listener.role() == RelayRole::Relay).await;
    world.set(&[2], 7).await;
    eventually("it sees a change", async || ask(&second.app, "/2").await.0 == "7").await;
    let (body, status) = ask(&second.app, "/1").await;
    assert!(body == "0" && status.contains("hit"), "{status}");
    line.heal().await.unwrap();
    eventually("it follows", async || first.listener.role() == RelayRole::Follower).await;
    eventually("it sees the change", async || ask(&first.app, "/2").await.0 == "7").await;
    assert_eq!(world.postgres.psql(names).await.unwrap(), slot);
}

/// As in a deployment that stops all nodes before it starts others.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_when_all_have_stopped_knows_what_has_changed_since() {
    let world = World::new(&KEEPS).await;
    let node = world.node().await;
    world.is_led_by(&node).await;
    world.store(&node, &[1, 2, 3]).await;
    world.set(&[2], 7).await;
    eventually("the relay has left what it knows", async || {
        let mut keys = redis::cmd("KEYS");
        let keys = world.redis.run::<Vec<String>>(keys.arg("*:value:checkpoint:*")).await;
        keys.is_ok_and(|keys| keys.len() == 1)
    })
    .await;
    node.listener.stop();
    world.set(&[3], 8).await;
    let late = world.node().await;
    knows(&late, (1, "0"), (3, "8")).await;
    let (body, _) = ask(&late.app, "/2").await;
    assert_eq!(body, "7");
    assert_eq!(world.kept_slots().await, "1");
}

/// A slot of a relay that has stopped may be gone, or have lost what it would have to deliver.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_continue_the_stream_forgets_what_was_stored() {
    let world = World::new(&KEEPS).await;
    let (first, second) = (world.node().await, world.node().await);
    world.is_led_by(&first).await;
    eventually("it follows", async || second.listener.role() == RelayRole::Follower).await;
    world.store(&second, &[1, 2]).await;
    first.listener.stop();
    let drop_slots = "select pg_drop_replication_slot(slot_name) from pg_replication_slots where active_pid is null";
    eventually("the slot is dropped", async || {
        world.postgres.psql(drop_slots).await.unwrap();
        world.kept_slots().await == "0"
    })
    .await;
    world.set(&[2], 7).await;
    world.is_led_by(&second).await;
    eventually("it sees the change", async || ask(&second.app, "/2").await.0 == "7").await;
    assert_eq!(ask(&second.app, "/1").await.0, "0");
    assert_eq!(world.kept_slots().await, "1");
}

/// The server delivers what ends the stream again each time, so it can't be continued.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_whenever_it_is_continued_begins_anew() {
    let world = World::new(&KEEPS).await;
    let node = world.node().await;
    world.is_led_by(&node).await;
    for n in 1..4 {
        world.store(&node, &[1]).await;
        // Up to version 17, the server can't decode a change from when there was no publication.
        let replaced = format!(
            "drop publication tidegate; update t set n = {n} where id = 1; create publication tidegate for table t"
        );
        world.postgres.psql(&replaced).await.unwrap();
        eventually("it sees the change", async || ask(&node.app, "/1").await.0 == n.to_string())
            .await;
    }
    world.is_led_by(&node).await;
    eventually("one slot is left", async || world.kept_slots().await == "1").await;
}

/// When a server shuts down, it waits until each stream has confirmed everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_slot_does_not_keep_its_server_from_shutting_down() {
    let mut world = World::new(&KEEPS).await;
    let node = world.node().await;
    world.is_led_by(&node).await;
    world.store(&node, &[1]).await;
    world.set(&[1], 7).await;
    // With the signal for a fast shutdown.
    let restarted = tokio::time::timeout(Duration::from_secs(20), world.postgres.restart());
    restarted.await.expect("it shuts down").unwrap();
    eventually("it is followed again", async || {
        ask(&node.app, "/1").await == ("7".to_owned(), ask(&node.app, "/1").await.1)
            && ask(&node.app, "/1").await.1.contains("hit")
    })
    .await;
}

/// With a slot that is left, no server starts with `wal_level = replica`.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_goes_with_the_schema_although_a_node_runs() {
    let world = World::new(&KEEPS).await;
    let node = world.node().await;
    world.is_led_by(&node).await;
    let mut conn = sqlx::PgConnection::connect(&world.postgres.url()).await.unwrap();
    Triggers::uninstall_all(&mut conn).await.unwrap();
    assert_eq!(world.kept_slots().await, "0");
}

/// Nobody reads the slot any more, so it would retain the write-ahead log up to its limit.
#[tokio::test(flavor = "multi_thread")]
async fn the_slot_goes_with_the_last_published_table() {
    let world = World::new(&KEEPS).await;
    let node = world.node().await;
    world.is_led_by(&node).await;
    assert_eq!(world.kept_slots().await, "1");
    let mut conn = sqlx::PgConnection::connect(&world.postgres.url()).await.unwrap();
    let triggers = Triggers::new().source(ChangeSource::Triggers);
    triggers.table("t").install(&mut conn).await.unwrap();
    eventually("it is dropped", async || world.kept_slots().await == "0").await;
    world.store(&node, &[1]).await;
    world.set(&[1], 7).await;
    eventually("triggers tell of changes", async || ask(&node.app, "/1").await.0 == "7").await;
}
