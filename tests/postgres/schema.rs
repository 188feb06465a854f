//! Changes of the schema: results follow them, also where they are undone at once, and nobody else's temporary objects
//! count.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tidegate::{
    Cache, CacheLayer, Change, Changes, Database, DatabaseOptions, Listener, Memory, Policy,
    Triggers,
};
use tidegate_testing::{FaultProxy, Postgres};
use tokio::time::Instant;

use super::common::{drains, eventually, eventually_within, fetch};
use super::world::{TTL, connect, proxy};

/// A service that returns the rows of these queries by their number.
pub(super) struct World {
    server: Postgres,
    /// Between the node's listener and the server.
    line: FaultProxy,
    db: Database,
    cache: Cache,
    app: Router,
}

type Shared = State<(Database, Arc<[&'static str]>)>;

impl World {
    /// `noted`: whether event triggers note changes of the schema.
    pub(super) async fn new(
        noted: bool,
        setup: &str,
        tracked: Triggers,
        queries: &[&'static str],
    ) -> Self {
        Self::of_role("postgres", noted, setup, tracked, queries).await
    }

    /// One that reads as this role.
    async fn of_role(
        role: &str,
        noted: bool,
        setup: &str,
        tracked: Triggers,
        queries: &[&'static str],
    ) -> Self {
        let server = Postgres::start().await.unwrap();
        server.psql(setup).await.unwrap();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        tracked.install(&mut conn).await.unwrap();
        if !noted {
            let drop = "drop event trigger if exists tidegate_ddl; drop event trigger if exists tidegate_drop";
            server.psql(drop).await.unwrap();
        }
        let (line, listen) = proxy(&server).await;
        let url = server.url().replace("postgres@", &format!("{role}@"));
        let options = DatabaseOptions::new(url).listen_url(listen);
        let db = options.connect().await.unwrap();
        let cache = Cache::new(Memory::new(16 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        let layer = CacheLayer::new(cache.clone()).route("/{query}", Policy::ttl(TTL));
        let layer = layer.validate().unwrap();
        let state = (db.clone(), Arc::from(queries));
        let app = Router::new().route("/{query}", get(rows)).layer(layer).with_state(state);
        Self { server, line, db, cache, app }
    }

    /// Waits until a query's result is served from memory; returns it.
    pub(super) async fn warm(&self, query: usize) -> String {
        let (uri, mut last) = (format!("/{query}"), String::new());
        eventually("a hit", async || {
            let (body, status) = fetch(&self.app, &uri).await;
            last = body;
            status.contains("hit")
        })
        .await;
        last
    }

    pub(super) async fn psql(&self, sql: &str) -> String {
        self.server.psql(sql).await.unwrap()
    }

    pub(super) async fn becomes(&self, query: usize, wanted: &str, why: &str) {
        let uri = format!("/{query}");
        eventually(why, async || fetch(&self.app, &uri).await.0 == wanted).await;
    }
}

async fn rows(State((db, queries)): Shared, Path(query): Path<usize>) -> String {
    let statement = sqlx::query_scalar::<_, String>(AssertSqlSafe(queries[query]));
    match statement.fetch_all(db.reader()).await {
        Ok(rows) => rows.join(" "),
        Err(error) => error.to_string(),
    }
}

const SHAPES: &str = "create type mood as enum ('sad', 'glad');
    create type pair as (x int, y int);
    create text search configuration mine (copy = english);
    create table t (id int primary key, m mood, p pair, body text);
    create view v as select id from t;
    insert into t values (1, 'sad', (1, 2), 'running');
    create table parts (id int, k int) partition by list (k);
    create table part1 partition of parts for values in (1);
    insert into parts values (1, 1)";

#[tokio::test(flavor = "multi_thread")]
async fn a_result_follows_each_catalog_entry_that_its_text_shows() {
    const QUERIES: [&str; 6] = [
        "select m::text from t where id = 1",
        "select row_to_json(t.p)::text from t",
        "select row_to_json(v)::text from v",
        "select to_tsvector('mine', body)::text from t",
        "select count(*)::text from parts",
        "select array_agg(m order by m)::text from t",
    ];
    for noted in [false, true] {
        let tracked = Triggers::new().columns("t", &["m"]).table("parts");
        let world = World::new(noted, SHAPES, tracked, &QUERIES).await;
        for (query, change, before, after) in [
            (0, "alter type mood rename value 'sad' to 'blue'", "sad", "blue"),
            (1, "alter type pair rename attribute x to z", r#"{"x":1,"y":2}"#, r#"{"z":1,"y":2}"#),
            (1, "alter type pair drop attribute y", r#"{"z":1,"y":2}"#, r#"{"z":1}"#),
            (1, "alter type pair add attribute w int", r#"{"z":1}"#, r#"{"z":1,"w":null}"#),
            (2, "alter view v rename column id to nr", r#"{"id":1}"#, r#"{"nr":1}"#),
            (
                3,
                "alter text search configuration mine alter mapping for asciiword with simple",
                "'run':1",
                "'running':1",
            ),
            (5, "alter type mood rename value 'blue' to 'low'", "{blue}", "{low}"),
        ] {
            assert_eq!(world.warm(query).await, before, "{change}");
            world.psql(change).await;
            world.becomes(query, after, change).await;
        }
        assert_eq!(world.warm(4).await, "1");
        let url = world.server.url();
        let mut reader = PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("begin isolation level repeatable read; select from parts")
            .execute(&mut reader)
            .await
            .unwrap();
        let detach = tokio::spawn(async move {
            let mut conn = PgConnection::connect(&url).await.unwrap();
            let detach = "alter table parts detach partition part1 concurrently";
            let _ = sqlx::raw_sql(detach).execute(&mut conn).await;
        });
        // The partition is away for new queries while the command waits for the old one, and stays so if it is
        // cancelled.
        world.becomes(4, "0", "detached").await;
        detach.abort();
    }
}

/// It stays detached for new queries, and its rows still count as rows of its former parent, until this is completed.
#[tokio::test(flavor = "multi_thread")]
async fn results_are_right_before_during_and_after_a_concurrent_detach_that_is_cancelled() {
    const QUERIES: [&str; 2] =
        ["select count(*)::text from parts", "select count(*)::text from part1"];
    for noted in [false, true] {
        let world = World::new(noted, SHAPES, Triggers::new().table("parts"), &QUERIES).await;
        // Waits until both results are right, and served from memory.
        let shows = async |when: &str, whole: &str, part: &str| {
            for (query, wanted) in [(0, whole), (1, part)] {
                assert_eq!(world.psql(QUERIES[query]).await, wanted, "{when}");
                world.becomes(query, wanted, when).await;
                assert_eq!(world.warm(query).await, wanted, "{when}");
            }
        };
        shows("before", "1", "1").await;
        let mut reader = connect(&world.server).await;
        let read = "begin isolation level repeatable read; select from parts";
        sqlx::raw_sql(read).execute(&mut reader).await.unwrap();
        let mut conn = connect(&world.server).await;
        let process = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        let process = process.fetch_one(&mut conn).await.unwrap();
        let detach = tokio::spawn(async move {
            let detach = "alter table parts detach partition part1 concurrently";
            sqlx::raw_sql(detach).execute(&mut conn).await.map(drop)
        });
        world.becomes(0, "0", "while it waits").await;
        shows("while it waits", "0", "1").await;
        world.psql("insert into part1 values (2, 1)").await;
        shows("written to while it waits", "0", "2").await;
        world.psql(&format!("select pg_cancel_backend({process})")).await;
        assert!(detach.await.unwrap().unwrap_err().to_string().contains("cancel"));
        drop(reader);
        shows("cancelled", "0", "2").await;
        world.psql("insert into part1 values (3, 1)").await;
        shows("written to after it was cancelled", "0", "3").await;
        world.psql("alter table parts detach partition part1 finalize").await;
        shows("completed", "0", "3").await;
        world.psql("alter table parts attach partition part1 for values in (1)").await;
        shows("attached again", "3", "3").await;
        world.psql("insert into parts values (4, 1)").await;
        shows("written to", "4", "4").await;
    }
}

async fn notes(State(db): State<Database>, Path(mood): Path<String>) -> String {
    let sql = "select note from t where m::text = $1 order by id";
    let notes = sqlx::query_scalar::<_, String>(sql).bind(mood);
    notes.fetch_all(db.reader()).await.unwrap().join(" ")
}

/// The rows keep the label's number, and a trigger logs what the label is called then.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_narrowed_to_an_enum_label_follows_its_row_after_the_label_was_renamed() {
    const ROWS: &str = "create type mood as enum ('sad', 'glad');
        create table t (id int primary key, m mood, note text);
        insert into t values (1, 'sad', 'a'), (2, 'glad', 'b')";
    const RENAME: &str = "alter type mood rename value 'sad' to 'blue'";
    const UPDATE: &str = "update t set note = 'c' where id = 1";
    for (statements, is_read_between) in [
        (vec![RENAME, UPDATE], true),
        (vec![RENAME, UPDATE], false),
        (vec!["begin", RENAME, UPDATE, "commit"], false),
        (vec!["begin", UPDATE, RENAME, "commit"], false),
    ] {
        for noted in [false, true] {
            let world = World::new(noted, ROWS, Triggers::new().columns("t", &["m"]), &[]).await;
            let policy = Policy::ttl(TTL).tag("t:m={mood}");
            let layer = CacheLayer::new(world.cache.clone()).route("/{mood}", policy);
            let app = Router::new().route("/{mood}", get(notes)).layer(layer.validate().unwrap());
            let app = app.with_state(world.db.clone());
            // Waits until each label's notes are right, and served from memory.
            let shows = async |wanted: [(&str, &str); 3]| {
                for (mood, notes) in wanted {
                    let uri = format!("/{mood}");
                    eventually(&format!("{statements:?}: {wanted:?}"), async || {
                        let (body, status) = fetch(&app, &uri).await;
                        body == notes && status.contains("hit")
                    })
                    .await;
                }
            };
            // A session that has written under the label's first name.
            let mut conn = connect(&world.server).await;
            let touch = "update t set note = note where id = 1";
            sqlx::raw_sql(touch).execute(&mut conn).await.unwrap();
            world.cache.invalidate(["past the first write"]).await.unwrap();
            shows([("sad", "a"), ("glad", "b"), ("blue", "")]).await;
            for statement in &statements {
                sqlx::raw_sql(*statement).execute(&mut conn).await.unwrap();
                if is_read_between {
                    world.cache.invalidate(["past the statement"]).await.unwrap();
                }
            }
            shows([("sad", ""), ("glad", "b"), ("blue", "c")]).await;
            sqlx::raw_sql("update t set note = 'b' where id = 2").execute(&mut conn).await.unwrap();
            world.cache.invalidate(["past the change"]).await.unwrap();
            assert!(fetch(&app, "/blue").await.1.contains("hit"), "the rows of another label");
            for (sql, blue, glad) in [
                ("update t set note = 'd' where id = 1", "d", "b"),
                ("update t set m = 'glad' where id = 1", "", "d b"),
                ("update t set m = 'blue' where id = 2", "b", "d"),
                ("delete from t where m = 'blue'", "", "d"),
            ] {
                sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
                shows([("sad", ""), ("glad", glad), ("blue", blue)]).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_read_under_a_changed_schema_does_not_outlive_the_reversal() {
    let setup = "create schema away;
        create table a (v text); insert into a values ('a');
        create table b (v text); insert into b values ('b');
        create table away.a (v text); insert into away.a values ('away');";
    for noted in [false, true] {
        for (there, back) in [
            (
                "begin; alter table a rename to c; alter table b rename to a; commit",
                "begin; alter table a rename to b; alter table c rename to a; commit",
            ),
            (
                "begin; alter table a rename to c; alter table away.a set schema public; commit",
                "begin; alter table a set schema away; alter table c rename to a; commit",
            ),
            (
                "begin; alter schema public rename to x; alter schema away rename to public; commit",
                "begin; alter schema public rename to away; alter schema x rename to public; commit",
            ),
        ] {
            let tracked = Triggers::new().table("a").table("b").table("away.a");
            let queries = ["select v from a", "select v from a order by 1"];
            let world = World::new(noted, setup, tracked, &queries).await;
            world.warm(0).await;
            world.psql(there).await;
            let uri = "/1";
            fetch(&world.app, uri).await;
            world.psql(back).await;
            world.becomes(1, "a", there).await;
            world.becomes(0, "a", there).await;
        }
    }
}

/// While it is held, nobody can read the catalogue as a whole, and queries of views can.
async fn lock_catalogue(world: &World) -> PgConnection {
    let mut conn = connect(&world.server).await;
    let lock = "begin; lock table pg_ts_config_map in access exclusive mode";
    sqlx::raw_sql(lock).execute(&mut conn).await.unwrap();
    conn
}

/// Waits until a node has waited that long for the catalogue.
async fn waits_for_catalogue(world: &World, long: &str) {
    let waits = format!(
        "select exists (select from pg_stat_activity where wait_event_type = 'Lock'
            and query like '-- A hash of everything in the catalogue%' and clock_timestamp() - query_start > '{long}')"
    );
    let waits = async || world.psql(&waits).await == "t";
    eventually("a node waits for the catalogue", waits).await;
}

const VIEW: &str = "create table a (v text); insert into a values ('a');
    create table b (v text); insert into b values ('b');
    create view v as select v from a";

/// A change of the schema that no event trigger has noted is only in the catalogue.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_cut_off_reads_the_catalog_before_it_confirms_its_entries() {
    let tracked = Triggers::new().table("a").table("b");
    let world = World::new(false, VIEW, tracked, &["select v from v"]).await;
    assert_eq!(world.warm(0).await, "a");
    world.line.cut();
    world.psql("create or replace view v as select v from b").await;
    let changed = Instant::now();
    let lock = lock_catalogue(&world).await;
    world.line.heal().await.unwrap();
    waits_for_catalogue(&world, "0").await;
    let confirmed = world.cache.fences().age().map(|age| age >= changed.elapsed());
    assert_ne!(confirmed, Some(false), "confirmed by a look at the log alone");
    drop(lock);
    world.becomes(0, "b", "the view has changed").await;
}

/// Until then, a node that has not noticed the change may store what it has read by the schema of before, though it has seen
/// the log go past the first fence.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_only_in_the_catalog_raises_the_floor_again_once_every_node_knows_of_it() {
    let tracked = Triggers::new().table("a").table("b");
    let world = World::new(false, VIEW, tracked, &["select v from v"]).await;
    assert_eq!(world.warm(0).await, "a");
    world.psql("create or replace view v as select v from b").await;
    world.becomes(0, "b", "the view has changed").await;
    let noticed = world.cache.fences().floor();
    assert_eq!(world.warm(0).await, "b");
    // Nodes have 15 seconds to notice a change.
    let again = async || world.cache.fences().floor() > noticed;
    eventually_within(Duration::from_secs(30), "the floor rises once more", again).await;
    let settled = world.cache.fences().floor();
    assert_eq!(world.warm(0).await, "b");
    drains(&world.cache, 3).await;
    assert_eq!(world.cache.fences().floor(), settled, "and not again");
}

/// It may have millions of rows, or be locked; the log is a matter of milliseconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_read_of_the_catalog_is_waited_for() {
    let tracked = Triggers::new().table("a").table("b");
    let world = World::new(false, VIEW, tracked, &["select v from v"]).await;
    assert_eq!(world.warm(0).await, "a");
    let lock = lock_catalogue(&world).await;
    world.psql("create or replace view v as select v from b").await;
    waits_for_catalogue(&world, "4 s").await;
    drop(lock);
    world.becomes(0, "b", "the view has changed").await;
    assert_eq!(world.warm(0).await, "b");
    world.psql("create or replace view v as select v from a").await;
    world.becomes(0, "a", "the view has changed back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_objects_rights_and_maintenance_invalidate_nothing() {
    let setup = "create table t (id int primary key, v text);
        create table parent (id int) partition by list (id);
        create role visitor login; grant select on t to visitor;
        create role unknown_here login;";
    for noted in [false, true] {
        let tracked = Triggers::new().table("t").table("parent");
        let world = World::new(noted, setup, tracked, &[]).await;
        let mut changes = Changes::follow(&world.db).await.unwrap();
        let by = |role: &str| world.server.url().replace("postgres@", &format!("{role}@"));
        for (role, sql) in [
            ("visitor", TEMPORARY),
            ("postgres", TEMPORARY),
            (
                "postgres",
                "create temp table kid () inherits (t); insert into kid values (2); drop table kid",
            ),
            ("postgres", "create temp table kid () inherits (t)"),
            ("postgres", "grant select on t to visitor; revoke select on t from visitor"),
            ("postgres", "analyze"),
            ("postgres", "vacuum full t"),
            ("postgres", "vacuum freeze"),
            (
                "postgres",
                "comment on table t is 'x'; create index on t (v); reindex table t; drop index t_v_idx",
            ),
            ("unknown_here", "alter role unknown_here set datestyle = 'German'"),
            ("unknown_here", "alter default privileges grant select on tables to visitor"),
        ] {
            let mut session = PgConnection::connect(&by(role)).await.unwrap();
            for statement in sql.split(';') {
                sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut session).await.unwrap();
            }
            world.psql("insert into t values (1); delete from t").await;
            let change = next(&mut changes).await;
            assert!(!change.all, "{noted} {role}: {sql}");
        }
        world.psql("truncate t").await;
        let change = next(&mut changes).await;
        assert!(!change.all && change.tags == ["t", "t!"], "{change:?}");
        for sql in [
            "alter role visitor set datestyle = 'German'; grant select on t to visitor",
            "alter database postgres set timezone = 'UTC'",
            "create table another ()",
        ] {
            world.psql(sql).await;
            assert!(next(&mut changes).await.all, "{noted}: {sql}");
        }
    }
}

/// It has no right to the tables, and what its connections begin with is no change of the schema.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_follows_the_search_path_of_a_role_that_reads_only_views() {
    let setup = "create table a (v text); insert into a values ('a');
        create table b (v text); insert into b values ('b');
        create schema one create view shown as select v from public.a;
        create schema two create view shown as select v from public.b;
        create role api login; alter role api set search_path = one;
        grant usage on schema one, two to api; grant select on one.shown, two.shown to api";
    for noted in [false, true] {
        let tracked = Triggers::new().table("a").table("b");
        let world = World::of_role("api", noted, setup, tracked, &["select v from shown"]).await;
        assert_eq!(world.warm(0).await, "a");
        world.psql("alter role api set search_path = two").await;
        world.becomes(0, "b", "the other view").await;
        assert_eq!(world.warm(0).await, "b");
        world.psql("update b set v = 'c'").await;
        world.becomes(0, "c", "its table has changed").await;
    }
}

/// What a role has no right to use is left out of its search path.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_follows_a_schema_on_the_search_path_that_becomes_usable() {
    let setup = "create table a (v text); insert into a values ('a');
        create table b (v text); insert into b values ('b');
        create schema one create view shown as select v from public.a;
        create schema two create view shown as select v from public.b;
        create role api login; alter role api set search_path = two, one;
        grant usage on schema one to api; grant select on one.shown, two.shown to api";
    for noted in [false, true] {
        let tracked = Triggers::new().table("a").table("b");
        let world = World::of_role("api", noted, setup, tracked, &["select v from shown"]).await;
        assert_eq!(world.warm(0).await, "a");
        world.psql("grant usage on schema two to api").await;
        world.becomes(0, "b", "the other view").await;
        assert_eq!(world.warm(0).await, "b");
        world.psql("update b set v = 'c'").await;
        world.becomes(0, "c", "its table has changed").await;
    }
}

/// What a change that is never noticed waits for in vain.
async fn next(changes: &mut Changes) -> Change {
    tokio::time::timeout(Duration::from_mins(1), changes.next()).await.unwrap().unwrap()
}

const TEMPORARY: &str = "create temp table x (a int default 3 primary key, b text);
    create policy p on x using (true);
    create rule r as on insert to x do also select 1;
    create temp table y (a int) partition by list (a);
    create temp table z partition of y for values in (1);
    create temp view w as select 1 as one;
    create function pg_temp.f() returns int language sql as 'select 1';
    create type pg_temp.mood as enum ('sad');
    alter type pg_temp.mood rename value 'sad' to 'blue';
    create type pg_temp.pair as (a int);
    create cast (pg_temp.pair as text) with inout;
    create text search configuration pg_temp.mine (copy = english);
    create operator pg_temp.## (function = int4pl, leftarg = int, rightarg = int);
    alter table x rename column b to c;
    alter table x add column d int default 7;
    drop cast (pg_temp.pair as text);
    drop policy p on x;
    drop table x;
    drop type pg_temp.pair;";
