//! Values in a statement's text: the rows that they restrict it to; and no part of a value is ever executed.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{Cache, Cached, Database, DatabaseOptions, Listener, Memory, Triggers, ValuePolicy};
use tidegate_testing::{Postgres, eventually};

struct World {
    postgres: Postgres,
    db: Database,
    cache: Cache,
}

impl World {
    async fn new(schema: &str, tables: Triggers) -> Self {
        let postgres = Postgres::start().await.expect("Postgres");
        postgres.psql(schema).await.expect("schema");
        let mut conn = PgConnection::connect(&postgres.url()).await.expect("connection");
        tables.install(&mut conn).await.expect("triggers");
        let db = DatabaseOptions::new(postgres.url()).connect().await.expect("database");
        let cache = Cache::new(Memory::new(1 << 20));
        Listener::spawn(&db, &cache).await.expect("listener");
        Self { postgres, db, cache }
    }

    fn cached(&self) -> Cached {
        self.db.cached(
            &self.cache,
            ValuePolicy::ttl(Duration::from_mins(1)).early_refresh(0.0).build().expect("policy"),
        )
    }

    async fn numbers(&self, sql: &str) -> Vec<(i32,)> {
        let query = sqlx::query(AssertSqlSafe(sql.to_owned()));
        self.cached().fetch_all(query).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }
}

const PEOPLE: &str = r"
create table people (name text primary key, n int);
insert into people values ('a''''b', 0), ('it''s', 0), ('a\''b', 0), ('\', 0), ('a\\b', 0), ('', 0), ('{name}', 0);
create sequence spied;
create function spy() returns bigint language sql as $$ select nextval('spied') $$;";

#[tokio::test]
async fn a_change_to_a_row_is_seen_by_reads_with_any_spelling_of_its_literal() {
    let world = World::new(PEOPLE, Triggers::new().table("people")).await;
    let literals = [
        r"'a''''b'",
        r"'it''s'",
        r"'a\''b'",
        r"'\'",
        r"'a\\b'",
        "''",
        "'{name}'",
        r"E'a\'\'b'",
        r"E'it\'s'",
        r"E'\\'",
        r"$$it's$$",
        r"$x$a\'b$x$",
        r"N'it''s'",
        r"'it''s'::text",
        r"cast('a''''b' as text)",
        r"text 'it''s'",
        r"('a\\b')",
        r"'it''s'::varchar",
        r"'it''s'::name",
        r"'it''s'::char(9)",
        r"'it''sx'::varchar(4)",
    ];
    for literal in literals {
        let sql = format!("select n from people where name = {literal}");
        let before = world.numbers(&sql).await;
        assert_eq!(before.len(), 1, "{literal} is a row's name");
        let write = format!("update people set n = n + 1 where name = {literal}");
        world.postgres.psql(&write).await.expect("update");
        let seen = async || world.numbers(&sql).await[0].0 == before[0].0 + 1;
        eventually(&format!("the change is seen through {literal}"), seen).await.expect("seen");
    }
}

#[tokio::test]
async fn no_part_of_a_literal_is_executed() {
    let world = World::new(PEOPLE, Triggers::new().table("people")).await;
    for literal in [
        r"'x\'')::text, (select spy()::text) --'",
        r"'x'''')::text, (select spy()::text) --'",
        r"'x\'')::text, (select spy()::text) --'::text",
        r"N'x\'')::text, (select spy()::text) --'",
        r"E'x\\\')::text, (select spy()::text) --'",
    ] {
        world.numbers(&format!("select n from people where name = {literal}")).await;
        let spied = world.postgres.psql("select is_called from spied").await.expect("spied");
        assert_eq!(spied, "f", "{literal}");
    }
}

#[tokio::test]
async fn the_server_sees_a_literal_only_in_the_clients_own_statement() {
    let world = World::new(PEOPLE, Triggers::new().table("people")).await;
    for sql in ["alter system set log_statement = 'all'", "select pg_reload_conf()"] {
        world.postgres.psql(sql).await.expect("log");
    }
    let logged = async || world.postgres.log().contains("reloading configuration files");
    eventually("the log is on", logged).await.expect("log");
    for literal in [r"'marked'", r"'marked\'''", r"E'marked'", r"$$marked$$", r"'marked'::text"] {
        let sql = format!("select n as found from people where name = {literal} -- marked");
        world.numbers(&sql).await;
        let log = world.postgres.log();
        let marked: Vec<&str> = log.lines().filter(|line| line.contains("marked")).collect();
        let others = marked.iter().filter(|line| !line.contains(": select n as found from people"));
        assert_eq!(others.count(), 0, "{marked:#?}");
        assert!(!marked.is_empty(), "the statement itself was run");
    }
}

