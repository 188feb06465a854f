//! Queries that are answered from the cache, without HTTP.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::time::Duration;

use common::eventually;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use tidegate::testing::Postgres;
use tidegate::{
    Cache, Cached, Database, DatabaseOptions, Event, Listener, Memory, Outcome, Policy, Tier,
    Triggers,
};

const TTL: Duration = Duration::from_mins(1);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
struct User {
    id: i32,
    name: String,
}

struct World {
    server: Postgres,
    db: Database,
    cache: Cache,
}

impl World {
    async fn new() -> Self {
        let server = Postgres::start().await.unwrap();
        let tables = "create table users (id int primary key, name text, org int);
            create table orgs (id int primary key, name text);
            create view staff as select u.id, u.name, o.name as org from users u join orgs o on o.id = u.org;
            create table secrets (id int primary key); alter table secrets enable row level security;
            insert into orgs values (1, 'one'); insert into users values (1, 'ann', 1), (2, 'bob', 1)";
        server.psql(tables).await.unwrap();
        let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        let tables = Triggers::new().table("users").table("orgs").table("secrets");
        tables.install(&mut conn).await.unwrap();
        let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
        let cache = Cache::new(Memory::new(1 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        Self { server, db, cache }
    }

    fn cached(&self) -> Cached {
        self.db.cached(&self.cache, Policy::ttl(TTL).early_refresh(0.0))
    }

    fn hits(&self) -> u64 {
        self.cache.counters().outcome(Outcome::Hit(Tier::Memory))
    }

    fn stored(&self) -> u64 {
        self.cache.counters().event(Event::Stored)
    }
}

#[tokio::test]
async fn a_query_is_answered_until_what_it_reads_changes() {
    let world = World::new().await;
    let cached = world.cached();
    let by_id = |id: i32| sqlx::query("select id, name from users where id = $1").bind(id);
    let ann = User { id: 1, name: "ann".into() };
    for _ in 0..3 {
        assert_eq!(cached.fetch_one::<User>(by_id(1)).await.unwrap(), ann);
    }
    assert_eq!((world.hits(), world.stored()), (2, 1));
    world.server.psql("update users set name = 'eve' where id = 1").await.unwrap();
    let seen = async || cached.fetch_one::<User>(by_id(1)).await.unwrap().name == "eve";
    eventually("the change is seen", seen).await;
    // Through a view, what lies under it counts.
    let staff = "select name, org from staff order by id";
    let read = async || cached.fetch_all::<(String, String)>(staff).await.unwrap();
    assert_eq!(read().await[1], ("bob".into(), "one".into()));
    world.server.psql("update orgs set name = 'two'").await.unwrap();
    eventually("it is seen", async || read().await[1].1 == "two").await;
}

#[tokio::test]
async fn queries_that_differ_in_anything_are_others() {
    let world = World::new().await;
    let cached = world.cached();
    let name = "select name from users where id = $1";
    let one: (String,) = cached.fetch_one(sqlx::query(name).bind(1)).await.unwrap();
    let two: (String,) = cached.fetch_one(sqlx::query(name).bind(2)).await.unwrap();
    assert_ne!(one, two);
    // Of another type, in another number, in another order.
    let pair = "select $1::text || $2::text";
    let of = async |a: &'static str, b: &'static str| {
        cached.fetch_one::<(String,)>(sqlx::query(pair).bind(a).bind(b)).await
    };
    assert_eq!(of("a", "bc").await.unwrap().0, "abc");
    assert_eq!(of("ab", "c").await.unwrap().0, "abc");
    assert_eq!(of("c", "ab").await.unwrap().0, "cab");
    let all: Vec<(String,)> = cached.fetch_all(sqlx::query(name).bind(1)).await.unwrap();
    assert_eq!(all, std::slice::from_ref(&one));
    let other: (Option<String>,) = cached.fetch_one(sqlx::query(name).bind(1)).await.unwrap();
    assert_eq!(other.0, Some(one.0));
    let none: Option<(String,)> = cached.fetch_optional(sqlx::query(name).bind(9)).await.unwrap();
    assert_eq!(none, None);
    let error = cached.fetch_one::<(String,)>(sqlx::query(name).bind(9)).await.unwrap_err();
    assert!(matches!(error, sqlx::Error::RowNotFound));
    assert_eq!(world.hits(), 0);
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_asked_each_time() {
    let world = World::new().await;
    let cached = world.cached();
    for query in [
        "select random()::text",
        "select count(*)::text from secrets",
        "select relname::text from pg_class limit 1",
        "insert into orgs values (2, 'two') on conflict (id) do update set name = 'two' returning name",
    ] {
        for _ in 0..2 {
            cached.fetch_one::<(String,)>(query).await.unwrap();
        }
    }
    assert_eq!((world.hits(), world.stored()), (0, 0));
    let wrong = cached.fetch_all::<(String,)>("select name from nothing").await;
    assert!(wrong.unwrap_err().to_string().contains("nothing"));
}

#[tokio::test]
async fn it_can_be_asked_from_any_task_and_narrowed() {
    let world = World::new().await;
    let policy = |id: i32| Policy::ttl(TTL).early_refresh(0.0).tag(&format!("users:id={id}"));
    let ask = |id: i32| {
        let cached = world.db.cached(&world.cache, policy(id));
        tokio::spawn(async move {
            let query = sqlx::query("select name from users where id = $1").bind(id);
            cached.fetch_one::<(String,)>(query).await.unwrap().0
        })
    };
    ask(1).await.unwrap();
    ask(2).await.unwrap();
    world.server.psql("update users set name = 'new' where id = 1").await.unwrap();
    eventually("it is seen", async || ask(1).await.unwrap() == "new").await;
    let before = world.hits();
    ask(2).await.unwrap();
    assert_eq!(world.hits(), before + 1, "another row's change leaves it valid");
}
