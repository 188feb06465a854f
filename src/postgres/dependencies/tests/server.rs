//! Dependencies on a real server.

use sqlx::{Connection, PgConnection};

use super::super::Dependencies;
use super::text::read;
use crate::postgres::dependencies::resolve;
use tidegate_testing::Postgres;

/// Triggers of the names and arguments that tracking gives them.
const TRACK: &str = "
create schema tidegate;
create function tidegate.changed() returns trigger language plpgsql as 'begin return null; end';
create function public.track(t regclass, numbers text default '1') returns void
language plpgsql volatile as $$
declare event text;
begin
    foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
        execute format('create trigger %I after %s on %s for each statement
            execute function tidegate.changed(100, %L)', 'tidegate_' || event, event, t, numbers);
        execute format('alter table %s enable always trigger %I', t, 'tidegate_' || event);
    end loop;
end $$;";

pub(super) struct Server {
    _postgres: Postgres,
    pub(super) conn: PgConnection,
}

impl Server {
    pub(super) async fn start(schema: &str) -> Self {
        let postgres = Postgres::start().await.expect("Postgres");
        let mut conn = PgConnection::connect(&postgres.url()).await.expect("connection");
        run(&mut conn, TRACK).await;
        run(&mut conn, schema).await;
        Self { _postgres: postgres, conn }
    }

    pub(super) async fn run(&mut self, sql: &str) {
        run(&mut self.conn, sql).await;
    }

    pub(super) async fn resolve(&mut self, sql: &str) -> Dependencies {
        resolve(&mut self.conn, &read(sql)).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The tables' names, or the token of what is wrong.
    async fn tables(&mut self, sql: &str) -> String {
        match self.resolve(sql).await {
            Dependencies::Tables(tables) => {
                let mut names: Vec<_> = tables.into_iter().map(|table| table.name).collect();
                names.sort();
                names.join(" ")
            }
            Dependencies::Unanalyzable(unanalyzable) => format!("!{}", unanalyzable.token()),
        }
    }

    pub(super) async fn assert_all(&mut self, cases: &[(&str, &str)]) {
        let mut wrong = Vec::new();
        for (sql, expected) in cases {
            let found = self.tables(sql).await;
            if found != *expected {
                wrong.push(format!("{sql}: {found}, not {expected}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

pub(super) async fn run(conn: &mut PgConnection, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(conn).await.expect("statement");
}

#[tokio::test]
async fn tables_resolve_to_their_tags_or_to_a_reason_for_refusal() {
    let mut server = Server::start(
        r#"
        create schema s; create schema "S.x";
        create table a (id int primary key, t text); select track('a', '1 2');
        create table b (id int); select track('b', '');
        create table s.a (id int); select track('s.a');
        create table "S.x"."A b" (id int); select track('"S.x"."A b"');
        create table bare (id int);
        create table half (id int); select track('half'); alter table half disable trigger tidegate_delete;
        create table part (id int, t text) partition by range (id);
        create table part_1 partition of part for values from (0) to (9) partition by list (t);
        create table part_1_a partition of part_1 for values in ('a');
        select track('part', '1 2'), track('part_1', '1 2'), track('part_1_a', '2');
        create table parent (id int); create table child () inherits (parent);
        select track('parent'), track('child');
        create table open_parent (id int); create table open_child () inherits (open_parent);
        select track('open_parent');
        create table mother (id int); create table father (id int);
        create table both_of () inherits (mother, father);
        select track('mother'), track('father'), track('both_of');
        create table hidden (id int); select track('hidden');
        alter table hidden enable row level security;
        create materialized view mat as select * from a;
        create sequence seq;
        create type pair as (x int, y int);
        create extension if not exists postgres_fdw; create server far foreign data wrapper postgres_fdw;
        create foreign table abroad (id int) server far;
        "#,
    )
    .await;
    server
        .assert_all(&[
            ("select 1", ""),
            ("select * from a join b using (id)", "a b"),
            ("select * from A, s.a", "a s.a"),
            (r#"select * from "S.x"."A b""#, "S.x.A b"),
            (r#"select * from "A""#, "!unknown-relation"),
            ("select * from nowhere", "!unknown-relation"),
            ("select * from bare", "!untracked-table"),
            ("select * from half", "!untracked-table"),
            ("select * from part_1_a", "part"),
            ("select * from part_1, part", "part"),
            ("select * from child", "parent"),
            ("select * from only parent", "parent"),
            ("select * from open_parent", "!untracked-table"),
            ("select * from open_child", "!untracked-table"),
            ("select * from both_of", "!several-parents"),
            ("select * from mother", "!several-parents"),
            ("select * from hidden", "!row-security"),
            ("select * from mat", "!materialized-view"),
            ("select * from seq", "!sequence"),
            ("select * from pair", "!unknown-kind"),
            ("select * from abroad", "!foreign-table"),
            ("select * from pg_class", "!system-catalog"),
            ("select * from information_schema.tables", "!system-catalog"),
            ("with bare as (select * from a) select * from bare", "a"),
            ("with a as (select * from bare) select * from a", "!untracked-table"),
        ])
        .await;
    let untracked = server.resolve("select * from open_child").await;
    let Dependencies::Unanalyzable(unanalyzable) = untracked else { panic!("{untracked:?}") };
    let text = "table open_child is not tracked; run `tidegate install open_parent`";
    assert_eq!(unanalyzable.to_string(), text);
    for (sql, columns) in
        [("table a", vec!["id", "t"]), ("table b", vec![]), ("table part", vec!["t"])]
    {
        let Dependencies::Tables(tables) = server.resolve(sql).await else { panic!("{sql}") };
        assert_eq!(tables[0].columns, columns, "{sql}");
    }
}

#[tokio::test]
async fn names_resolve_by_the_connections_search_path_and_temporary_tables() {
    let mut server = Server::start(
        "create schema s; create table a (id int); create table s.a (id int);
         select track('a'), track('s.a');",
    )
    .await;
    server.assert_all(&[("table a", "a")]).await;
    server.run("set search_path = s, public").await;
    server.assert_all(&[("table a", "s.a"), ("table public.a", "a")]).await;
    server.run("create temp table a (id int)").await;
    server
        .assert_all(&[
            ("table a", "!temporary-table"),
            ("table s.a", "s.a"),
            ("table pg_temp.a", "!unknown-relation"),
        ])
        .await;
}

#[tokio::test]
async fn views_are_resolved_through_nested_views() {
    let mut server = Server::start(
        r#"
        create table a (id int); create table b (id int); create table bare (id int);
        create schema s; create table s."C" (id int);
        select track('a'), track('b'), track('s."C"');
        create function calm(int) returns int immutable language sql as 'select $1';
        create function wild(int) returns int language sql as 'select $1';
        create view v as select id from a where exists (select from b where b.id = a.id);
        create view vv as with c as (select * from v) select c.id, (select count(*) from s."C") from c;
        create view vvv as select calm(id) from vv;
        create view over_bare as select id from bare;
        create view vv_bare as select * from over_bare union all select 1;
        create view calls as select wild(id) from a;
        create view vcalls as select * from calls;
        create view system as select relname from pg_class;
        create view random as select random();
        create view who as select current_user;
        create view often as select now(), current_date, extract(year from now()), 'a' like 'b' as l,
            substring('abc' from 2), 'x' || id as x, (select array_agg(id order by id) from b),
            case id when 1 then interval '1 day' end as c, id in (1, 2, 3) as i,
            id = any (array[1, 2]) as y, now() at time zone 'utc' as z,
            coalesce(id, 1) as n, count(*) filter (where id > 0) over (partition by id) as w
            from a group by id;
        create recursive view tree (id) as select id from a union all select id + 1 from tree where id < 5;
        create view locked as select * from a for update;
        "#,
    )
    .await;
    server
        .assert_all(&[
            ("table v", "a b"),
            ("table vv", "a b s.C"),
            ("table vvv", "a b s.C"),
            ("table over_bare", "!untracked-table"),
            ("table vv_bare", "!untracked-table"),
            ("table calls", "!volatile-function"),
            ("table vcalls", "!volatile-function"),
            ("table system", "!system-catalog"),
            ("table random", "!volatile-function"),
            ("table who", "!session-dependent"),
            ("table often", "a b"),
            ("table tree", "a"),
            ("table locked", "!locking-read"),
        ])
        .await;
    server.run("set search_path = s").await;
    server.assert_all(&[("table public.vvv", "a b s.C"), ("table vvv", "!unknown-relation")]).await;
}

#[tokio::test]
async fn functions_are_trusted_only_as_far_as_their_declared_volatility() {
    let mut server = Server::start(
        r"
        create table a (id int); select track('a'); create table bare (id int);
        create schema s;
        create function calm(int) returns int immutable language sql as 'select $1';
        create function calm(text) returns int immutable language sql as 'select 1';
        create function mixed(int) returns int immutable language sql as 'select $1';
        create function mixed(text) returns int stable language sql as 'select count(*)::int from bare';
        create function wild() returns int language sql as 'select 1';
        create function s.calm() returns int language sql as 'select 1';
        create function plain_default(x int, n int default 10) returns int immutable language sql as 'select 1';
        create function wild_default(x int, n int default wild()) returns int immutable language sql as 'select 1';
        create function computed(a) returns text stable language sql as 'select id::text from bare';
        create function fine(a) returns text immutable language sql as 'select ''x''';
        create function wild_step(int, int) returns int language sql as 'select 1';
        create aggregate wild_sum(int) (sfunc = wild_step, stype = int);
        create aggregate calm_sum(int) (sfunc = int4pl, stype = int);
        ",
    )
    .await;
    server
        .assert_all(&[
            ("select calm(id), count(*), sum(id), row_number() over () from a", "a"),
            ("select calm('x')", ""),
            ("select mixed(1)", "!stable-function"),
            ("select wild()", "!volatile-function"),
            ("select s.calm()", "!volatile-function"),
            ("select * from a order by wild()", "!volatile-function"),
            ("select * from wild()", "!volatile-function"),
            ("select nowhere(1)", "!unknown-function"),
            ("select plain_default(1)", ""),
            ("select wild_default(1)", "!volatile-function"),
            ("select a.computed from a", "!stable-function"),
            ("select (a).computed from a", "!stable-function"),
            ("select computed(a) from a", "!stable-function"),
            ("select a.fine, a.id from a", "a"),
            ("select wild_sum(id) from a", "!volatile-function"),
            ("select calm_sum(id) from a", "a"),
            ("select random()", "!volatile-function"),
            ("select nextval('x')", "!volatile-function"),
            ("select current_setting('x')", "!system-function"),
            ("select query_to_xml('table bare', true, true, '')", "!volatile-function"),
            ("select pg_relation_size('a')", "!volatile-function"),
            ("select has_table_privilege('a', 'select')", "!system-function"),
            ("select inet_client_addr()", "!system-function"),
            ("select now(), to_char(now(), 'YYYY'), date_trunc('day', now()), age(now(), now())", ""),
            ("select json_build_object('a', id), jsonb_agg(id), string_agg('x', ',') from a group by id", "a"),
            ("select coalesce(id, 1), greatest(id, 2), row(id, 1) from a", "a"),
            ("select * from generate_series(1, 3) g, unnest(array[1]) u", ""),
            ("select to_tsvector('english', 'x') @@ plainto_tsquery('x')", ""),
            ("select extract(year from now()), now() at time zone 'utc', ceil(1.5), position('a' in 'b')", ""),
        ])
        .await;
}

#[tokio::test]
async fn untrusted_operators_casts_and_string_settings_are_refused() {
    let mut server = Server::start(
        "create function wild(int, int) returns int language sql as 'select 1';
         create operator <% (leftarg = int, rightarg = int, function = wild);",
    )
    .await;
    server.assert_all(&[("select 1 < 2", ""), ("select 1 <% 2", "!operator")]).await;
    server.assert_all(&[("select 1 operator(public.<%) 2", "!operator")]).await;
    server
        .run(
            "create type mood as (m int);
             create function moody(mood) returns int language sql as 'select 1';
             create cast (mood as int) with function moody(mood) as implicit;",
        )
        .await;
    server.assert_all(&[("select 1 < 2", ""), ("select '(1)'::mood::int", "!cast")]).await;
    server.run("drop cast (mood as int); set standard_conforming_strings = off").await;
    server.assert_all(&[("select 1", "!old-strings")]).await;
}
