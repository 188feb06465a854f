//! Two versions of one service over one Redis and one Postgres, as during a rolling deployment.

use std::any::type_name;
use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;

use crate::common::{eventually, fetch, values};
use crate::entries;
use crate::world::World;
use axum::Router;
use axum::extract::State;
use axum::routing::get;
use serde::{Deserialize, Serialize};
use tidegate::{
    Cache, CacheLayer, Database, Key, MissReason, Outcome, Policy, Row, Tier, Triggers,
};

const TTL: Duration = Duration::from_mins(1);

#[derive(Clone)]
struct Service {
    db: Database,
    /// The prefix of its responses.
    form: &'static str,
}

const TABLE: &str = "create table accounts (id int primary key, balance int, credit int);
    insert into accounts values (1, -5, 100000), (2, 3, 4)";

async fn world() -> World {
    World::new(TABLE, Triggers::new().table("accounts")).await
}

async fn service(world: &World, version: &str, form: &'static str) -> (Router, Cache) {
    let cache = world.node().await.0.version(version).unwrap();
    let layer = CacheLayer::new(cache.clone()).route("/", policy());
    let service = Service { db: world.db.clone(), form };
    (Router::new().route("/", get(balance)).layer(layer).with_state(service), cache)
}

/// Waits until so many entries are in Redis.
async fn are_stored(world: &World, wanted: usize) {
    eventually("the entries are in Redis", async || entries(&world.redis).await.len() == wanted)
        .await;
}

fn policy() -> Policy {
    Policy::ttl(TTL).early_refresh(0.0)
}

async fn balance(State(service): State<Service>) -> String {
    let query = sqlx::query_scalar::<_, i32>("select balance from accounts where id = 1");
    format!("{}{}", service.form, query.fetch_one(service.db.reader()).await.unwrap())
}

fn shared(cache: &Cache) -> u64 {
    cache.counters().outcome(Outcome::Hit(Tier::Shared))
}

fn other_shape(cache: &Cache) -> u64 {
    cache.counters().outcome(Outcome::Miss(MissReason::OtherShape))
}

#[tokio::test]
async fn two_versions_that_share_a_redis_never_serve_each_others_responses() {
    let world = world().await;
    let (old, _) = service(&world, "1.0.0", "balance: ").await;
    let (new, _) = service(&world, "1.0.1", "{\"balance\": ").await;
    assert_eq!(fetch(&old, "/").await.0, "balance: -5");
    are_stored(&world, 1).await;
    assert_eq!(fetch(&new, "/").await.0, "{\"balance\": -5");
    are_stored(&world, 2).await;
    // Entries of one version are shared by its nodes.
    let (another, cache) = service(&world, "1.0.0", "balance: ").await;
    assert_eq!(fetch(&another, "/").await.0, "balance: -5");
    assert_eq!(shared(&cache), 1);
    world.postgres.psql("update accounts set balance = 7 where id = 1").await.unwrap();
    eventually("both see the change", async || {
        fetch(&old, "/").await.0 == "balance: 7" && fetch(&new, "/").await.0 == "{\"balance\": 7"
    })
    .await;
}

trait Account: Row + PartialEq + Debug + Send + 'static {}

impl<T: Row + PartialEq + Debug + Send + 'static> Account for T {}

/// The account as a node returns it, by each of the ways to a value.
async fn read<T: Account>(cache: &Cache, db: &Database) -> Vec<T> {
    const SQL: &str = "select id, balance, credit from accounts where id = any ($1) order by id";
    let by_ids =
        async |ids: Vec<i32>| sqlx::query_as::<_, T>(SQL).bind(ids).fetch_all(db.reader()).await;
    let one = async || by_ids(vec![1]).await.map(|mut rows| rows.remove(0));
    let many = async |ids: Vec<i32>| {
        let rows = by_ids(ids.clone()).await?;
        let mut sorted = ids;
        sorted.sort_unstable();
        Ok::<_, sqlx::Error>(sorted.into_iter().zip(rows).collect::<HashMap<_, _>>())
    };
    let key = |id: &i32| Key::new("account").part(id.to_string()).finish();
    let cached = db.cached(cache, values());
    let query = |id: i32| sqlx::query(SQL).bind(vec![id]);
    let mut all = vec![cache.get_or_load(&key(&0), &values(), one).await.unwrap()];
    all.extend(cache.get_many([1], key, &values(), many).await.unwrap().remove(&1));
    all.push(cached.fetch_one(query(1)).await.unwrap());
    all.extend(cached.fetch_all(query(1)).await.unwrap());
    all
}

/// A value of a new local type. Local types of one function share a path, as those of two versions of a service do.
macro_rules! value {
    ($item:item => $value:expr) => {{
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
        $item
        $value
    }};
}

async fn is_on<T: Account>(world: &World, cache: &Cache, value: T) -> &'static str {
    let read = read::<T>(cache, &world.db).await;
    assert_eq!(read.len(), 4);
    assert!(read.iter().all(|found| *found == value), "{read:?}, and not {value:?}");
    type_name::<T>()
}

#[tokio::test]
async fn a_node_whose_type_has_reordered_fields_reloads_the_entries_of_others() {
    let world = world().await;
    let (old, new) = (world.node().await.0, world.node().await.0);
    let stored = value! {
        struct Account { id: i32, balance: i32, credit: i32 }
        => Account { id: 1, balance: -5, credit: 100_000 }
    };
    let requested = value! {
        struct Account { id: i32, credit: i32, balance: i32 }
        => Account { id: 1, credit: 100_000, balance: -5 }
    };
    let path = is_on(&world, &old, stored.clone()).await;
    are_stored(&world, 4).await;
    assert_eq!(is_on(&world, &new, requested.clone()).await, path);
    assert_eq!((shared(&new), other_shape(&new)), (0, 4));
    // The other way round; and a node of the same version shares what is stored.
    let (another_old, another_new) = (world.node().await.0, world.node().await.0);
    eventually("all entries in Redis are of the new type", async || {
        let (node, _) = world.node().await;
        is_on(&world, &node, requested.clone()).await;
        shared(&node) == 4
    })
    .await;
    is_on(&world, &another_new, requested).await;
    assert_eq!((shared(&another_new), other_shape(&another_new)), (4, 0));
    is_on(&world, &another_old, stored).await;
    assert_eq!((shared(&another_old), other_shape(&another_old)), (0, 4));
}
