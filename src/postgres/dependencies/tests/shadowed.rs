//! Functions and operators in `public` that match the arguments of Tidegate's queries better than the system's.

use super::super::Dependencies;
use super::super::narrow::narrow;
use super::server::Server;

const SCHEMA: &str = "
create table a (id int primary key, t text);
create table b (id int primary key);
select track('a', '1 2'), track('b');
create view v as select a.t from a join b using (id);
create function twice(n int) returns int immutable language sql as 'select n + n';";

/// Postgres prefers an exact match in any schema of the path to one by conversion, or by a polymorphic argument
/// (PostgreSQL manual, sections 10.2 and 10.3).
const EXACT: &str = "
create function unnest(text[]) returns setof text language sql as 'select null where false';
create function unnest(int8[]) returns setof int8 language sql as 'select 0::int8 where false';
create function unnest(oid[]) returns setof oid language sql as 'select 0::oid where false';
create function cardinality(int2[]) returns int language sql as 'select 1';
create function same(int8, name) returns int8 language sql as 'select $1';
create aggregate count(name) (sfunc = same, stype = int8, initcond = 0);
create function never(oid, int) returns boolean immutable language sql as 'select false';
create function never(oid, regtype) returns boolean immutable language sql as 'select false';
create function nothing(name, name) returns text immutable language sql as 'select null::text';
create function nothing(text[], text[]) returns text[] immutable language sql as 'select null::text[]';
create operator >= (leftarg = oid, rightarg = int, function = never);
create operator < (leftarg = oid, rightarg = int, function = never);
create operator <> (leftarg = oid, rightarg = int, function = never);
create operator <> (leftarg = oid, rightarg = regtype, function = never);
create operator || (leftarg = name, rightarg = name, function = nothing);
create operator || (leftarg = text[], rightarg = text[], function = nothing);";

#[tokio::test]
async fn user_objects_that_shadow_system_functions_do_not_change_the_analysis() {
    let mut server = Server::start(SCHEMA).await;
    let statements = [
        "select t from a where id = 1",
        "select t from a where t = 'x' and id in (1, 2)",
        "select lower(t) from v",
        "select twice(id), now() from b",
        "select random() from b",
    ];
    let mut before = Vec::new();
    for sql in statements {
        before.push(shown(&mut server, sql).await);
    }
    assert!(
        before[0].contains("by: [Equality") && before[1].contains("by: [Equality"),
        "{before:?}"
    );
    server.run(EXACT).await;
    for (sql, before) in statements.into_iter().zip(before) {
        assert_eq!(shown(&mut server, sql).await, before, "{sql}");
    }
}

/// With such a search path, a name that the analysis takes for the system's may refer to another object, and the analysis
/// itself uses such names in its queries.
#[tokio::test]
async fn a_search_path_with_pg_catalog_after_another_schema_is_refused() {
    let mut server = Server::start(SCHEMA).await;
    server
        .run("create function lower(text) returns text immutable language sql as 'select $1'")
        .await;
    for (path, is_refused) in [
        ("public", false),
        ("pg_catalog, public", false),
        ("pg_temp, pg_catalog, public", false),
        ("pg_temp, public", false),
        ("public, pg_catalog", true),
        ("nowhere, pg_catalog", false),
        ("pg_temp, public, pg_catalog", true),
    ] {
        server
            .run(&format!("set search_path = {path}; create temp table if not exists x ()"))
            .await;
        let found = server.resolve("select lower(t) from public.a").await;
        let refused = matches!(&found, Dependencies::Unanalyzable(unanalyzable) if unanalyzable.token() == "search-path");
        assert_eq!(refused, is_refused, "{path}: {found:?}");
    }
}

/// What a statement depends on, by rows where it says which.
async fn shown(server: &mut Server, sql: &str) -> String {
    let mut found = server.resolve(sql).await;
    if let Dependencies::Tables(tables) = &mut found {
        narrow(&mut server.conn, sql, tables).await.expect("conditions");
    }
    format!("{found:?}")
}
