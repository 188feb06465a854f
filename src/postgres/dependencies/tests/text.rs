//! Each place where a table or a function can hide, by name.

use std::collections::BTreeSet;

use super::super::{Analysis, References, analyze};

pub(super) fn read(sql: &str) -> References {
    match analyze(sql) {
        Analysis::Read(references) => references,
        Analysis::Other(unanalyzable) => panic!("{sql}: {unanalyzable}"),
    }
}

fn unanalyzable(sql: &str) -> &'static str {
    match analyze(sql) {
        Analysis::Read(references) => panic!("{sql}: {references:?}"),
        Analysis::Other(unanalyzable) => unanalyzable.token(),
    }
}

fn names<T: ToString>(names: &BTreeSet<T>) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Every case that came out otherwise, so that one run shows them all.
fn assert_all(cases: &[(&str, &str)], found: impl Fn(&str) -> String) {
    let wrong: Vec<_> = cases.iter().filter(|(sql, expected)| found(sql) != *expected).collect();
    let found: Vec<_> = wrong.iter().map(|(sql, _)| found(sql)).collect();
    assert!(wrong.is_empty(), "{wrong:#?} came out as {found:#?}");
}

fn relations(sql: &str) -> String {
    match analyze(sql) {
        Analysis::Read(found) => names(&found.relations),
        Analysis::Other(unanalyzable) => unanalyzable.to_string(),
    }
}

fn functions(sql: &str) -> String {
    match analyze(sql) {
        Analysis::Read(found) => names(&found.functions),
        Analysis::Other(unanalyzable) => unanalyzable.to_string(),
    }
}

