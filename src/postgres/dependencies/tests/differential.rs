//! Compares the analysis with Postgres itself: with a view's recorded dependencies, and with the plan.

use std::collections::BTreeSet;

use sqlx::PgConnection;

use super::super::{Dependencies, TrackedTable};
use super::server::{Server, run};

const SCHEMA: &str = r#"
create schema s;
create table users (id int primary key, name text, boss int);
create table posts (id int primary key, author int, body text, at timestamptz);
create table s.tags (post int, word text);
create table "Odd Name" (id int);
create table parts (id int, n int) partition by range (id);
create table parts_1 partition of parts for values from (0) to (10);
select track('users'), track('posts'), track('s.tags'), track('"Odd Name"'), track('parts'),
       track('parts_1');
create view authors as select u.* from users u where exists (select from posts p where p.author = u.id);
create view wide as select a.name, t.word from authors a, posts p left join s.tags t on t.post = p.id;
create function twice(int) returns int immutable language sql as 'select $1 * 2';
"#;

const QUERIES: &[&str] = &[
    "select * from users",
    "select u.name, count(*) from users u join posts p on p.author = u.id group by u.name",
    "select * from users u left join lateral (select * from posts p where p.author = u.id order by at desc limit 1) l on true",
    "select name, (select count(*) from posts where author = users.id) as n from users",
    "select * from authors natural join (select name from wide) w",
    "with posts as (select * from users) select * from posts",
    "with users as (select * from users where id > 0) select * from users, \"Odd Name\"",
    "with recursive up as (select id, boss from users where id = 1 union all select u.id, u.boss from users u join up on u.id = up.boss) select * from up",
    "with a as (select 1 as id), b as (select * from a join posts using (id)) select b.id from b",
    "select id from users union select author from posts except (select post from s.tags)",
    "select * from parts",
    "select * from only parts_1",
    "select * from parts_1 where n = any (array(select id from users))",
    "select id from users order by (select max(word) from s.tags)",
    "select id from users limit (select count(*) from posts)",
    "select distinct on ((select id from \"Odd Name\" limit 1)) id from users",
    "select sum(id) over (partition by (select count(*) from posts)) from users",
    "select count(*) filter (where id in (select post from s.tags)) from posts",
    "select case when exists (select from s.tags) then (select max(id) from posts) end as x",
    "select coalesce((select min(name) from users), 'none') as x",
    "select array(select word from s.tags order by word) as x",
    "select * from generate_series(1, (select max(id) from users)) g",
    "select * from unnest(array(select id from posts)) with ordinality u(x, n)",
    "select twice(id) as t from users where (id, name) = (select post, word from s.tags limit 1)",
    "select u from users u",
    "select to_jsonb(u) - 'name' as j from users u where u.id between 1 and (select max(id) from posts)",
    "values (1, (select max(name) from users)), (2, null)",
    "table users",
    "select * from (values (1)) v(x) where x not in (table \"Odd Name\")",
    "select id from users group by grouping sets ((id), ()) having count(*) > (select count(*) from posts)",
    "select name from users where name like (select word from s.tags limit 1) || '%' fetch first 2 rows only",
    "select extract(epoch from at), at at time zone (select max(name) from users) as z from posts",
    "select string_agg(word, ',' order by (select 1 from posts limit 1)) as x from s.tags",
    "select overlay(name placing (select max(word) from s.tags) from 1) as x from users",
    "select trim(both 'x' from (select max(word) from s.tags)) as x",
    "select (select u from users u limit 1).name as x",
    "select * from users tablesx (a, b) where exists (values ((select 1 from posts limit 1)))",
    "select * from (users u join posts p on p.author = u.id) cross join \"Odd Name\"",
    "select id is distinct from (select max(id) from posts) as d from users",
    "select percentile_cont(0.5) within group (order by (select 1.0 from posts limit 1)::float8) as p from users",
    "select rank() over w from users window w as (order by (select max(id) from posts))",
    "select row_to_json(x) from (select u.id, p.body from users u, posts p) x",
    "select 1 as \"from\", 'from posts' as x from users -- , s.tags",
];

/// Refused as views, and read as they are.
const WHOLE_ROW: &[&str] =
    &["select u from users u", "select (select u from users u limit 1).name as x"];

