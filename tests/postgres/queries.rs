//! Queries whose results come from the cache, without HTTP.

use std::time::Duration;

use crate::common::eventually;
use serde::{Deserialize, Serialize};
use sqlx::Connection;
use tidegate::{
    Cache, Cached, Database, DatabaseOptions, Event, Listener, Memory, Outcome, Tier, Triggers,
    ValuePolicy,
};
use tidegate_testing::Postgres;

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
        self.db.cached(&self.cache, ValuePolicy::ttl(TTL).early_refresh(0.0).build().unwrap())
    }

    fn hits(&self) -> u64 {
        self.cache.counters().outcome(Outcome::Hit(Tier::Memory))
    }

    fn stored(&self) -> u64 {
        self.cache.counters().event(Event::Stored)
    }
}

#[tokio::test]
async fn a_query_is_a_hit_until_the_rows_it_reads_change() {
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

/// As where nothing is cached: a later row is not decoded.
#[tokio::test]
async fn fetching_one_row_decodes_only_that_row() {
    let world = World::new().await;
    world.server.psql("insert into users values (3, null, 1)").await.unwrap();
    let (one, cached) = ("select name from users order by id", world.cached());
    assert_eq!(cached.fetch_one::<(String,)>(sqlx::query(one)).await.unwrap().0, "ann");
    let optional = cached.fetch_optional::<(String,)>(sqlx::query(one)).await.unwrap();
    assert_eq!(optional.unwrap().0, "ann");
}

#[tokio::test]
async fn queries_that_differ_in_text_arguments_or_result_type_share_no_entry() {
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
async fn uncacheable_queries_run_each_time() {
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
async fn a_cached_query_can_run_in_any_task_and_be_narrowed_by_tags() {
    let world = World::new().await;
    let policy = ValuePolicy::ttl(TTL).early_refresh(0.0).build().unwrap();
    let policy = |id: i32| policy.with_tags([format!("users:id={id}")]);
    let fetch = |id: i32| {
        let cached = world.db.cached(&world.cache, policy(id));
        tokio::spawn(async move {
            let query = sqlx::query("select name from users where id = $1").bind(id);
            cached.fetch_one::<(String,)>(query).await.unwrap().0
        })
    };
    fetch(1).await.unwrap();
    fetch(2).await.unwrap();
    world.server.psql("update users set name = 'new' where id = 1").await.unwrap();
    eventually("it is seen", async || fetch(1).await.unwrap() == "new").await;
    let before = world.hits();
    fetch(2).await.unwrap();
    assert_eq!(world.hits(), before + 1, "another row's change leaves it valid");
}

#[tokio::test]
async fn a_condition_narrows_a_query_without_any_tags() {
    let world = World::new().await;
    let cached = world.cached();
    let fetch = async |id: i64| {
        let query = sqlx::query("select id, name from users where id = $1 and name <> ''").bind(id);
        cached.fetch_one::<User>(query).await.unwrap().name
    };
    for id in [1, 2, 1, 2] {
        fetch(id).await;
    }
    assert_eq!((world.hits(), world.stored()), (2, 2));
    world.server.psql("update users set name = 'new' where id = 1").await.unwrap();
    eventually("it is seen", async || fetch(1).await == "new").await;
    let before = world.hits();
    assert_eq!(fetch(2).await, "bob");
    assert_eq!(world.hits(), before + 1, "another row's change leaves it valid");
    // A number with a fraction equals rows that are written in another way.
    let query = || sqlx::query("select name from users where id = $1").bind(2.0);
    cached.fetch_one::<(String,)>(query()).await.unwrap();
    world.server.psql("update users set name = 'newer' where id = 2").await.unwrap();
    let seen = async || cached.fetch_one::<(String,)>(query()).await.unwrap().0 == "newer";
    eventually("so is this", seen).await;
}

/// A column's type, and how a small number is written in it.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    writes: fn(i32) -> String,
}

/// Types of columns; a value of the last can be written in several ways.
const KINDS: [Kind; 4] = [
    Kind { name: "bigint", writes: |n| n.to_string() },
    Kind { name: "text", writes: |n| format!("'Word {n}'") },
    Kind { name: "uuid", writes: |n| format!("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1{n}'") },
    Kind {
        name: "numeric",
        writes: |n| if fastrand::bool() { format!("{n}.00") } else { n.to_string() },
    },
];

/// A schema: the type of column `g`, whether its changes are keyed by it, and the queries and writes.
struct Random {
    kind: Kind,
    by_g: bool,
    random: fastrand::Rng,
}

impl Random {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let kind = KINDS[usize::try_from(seed).unwrap() % KINDS.len()];
        // One number can be written in several ways, so no changes are keyed by it.
        let by_g = kind.name != "numeric" && random.u8(..4) > 0;
        Self { kind, by_g, random }
    }

    async fn world(&self) -> World {
        let world = World::new().await;
        let kind = self.kind.name;
        let tables = format!(
            "create table a (id int primary key, g {kind}, t text);
            create table b (id int primary key, a int, t text);
            create table p (id int primary key, g {kind}, t text) partition by range (id);
            create table p1 partition of p for values from (0) to (3);
            create table p2 partition of p for values from (3) to (100);
            create view v as select a.id, b.t from a left join b on b.a = a.id;
            create table marks (n int primary key); insert into marks values (0)"
        );
        world.server.psql(&tables).await.unwrap();
        let mut conn = sqlx::PgConnection::connect(&world.server.url()).await.unwrap();
        let columns: &[&str] = if self.by_g { &["g"] } else { &[] };
        let tracked =
            Triggers::new().columns("a", columns).columns("b", &["a"]).columns("p", columns);
        tracked.table("p1").table("p2").table("marks").install(&mut conn).await.unwrap();
        world
    }

    fn small(&mut self) -> i32 {
        self.random.i32(0..6)
    }

    /// A value of `g`.
    fn g(&mut self) -> String {
        (self.kind.writes)(self.small())
    }

    /// A condition on a column of integers, most of them that it has a value.
    fn on(&mut self, column: &str) -> String {
        let (one, two) = (self.small(), self.small());
        match self.random.u8(..10) {
            8 => format!("({column}, 1) = ({one}, 1)"),
            9 => format!("({column}, {two}) in (($1, {two}), ({one}, {two}))"),
            6 => format!("{column} in ($1, {two})"),
            7 => format!("{column} = any (array[{one}, {two}])"),
            0 => format!("{column} = {one}"),
            1 => format!("{one} = {column}"),
            2 => format!("{column} > {one}"),
            3 => format!("({column} = {one} and true)"),
            4 => format!("{column} in ({one}, {two})"),
            _ => format!("{column} = $1"),
        }
    }

    fn on_g(&mut self, column: &str) -> String {
        let (one, two) = (self.g(), self.g());
        match self.random.u8(..4) {
            0 => format!("{column} = {one}"),
            1 => format!("{column} in ({one}, {two})"),
            2 => format!("{column} = {one}::{}", self.kind.name),
            _ => format!("{column} = {one} and {column} <> {two}"),
        }
    }

    /// A query over the tables `a` and `b`, the view `v` and the partitioned table `p`, with one parameter.
    fn query(&mut self) -> String {
        let joins = ["join", "left join", "right join", "full join"];
        let join = joins[self.random.usize(..joins.len())];
        let text = match self.random.u8(..24) {
            20 => format!(
                "select a.id::text, b.t from a {join} (b join p on p.id = b.a and {}) on b.id = a.id where {}",
                self.on("p.id"),
                self.on("a.id")
            ),
            21 => format!(
                "select a.id::text, x.t from a left join lateral (select b.* from b where b.a = a.id and {}) x on {}",
                self.on("b.id"),
                self.on("x.a")
            ),
            22 => format!(
                "select id::text, t from a where not ({} and {}) or id is distinct from 1 and {}",
                self.on("id"),
                self.on_g("g"),
                self.on("id")
            ),
            23 => format!(
                "select id::text, t from a where id between 0 and 4 and {} except select id::text, t from b where {}",
                self.on("id"),
                self.on("b.a")
            ),
            13 => format!(
                "select a.id::text, b.t from a {join} b on b.a = a.id and {} and {}",
                self.on("b.a"),
                self.on("a.id")
            ),
            14 => format!(
                "select id::text, t from a where exists (select from b where b.id = a.id and {})",
                self.on("b.a")
            ),
            15 => format!(
                "select id::text, (select max(t) from b where {}) from a where {}",
                self.on("a"),
                self.on("id")
            ),
            16 => format!(
                "select a.id::text, x.t from a {join} (select * from b where {}) x on x.id = a.id",
                self.on("a")
            ),
            17 => format!(
                "with c as (select * from b where {}) select a.id::text, c.t from a {join} c on c.a = a.id",
                self.on("id")
            ),
            18 => format!(
                "select p.id::text, b.t from p {join} b on b.id = p.id {join} a on a.id = b.a and {} where {}",
                self.on("a.id"),
                self.on("p.id")
            ),
            19 => format!(
                "select a.id::text, i.t from a {join} a i on i.g = a.g and {} where {}",
                self.on("i.id"),
                self.on("a.id")
            ),
            0 => format!("select id::text, t from a where {}", self.on("id")),
            1 => format!("select count(*)::text, max(t) from a where {}", self.on_g("g")),
            2 => format!(
                "select a.id::text, b.t from a {join} b on b.a = a.id where {}",
                self.on("a.id")
            ),
            3 => format!(
                "select a.id::text, b.t from a {join} b on b.id = a.id where {}",
                self.on("b.a")
            ),
            4 => format!(
                "select x.id::text, y.t from a x {join} a y on y.g = x.g where {}",
                self.on("x.id")
            ),
            5 => format!("select id::text, t from v where {}", self.on("id")),
            6 => format!(
                "select a.id::text, v.t from a {join} v on v.id = a.id + 1 where {}",
                self.on("a.id")
            ),
            7 => format!("select id::text, t from p where {}", self.on("id")),
            8 => format!(
                "select id::text, (select max(t) from a i where i.g = a.g) from a where {}",
                self.on("id")
            ),
            9 => format!(
                "with c as (select * from a) select id::text, t from c where {}",
                self.on("id")
            ),
            10 => {
                format!("select id::text, t from a where {} or {}", self.on("id"), self.on_g("g"))
            }
            11 => {
                format!("select id::text, t from p where {} and {}", self.on_g("g"), self.on("id"))
            }
            _ => format!(
                "select id::text, t from a where {} union all select id::text, t from b where {}",
                self.on("id"),
                self.on("a")
            ),
        };
        format!("{text} order by 1, 2")
    }

    fn write(&mut self) -> String {
        let table = ["a", "b", "p"][self.random.usize(..3)];
        let (id, new, value) = (self.small(), self.small(), self.random.i32(0..99));
        let column = if table == "b" { "a" } else { "g" };
        let other = if table == "b" { self.small().to_string() } else { self.g() };
        match self.random.u8(..8) {
            0 | 1 => format!("update {table} set t = 'v{value}' where id = {id}"),
            2 => format!("update {table} set {column} = {other} where id = {id}"),
            3 => format!(
                "update {table} set id = {new} where id = {id}
                    and not exists (select from {table} where id = {new})"
            ),
            4 => format!("delete from {table} where id = {id}"),
            5 => format!("begin; update {table} set t = 'gone'; rollback"),
            6 if value < 10 => format!("truncate {table}"),
            _ => format!(
                "insert into {table} (id, {column}, t) values ({id}, {other}, 'n{value}')
                    on conflict (id) do update set t = excluded.t, {column} = excluded.{column}"
            ),
        }
    }
}

/// Whatever the schema, the queries and the writes: once the node knows of a write, what is cached
/// equals what is fresh.
#[tokio::test]
async fn random_queries_are_as_fresh_as_the_database() {
    random_queries(0..1).await;
}

#[tokio::test]
#[ignore = "minutes: scripts/deep"]
async fn many_random_queries_are_as_fresh_as_the_database() {
    random_queries(1..22).await;
}

async fn random_queries(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let mut random = Random::new(seed);
        let world = random.world().await;
        let mut conn = sqlx::PgConnection::connect(&world.server.url()).await.unwrap();
        let cached = world.cached();
        let queries: Vec<_> = (0..50).map(|_| (random.query(), random.small())).collect();
        for round in 1..=40 {
            let writes: Vec<String> = (0..random.random.u8(1..4)).map(|_| random.write()).collect();
            world.server.psql(&writes.join(";\n")).await.unwrap();
            world.server.psql(&format!("update marks set n = {round}")).await.unwrap();
            let known = async || {
                cached.fetch_one::<(i32,)>("select n from marks").await.unwrap().0 == round
            };
            eventually("the node knows of the write", known).await;
            for _ in 0..20 {
                let (sql, argument) = &queries[random.random.usize(..queries.len())];
                let (kept, fresh) = both(&cached, &mut conn, sql, *argument).await;
                assert_eq!(
                    kept, fresh,
                    "seed {seed}, round {round}: {sql}, {argument}, after {writes:?}"
                );
            }
        }
        assert!(world.hits() > 150, "seed {seed}: {} of 800 were hits", world.hits());
    }
}

type Rows = Vec<(Option<String>, Option<String>)>;

/// The result from the cache, and that of the database.
async fn both(
    cached: &Cached,
    conn: &mut sqlx::PgConnection,
    sql: &str,
    argument: i32,
) -> (Rows, Rows) {
    let sql = || sqlx::AssertSqlSafe(sql.to_owned());
    let kept = cached.fetch_all(sqlx::query(sql()).bind(argument)).await.unwrap();
    let fresh = sqlx::query_as(sql()).bind(argument).fetch_all(conn).await.unwrap();
    (kept, fresh)
}