#[test]
fn relations_are_found_in_every_clause() {
    let cases = [
        ("select 1", ""),
        ("select * from a", "a"),
        ("select * from a;", "a"),
        ("select * from a, b c, only d", "a b d"),
        ("select * from s.a", "s.a"),
        (r#"select * from A, "A", "a b", "S"."a.b""#, "A S.a.b a a b"),
        ("select * from a natural join b cross join c left join only d on true", "a b c d"),
        ("select * from a full outer join (b right join c using (id)) on true", "a b c"),
        ("select * from (select * from a) x", "a"),
        ("select * from a, lateral (select * from b where b.id = a.id) x", "a b"),
        ("select (select max(x) from a)", "a"),
        ("select array(select x from a)", "a"),
        ("select * from a where exists (select from b)", "a b"),
        ("select * from a where x in (select x from b)", "a b"),
        ("select * from a where x = any (select x from b)", "a b"),
        ("select * from a where x <> all (select x from b)", "a b"),
        ("select * from a where x = some (table b)", "a b"),
        ("select case when exists (select from a) then (select 1 from b) end", "a b"),
        ("select coalesce((select 1 from a), (select 2 from b))", "a b"),
        ("select count(*) filter (where exists (select from a)) from b", "a b"),
        ("select sum(x) over (order by (select 1 from a)) from b", "a b"),
        ("select sum(x) over w from b window w as (partition by (select 1 from a))", "a b"),
        ("select percentile_cont(0.5) within group (order by (select 1 from a)) from b", "a b"),
        ("select array_agg(x order by (select 1 from a)) from b", "a b"),
        ("select distinct on ((select 1 from a)) x from b", "a b"),
        ("select x from b group by x, (select 1 from a)", "a b"),
        ("select x from b group by grouping sets ((x), ((select 1 from a)))", "a b"),
        ("select x from b group by x having exists (select from a)", "a b"),
        ("select x from b order by (select 1 from a) desc nulls last", "a b"),
        ("select x from b limit (select 1 from a) offset (select 1 from c)", "a b c"),
        ("select x from b order by x fetch first 3 rows only", "b"),
        ("select * from a join b on exists (select from c)", "a b c"),
        ("values (1), ((select 1 from a))", "a"),
        ("select * from (values ((select 1 from a))) v(x)", "a"),
        ("table a", "a"),
        ("table only a", "a"),
        ("table a union table b order by 1", "a b"),
        ("table a order by (select 1 from b) limit 1", "a b"),
        ("select 1 from a union all select 2 from b intersect select 3 from c", "a b c"),
        ("(select 1 from a) except (select 2 from b) order by 1", "a b"),
        ("select * from generate_series(1, (select 1 from a)) g(x)", "a"),
        ("select * from unnest(array(select x from a)) u", "a"),
        ("select * from unnest((select x from a), (select y from b)) with ordinality", "a b"),
        ("select x::int[] from a where (select y::text from b) like 'x' escape '!'", "a b"),
        ("select x between (select 1 from a) and (select 2 from b)", "a b"),
        ("select x is distinct from (select 1 from a) from b", "a b"),
        ("select x is not distinct from y from b", "b"),
        ("select t at time zone (select z from a) from b", "a b"),
        ("select extract(epoch from (select t from a))", "a"),
        ("select substring(x from (select 1 from a) for 2) from b", "a b"),
        ("select trim(both 'x' from (select t from a))", "a"),
        ("select overlay(x placing 'a' from (select 1 from a)) from b", "a b"),
        ("select position('x' in (select t from a))", "a"),
        ("select (array[(select 1 from a)])[(select 1 from b)]", "a b"),
        ("select row((select 1 from a), 2)", "a"),
        ("select ((select r from a)).field", "a"),
        ("select a.*, (b).x from a, b", "a b"),
        ("select f(x => (select 1 from a))", "a"),
        ("select x operator(pg_catalog.+) (select 1 from a) from b", "a b"),
        ("select not exists (select from a)", "a"),
        ("select - (select 1 from a)", "a"),
        ("select (select 1 from a) collate \"C\"", "a"),
        ("select cast((select 1 from a) as varchar(3))", "a"),
        ("select 1 /* from x /* nested */ from y */ from a -- , z", "a"),
        ("select 'from x' as \"from\", $$ from y $$, E'\\' from z' from a", "a"),
        ("select $1::int, $2 from a where x = $3", "a"),
    ];
    assert_all(&cases, relations);
}

#[test]
fn a_cte_hides_a_table_only_where_it_is_visible() {
    let cases = [
        ("with a as (select 1) select * from a", ""),
        ("with a as (select * from b) select * from a, c", "b c"),
        ("with a as (select * from a) select * from a", "a"),
        ("with recursive a as (select 1 union all select * from a) select * from a", ""),
        ("with a as (select * from b), b as (select 1) select * from a, b", "b"),
        ("with recursive a as (select * from b), b as (select 1) select * from a", ""),
        ("with b as (select 1), a as (select * from b) select * from a", ""),
        ("with a as (select 1) select * from s.a", "s.a"),
        ("select * from (with a as (select 1) select * from a) x, a", "a"),
        ("with a as (select 1) select * from b where exists (select from a)", "b"),
        ("(with a as (select 1) select * from a) union select * from a", "a"),
        ("with a as (with b as (table c) table b) select * from a, b", "b c"),
        ("with A as materialized (select 1) select * from a", ""),
        (r#"with "A" as (select 1) select * from a"#, "a"),
        (
            "with a(x, y) as not materialized (values (1, 2)) select * from a order by (select 1 from a)",
            "",
        ),
        ("with a as (table b) (with c as (table a) table c) union table a", "b"),
    ];
    assert_all(&cases, relations);
}

#[test]
fn functions_are_found_in_every_clause() {
    let cases = [
        ("select f(x)", "f"),
        ("select S.F(x), \"S\".\"F\"(y)", "S.F s.f"),
        ("select distinct on (f(x)) g(x) from a", "f g"),
        ("select * from f(1) with ordinality as t(x, n)", "f"),
        ("select * from s.f(1) t(x), lateral g(t.x)", "g s.f"),
        ("select * from a, unnest(f(a.x)) u", "f unnest"),
        ("select x from a order by f(x) limit g(1) offset h(2)", "f g h"),
        ("select x from a group by rollup (f(x)), cube (g(x), h(x))", "f g h"),
        ("select x from a group by grouping sets ((f(x)), ())", "f"),
        (
            "select sum(x) filter (where f(x)) over (partition by g(x) rows h(1) preceding) from a",
            "f g h sum",
        ),
        ("select sum(x) over w from a window w as (order by f(x))", "f sum"),
        ("select mode() within group (order by f(x)) from a", "f mode"),
        ("select case f(x) when g(x) then h(x) else i(x) end", "f g h i"),
        ("select x[f(1):g(2)], (f(x)).y from a", "f g"),
        ("select array[f(x)], row(g(x)), (h(x), 1)", "f g h"),
        ("select coalesce(f(x), nullif(g(x), 1)), greatest(h(x), least(i(x)))", "f g h i"),
        ("select x in (f(1)), x between f(1) and g(2), x like h('x') escape i('!')", "f g h i"),
        ("select x similar to f('x'), x ilike g('x'), x is distinct from h(x)", "f g h"),
        ("select f(x)::int, cast(g(x) as numeric(10, 2)), h(x) collate \"C\"", "f g h"),
        ("select f(x) at time zone g('x')", "f g timezone"),
        ("select extract(year from f(x)), date_trunc('day', x)", "date_trunc extract f"),
        (
            "select ceil(f(x)), floor(x), substring(g(x), 1), position(h(x) in i(x))",
            "ceil f floor g h i position substring",
        ),
        ("select trim(f(x)), overlay(x placing g(x) from h(1))", "f g h overlay"),
        (
            "select interval '1 day' * f(x), timestamp with time zone '2020-01-01', date '2020-01-01'",
            "f",
        ),
        ("select f(x order by g(x)), h(distinct i(x)), j(variadic k(x))", "f g h i j k"),
        ("select x operator(s.+) f(x), - g(x), not h(x)", "f g h"),
        ("select a.* from a where (f(x), 1) = (g(x), 2) and h(x) is not null", "f g h"),
        ("values (f(1))", "f"),
        ("select * from a join b on f(a.x) = b.x", "f"),
        ("select left(x, 1), right(x, 1), \"select\"(x)", "left right select"),
        (
            "select now(), current_timestamp, current_date, localtime, current_timestamp(3)",
            "current_timestamp now",
        ),
        ("select x.over(1), over(2)", "over x.over"),
        ("select json_build_object('a', f(x)), x ->> 'b', x @> '{}'", "f json_build_object"),
    ];
    assert_all(&cases, functions);
}

#[test]
fn operators_and_attributes_are_found() {
    let found = read("select a.x <% b.y, (c).z, s.f(1) from t where p @@ q operator(s.~<) r");
    assert_eq!(names(&found.operators), "<% @@ ~<");
    assert_eq!(names(&found.attributes), "f x y z");
}

#[test]
fn statements_that_are_not_plain_reads_are_refused() {
    let cases = [
        ("", "not-a-read"),
        ("insert into a values (1) returning *", "not-a-read"),
        ("update a set x = 1", "not-a-read"),
        ("with x as (delete from a returning *) select * from x", "not-a-read"),
        ("with x as (insert into a values (1) returning *) table x", "not-a-read"),
        ("select * into b from a", "not-a-read"),
        ("explain select 1", "not-a-read"),
        ("show all", "not-a-read"),
        ("set x = 1", "not-a-read"),
        ("select 1; select 2", "several-statements"),
        ("select * from a for update", "locking-read"),
        ("select * from a for share of a skip locked", "locking-read"),
        ("select * from (select * from a for update) x", "locking-read"),
        ("select * from a tablesample system (1)", "sampled-read"),
        ("select * from a tablesample bernoulli (1) repeatable (3)", "sampled-read"),
        ("select current_user", "session-dependent"),
        ("select * from a where owner = session_user", "session-dependent"),
        ("select current_schema()", "session-dependent"),
        ("select current_catalog, user", "session-dependent"),
        ("select 'a'::regclass", "system-catalog"),
        ("select ctid from a", "system-catalog"),
    ];
    assert_all(&cases, |sql| unanalyzable(sql).to_owned());
}

#[test]
fn ambiguous_sql_is_refused() {
    let cases = [
        "select U&\"\\0061\" from a",
        "select U&'x' from a",
        "select E'a'\n'b\\' from a --'",
        "select 1from a",
        "select $1from a",
        "select x from a.b.c.d",
        "select x from db.s.a",
        "select * from rows from (f(1), g(2))",
        "select * from a pivot (sum(x) for y in (1))",
        "from a select x",
        "select * from a qualify x = 1",
        "select top 1 x from a",
        "select * exclude (x) from a",
        "select 'open from a",
        "select /* open from a",
        "select x from a where x = 'a",
        "select {x} from a",
        "select `x` from a",
    ];
    for sql in cases {
        assert_eq!(unanalyzable(sql), "sql-not-understood", "{sql}");
    }
    let long = format!("select * from \"{}\"", "x".repeat(64));
    assert_eq!(unanalyzable(&long), "sql-not-understood");
}

/// The parser's scanner takes a backslash in a bit string for an escape; the server doesn't.
#[test]
fn a_string_whose_end_the_parser_misjudges_is_refused() {
    assert_eq!(unanalyzable("select x'\\', b, ' from a -- '"), "sql-not-understood");
}