/// The topmost tables below what a view reads, which for a plain table is itself.
const RECORDED: &str = "
with recursive reads (oid) as (
    select 'probe'::regclass::oid
    union
    select d.refobjid from reads r join pg_rewrite w on w.ev_class = r.oid
    join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = w.oid
    where d.refclassid = 'pg_class'::regclass and w.ev_type = '1'
), roots (oid, top) as (
    select oid, oid from reads
    union
    select r.oid, i.inhparent from roots r join pg_inherits i on i.inhrelid = r.top
)
select case nspname when 'public' then '' else nspname || '.' end || relname
from roots join pg_class c on c.oid = top join pg_namespace n on n.oid = relnamespace
where relkind in ('r', 'p') and not relispartition";

#[tokio::test]
async fn every_table_that_postgres_records_for_a_view_is_found() {
    let mut server = Server::start(SCHEMA).await;
    for sql in QUERIES {
        let ours = ours(&mut server, sql).await;
        let columns = numbered(&mut server.conn, sql).await;
        run(&mut server.conn, &format!("create view probe {columns} as {sql}\n")).await;
        let noted: Vec<String> =
            sqlx::query_scalar(RECORDED).fetch_all(&mut server.conn).await.expect("notes");
        let noted: BTreeSet<String> = noted.into_iter().collect();
        match server.resolve("select * from probe").await {
            Dependencies::Tables(tables) => assert_eq!(names(tables), noted, "a view of {sql}"),
            Dependencies::Unanalyzable(unanalyzable) => {
                // The server writes a whole row as `u.*::users`, which the parser can't read.
                assert!(WHOLE_ROW.contains(sql), "a view of {sql}: {unanalyzable}");
            }
        }
        run(&mut server.conn, "drop view probe").await;
        assert_eq!(ours, noted, "{sql}");
    }
}

#[tokio::test]
async fn every_table_in_a_query_plan_is_found() {
    let mut server = Server::start(SCHEMA).await;
    for sql in QUERIES {
        let ours = ours(&mut server, sql).await;
        let explain = format!("explain (verbose, format json) {sql}");
        let plan: String = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select plan::text from pg_temp.explained({})",
            quoted(&explain)
        )))
        .fetch_one(explainer(&mut server.conn).await)
        .await
        .expect("plan");
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
        let mut scanned = BTreeSet::new();
        collect(&plan, &mut scanned);
        assert!(scanned.is_subset(&ours), "{sql}: {scanned:?} in the plan, {ours:?} found");
    }
}

async fn ours(server: &mut Server, sql: &str) -> BTreeSet<String> {
    match server.resolve(sql).await {
        Dependencies::Tables(tables) => names(tables),
        Dependencies::Unanalyzable(unanalyzable) => panic!("{sql}: {unanalyzable}"),
    }
}

fn names(tables: Vec<TrackedTable>) -> BTreeSet<String> {
    tables.into_iter().map(|table| table.name).collect()
}

/// Names for a view's columns, since a query may give two the same name.
async fn numbered(conn: &mut PgConnection, sql: &str) -> String {
    use sqlx::{Executor, SqlSafeStr, Statement};
    let prepared =
        conn.prepare(sqlx::AssertSqlSafe(sql.to_owned()).into_sql_str()).await.expect("columns");
    let names: Vec<_> = (0..prepared.columns().len()).map(|n| format!("c{n}")).collect();
    format!("({})", names.join(", "))
}

/// EXPLAIN can't be read as text by the extended protocol's caller; a function can.
async fn explainer(conn: &mut PgConnection) -> &mut PgConnection {
    run(
        conn,
        "create or replace function pg_temp.explained(sql text, out plan json) language plpgsql
         as 'begin execute sql into plan; end'",
    )
    .await;
    conn
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn collect(plan: &serde_json::Value, found: &mut BTreeSet<String>) {
    match plan {
        serde_json::Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        serde_json::Value::Object(fields) => {
            if let (Some(name), Some(schema)) = (
                fields.get("Relation Name").and_then(serde_json::Value::as_str),
                fields.get("Schema").and_then(serde_json::Value::as_str),
            ) {
                let tag =
                    if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") };
                found.insert(if tag == "parts_1" { "parts".to_owned() } else { tag });
            }
            fields.values().for_each(|field| collect(field, found));
        }
        _ => {}
    }
}