#[tokio::test]
async fn a_change_to_a_row_is_seen_by_reads_that_cast_a_text_to_its_number() {
    let schema =
        "create table a (id int primary key, n int); insert into a values (1, 0), (10, 0), (-1, 0)";
    let world = World::new(schema, Triggers::new().table("a")).await;
    for (text, id) in [("1", 1), (" 1 ", 1), ("+1", 1), ("010", 10), ("-1", -1), ("-01", -1)] {
        let count = async || {
            let query = sqlx::query("select n from a where id = $1::int").bind(text);
            world.cached().fetch_one::<(i32,)>(query).await.expect("row").0
        };
        let before = count().await;
        let write = format!("update a set n = n + 1 where id = {id}");
        world.postgres.psql(&write).await.expect("update");
        eventually(text, async || count().await == before + 1).await.expect("seen");
    }
}

#[tokio::test]
async fn a_parameter_is_not_read_as_the_type_of_another_statements_parameter() {
    // As an `int4`, the four bytes of the text would be another number.
    let schema = "create table a (id int primary key, n int); insert into a values (1234, 0)";
    let world = World::new(schema, Triggers::new().table("a")).await;
    let number = sqlx::query("select n, 1 from a where id = $1::int").bind(1234_i32);
    assert_eq!(world.cached().fetch_one::<(i32, i32)>(number).await.expect("row").0, 0);
    let count = async || {
        let query = sqlx::query("select n from a where id = $1::int").bind("1234");
        world.cached().fetch_one::<(i32,)>(query).await.expect("row").0
    };
    assert_eq!(count().await, 0);
    world.postgres.psql("update a set n = 1").await.expect("update");
    eventually("the change is seen", async || count().await == 1).await.expect("seen");
}

/// Changes of rows with long values have one tag for all of them.
#[tokio::test]
async fn a_change_to_a_row_with_a_long_value_is_seen_by_reads_by_that_value() {
    let world = World::new(PEOPLE, Triggers::new().table("people")).await;
    let long = "x".repeat(2_100);
    world.postgres.psql(&format!("insert into people values ('{long}', 0)")).await.expect("insert");
    let read = async || {
        let query = sqlx::query("select n from people where name = $1").bind(&long);
        world.cached().fetch_all::<(i32,)>(query).await.expect("rows")[0].0
    };
    assert_eq!(read().await, 0);
    world.postgres.psql("update people set n = 1 where length(name) > 2000").await.expect("update");
    eventually("the change is seen", async || read().await == 1).await.expect("seen");
}

const STRANGE: &str = r#"
create table "a=B" (id text primary key, "X=Y" text, n int);
insert into "a=B" values ('A', '042', 0), ('C', '7', 0);"#;

/// A change names its tags as text; the same rule gives the tags of reads.
#[tokio::test]
async fn reads_and_changes_agree_on_tags_of_names_that_contain_separators() {
    let columns = Triggers::new().columns("a=B", &["X=Y"]);
    let world = World::new(STRANGE, columns).await;
    let reads = [
        r#"select n from "a=B" where id = 'A'"#,
        r#"select n from "a=B" where "X=Y" = '042'"#,
        r#"select sum(n)::int from "a=B""#,
    ];
    let sees = async |n: i32| {
        for sql in reads {
            let what = format!("{n} by {sql}");
            let seen = eventually(&what, async || world.numbers(sql).await == [(n,)]).await;
            seen.unwrap_or_else(|error| panic!("{error}"));
        }
    };
    sees(0).await;
    for (n, change) in [
        (1, r#"update "a=B" set n = 1 where id = 'A'"#),
        (2, r#"truncate "a=B"; insert into "a=B" values ('A', '042', 2)"#),
    ] {
        world.postgres.psql(change).await.expect(change);
        sees(n).await;
    }
}
