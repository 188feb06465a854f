//! Functions that read tables although neither their names nor their declarations show it.

use super::server::Server;
use super::text::read;
use crate::postgres::dependencies::Dependencies;
use crate::postgres::dependencies::catalog::resolve_with_clock;

#[tokio::test]
async fn an_overload_that_reads_server_state_is_distinguished_from_its_namesakes() {
    let mut server = Server::start(
        "create table a (id int, x xid, at timestamptz); select track('a');
         create table bare (id int);
         create function public.date_trunc(int) returns int stable language sql
             as 'select count(*)::int from bare';",
    )
    .await;
    server
        .assert_all(&[
            ("select age(x) from a", "!system-function"),
            ("select age(at) from a", "!system-function"),
            ("select pg_catalog.age(x) from a", "!system-function"),
            ("select age(variadic array[x]) from a", "!system-function"),
            ("select age(at, now()) from a", "a"),
            ("select pg_catalog.age(current_date, at) from a", "a"),
            ("select age(at, now()), age(x) from a", "!system-function"),
            ("select date_trunc('day', at), date_trunc(id) from a", "!stable-function"),
        ])
        .await;
    server.run("create view old as select age(x) from a").await;
    server.assert_all(&[("table old", "!system-function")]).await;
}

#[tokio::test]
async fn a_user_function_in_pg_catalog_is_not_taken_for_a_system_function() {
    let mut server = Server::start(
        "create table a (id int); select track('a'); create table bare (id int);
         create function pg_catalog.to_char(text) returns text stable language sql
             as 'select count(*)::text from public.bare';",
    )
    .await;
    server.assert_all(&[("select to_char('x'::text) from a", "!stable-function")]).await;
}

const READERS: &str = "
create table a (id int); select track('a'); create table bare (id int);
create function atomic() returns bigint immutable begin atomic select count(*) from bare; end;
create function returned() returns bigint immutable return (select max(id) from bare);
create function catalogue() returns bigint immutable return (select count(*) from pg_class);
create function nested() returns bigint immutable return atomic() + 1;
create function twice_nested() returns bigint immutable begin atomic select nested(); end;
create function who() returns text immutable return current_user;
create function setting() returns text immutable return current_setting('x.y');
create function wild() returns float8 immutable return random();
create function written() returns bigint immutable language sql as 'select count(*) from bare';
create function only_written() returns bigint immutable language sql
    as $$ select count(*) from only public.\"bare\" $$;
create function joined() returns bigint immutable language sql
    as 'select count(*) from generate_series(1, 2) join lateral (table bare) b on true';
create function programmed() returns bigint immutable language plpgsql
    as 'declare n bigint; begin select count(*) into n from bare; return n; end';
create function calls_programmed() returns bigint immutable language sql as 'select programmed()';
create function calls_from_block() returns bigint immutable language plpgsql
    as 'begin return public.atomic(); end';
create function stably() returns bigint stable language plpgsql
    as 'begin return (select count(*) from bare); end';
create function wraps_stable() returns bigint immutable return stably();
create function step(bigint, int) returns bigint immutable return $1 + $2 + atomic();
create function plain_step(bigint, int) returns bigint immutable return $1 + $2;
create aggregate sums(int) (sfunc = step, stype = bigint, initcond = '0');
create aggregate plain_sums(int) (sfunc = plain_step, stype = bigint, initcond = '0');
create function by_default(x bigint default atomic()) returns bigint immutable return x;
create function compare(int, int) returns boolean immutable return $1 > $2 + atomic();
create operator >>>> (leftarg = int, rightarg = int, function = compare);
create function computed(a) returns bigint immutable return atomic();
create view over_atomic as select id, atomic() from a;
create view over_sums as select sums(id) from a;
create operator <<<< (leftarg = text, rightarg = boolean, function = pg_catalog.current_setting);
create view over_operator as select 1 >>>> 2 as x from a;
";

#[tokio::test]
async fn an_immutable_function_whose_body_reads_is_not_trusted() {
    let mut server = Server::start(READERS).await;
    server
        .assert_all(&[
            ("select atomic() from a", "!reading-function"),
            ("select public.returned() from a", "!reading-function"),
            ("select catalogue()", "!reading-function"),
            ("select nested() from a", "!reading-function"),
            ("select twice_nested() from a", "!reading-function"),
            ("select who()", "!reading-function"),
            ("select setting()", "!reading-function"),
            ("select wild()", "!volatile-function"),
            ("select written() from a", "!reading-function"),
            ("select only_written() from a", "!reading-function"),
            ("select joined() from a", "!reading-function"),
            ("select programmed() from a", "!reading-function"),
            ("select calls_programmed() from a", "!reading-function"),
            ("select calls_from_block() from a", "!reading-function"),
            ("select wraps_stable() from a", "!reading-function"),
            ("select * from a, atomic() x", "!reading-function"),
            ("select sums(id) from a", "!reading-function"),
            ("select plain_sums(id) from a", "a"),
            ("select by_default() from a", "!reading-function"),
            ("select 1 >>>> 2 from a", "!reading-function"),
            ("select 'x.y' <<<< true from a", "!operator"),
            ("select a.computed from a", "!reading-function"),
            ("select id from a order by atomic()", "!reading-function"),
            ("table over_atomic", "!reading-function"),
            ("table over_sums", "!reading-function"),
            ("table over_operator", "!reading-function"),
            ("select id from a", "a"),
        ])
        .await;
    server
        .run(
            "create type mood as (m int);
             create function moody(mood) returns bigint immutable return atomic();
             create cast (mood as bigint) with function moody(mood) as implicit;",
        )
        .await;
    server.assert_all(&[("select id, null::mood from a", "!reading-function")]).await;
}

#[tokio::test]
async fn an_immutable_function_whose_body_reads_nothing_is_trusted() {
    let mut server = Server::start(
        r"
        create table a (id int, name text, at timestamptz); select track('a');
        create extension unaccent;
        create function f_unaccent(text) returns text immutable strict parallel safe
            return public.unaccent('public.unaccent'::regdictionary, $1);
        create function f_unaccent_text(text) returns text immutable language sql
            as $$ select public.unaccent('public.unaccent', $1) $$;
        create function year_of(d timestamptz) returns float8 immutable language sql
            as 'select extract(year from d at time zone ''utc'')::float8';
        create function cut(t text) returns text immutable language plpgsql as $$
            declare r text := '';
            begin
                -- from nowhere
                for i in 1..3 loop r := r || substring(t from i for 1) || trim(both ' ' from t); end loop;
                return case when r is distinct from 'from b' then r end;
            end $$;
        create function parts(t text) returns setof text immutable language sql
            as 'select p from unnest(string_to_array(t, '','')) p where p <> '''' ';
        create function series(n int) returns bigint immutable
            begin atomic select sum(g) from generate_series(1, n) g; end;
        create function later(t timestamptz) returns timestamptz immutable return t + interval '1 day';
        ",
    )
    .await;
    server
        .assert_all(&[
            ("select f_unaccent(name) from a", "a"),
            ("select f_unaccent_text(name) from a", "a"),
            ("select year_of(at) from a", "a"),
            ("select cut(name) from a", "a"),
            ("select parts(name) from a", "a"),
            ("select series(id) from a", "a"),
            ("select later(at) from a", "a"),
        ])
        .await;
}

/// `(value).name` and `item.name` are calls as well as `name(value)`, whatever the type of the value.
#[tokio::test]
async fn a_function_called_in_attribute_notation_is_checked() {
    let mut server = Server::start(
        "create table bare (id int);
         create type mood as enum ('sad');
         create type pair as (x int, y int);
         create table a (id int, age int, item int, m mood, r int4range, list int[], p pair); select track('a');
         create function price(int) returns bigint stable language sql as 'select count(*) from bare';
         create function wild(text) returns int language sql as 'select 1';
         create function felt(mood) returns bigint stable language sql as 'select count(*) from bare';
         create function spread(int4range) returns bigint stable language sql as 'select count(*) from bare';
         create function total(int[]) returns bigint stable language sql as 'select count(*) from bare';
         create function plain(int) returns int immutable return $1;
         create function whole(int) returns bigint immutable language sql as 'select count(*) from bare';
         create function half(int) returns bigint immutable language sql as 'select ($1).whole';
         create function sum_of(a) returns int immutable language plpgsql as 'begin return $1.id + $1.item; end';
         create function to_number(a) returns int immutable return 1;
         create function doubled(int) returns int stable language sql as 'select count(*)::int from bare';
         create cast (a as int) with function to_number(a) as implicit;",
    )
    .await;
    server
        .assert_all(&[
            ("select (o.item).price from a o", "!stable-function"),
            ("select (item).price from a", "!stable-function"),
            ("select ('s').nextval", "!volatile-function"),
            ("select ('s'::text).wild", "!volatile-function"),
            ("select (m).felt from a", "!stable-function"),
            ("select (r).spread from a", "!stable-function"),
            ("select (list).total from a", "!stable-function"),
            ("select a.list[1].price from a", "!stable-function"),
            ("select g.price from generate_series(1, 2) g", "!stable-function"),
            ("select x.price from unnest(array[1]) as x", "!stable-function"),
            ("select generate_series.price from generate_series(1, 2)", "!stable-function"),
            ("select ($1::int).price from a", "!stable-function"),
            ("select age(now(), now()), ('1'::xid).age", "!system-function"),
            ("select (item).half from a", "!reading-function"),
            ("select a.doubled from a", "!stable-function"),
            ("select (item).plain from a", "a"),
            ("select (p).x from a", "a"),
            ("select a.age, a.id from a, generate_series(1, 2) g (n) where g.n = a.id", "a"),
            ("select sum_of(a) from a", "a"),
        ])
        .await;
    server.run("create view priced as select (item).price from a").await;
    server.assert_all(&[("table priced", "!stable-function")]).await;
}

const CALLERS: &str = "
create table a (id int, name text, born date, at timestamptz); select track('a');
create extension pgcrypto; create schema app;
create function app.version() returns text immutable language sql as $$ select '1'::text $$;
create function nextval(a) returns int immutable return 1;
create function tenant() returns int immutable language sql as $$ select current_setting('app.tenant')::int $$;
create function tenant_or_none() returns int immutable language plpgsql
    as $$ begin return pg_catalog.current_setting('app.tenant', true)::int; end $$;
create function chance() returns float8 immutable language sql as 'select random()';
create function chance_in_turn() returns float8 immutable language plpgsql as 'begin return chance() + 1; end';
create function watch() returns timestamptz immutable language plpgsql as 'begin return clock_timestamp(); end';
create function next_one(text) returns bigint immutable language sql as 'select ($1).nextval';
create function next_of(text) returns bigint immutable language sql as 'select nextval($1)';
create function server() returns text immutable language sql as 'select version()';
create function salt() returns bytea immutable language sql as 'select gen_random_bytes(8)';
create function who() returns text immutable language sql as 'select current_user::text';
create function place() returns text immutable language plpgsql as 'begin return current_schema; end';
create function role_name(oid) returns text immutable language sql as 'select $1::regrole::text';
create function atomic_role_name(oid) returns text immutable return $1::regrole::text;
create function atomic_rights(text) returns text immutable return $1::aclitem[]::text;
create function atomic_default(oid) returns text immutable return acldefault('r', $1)::text;
create function label(text) returns text immutable language sql as $$ select app.version() || lower($1) $$;
create function written(timestamp, numeric) returns text immutable language sql
    as $$ select format('%s %s', to_char($1, 'YYYY'), concat(to_char($2, '9.9'), date_trunc('day', $1))) $$;
create function words(text) returns tsvector immutable language sql as $$ select to_tsvector('english', $1) $$;
create function own_words(text) returns tsvector immutable language sql as $$ select to_tsvector($1) $$;
create function list(text[]) returns text immutable language sql as $$ select array_to_string($1, ',') $$;
create function cut(text) returns text immutable language plpgsql
    as $$ begin return substring($1 from 2 for position('x' in $1)) || overlay($1 placing 'y' from 1); end $$;
create function hashed(text) returns text immutable language sql as $$ select encode(digest($1, 'sha1'), 'hex') $$;
create function years(date) returns int immutable language sql as $$ select extract(year from age($1))::int $$;
create type mood as enum ('sad', 'glad');
create function moods() returns mood[] immutable language sql as 'select enum_range(null::mood)';
create function box_width(xmin float8, xmax float8) returns float8 immutable language plpgsql
    as 'begin return xmax - xmin; end';
";

/// A text shows neither the types of arguments nor, without a schema, which schema's function is meant.
#[tokio::test]
async fn system_functions_in_the_text_of_a_body_are_checked() {
    let mut server = Server::start(CALLERS).await;
    server
        .assert_all(&[
            ("select tenant() from a", "!reading-function"),
            ("select tenant_or_none() from a", "!reading-function"),
            ("select chance() from a", "!reading-function"),
            ("select chance_in_turn() from a", "!reading-function"),
            ("select watch() from a", "!reading-function"),
            ("select next_one(name) from a", "!reading-function"),
            ("select next_of(name) from a", "!reading-function"),
            ("select server() from a", "!reading-function"),
            ("select salt() from a", "!reading-function"),
            ("select who() from a", "!reading-function"),
            ("select place() from a", "!reading-function"),
            ("select role_name(1) from a", "!reading-function"),
            ("select atomic_role_name(1) from a", "!reading-function"),
            ("select atomic_rights(name) from a", "!reading-function"),
            ("select atomic_default(1) from a", "!reading-function"),
            ("select label(name) from a", "a"),
            ("select written(at::timestamp, id) from a", "a"),
            ("select words(name), own_words(name) from a", "a"),
            ("select list(array[name]), cut(name), hashed(name) from a", "a"),
            ("select years(born), box_width(1, 2), moods() from a", "a"),
        ])
        .await;
}

#[tokio::test]
async fn a_function_whose_body_reads_the_clock_is_detected() {
    let mut server = Server::start(
        "create table a (id int, at timestamptz, born date); select track('a');
         create function today() returns date immutable language sql as 'select current_date';
         create function in_turn() returns date immutable language plpgsql as 'begin return today(); end';
         create function atomic() returns timestamptz immutable return now();
         create function of_atomic() returns timestamptz immutable begin atomic select atomic(); end;
         create function years(date) returns int immutable language sql as 'select extract(year from age($1))::int';
         create function is_past(timestamptz, int) returns bool immutable language sql as 'select $1 < now()';
         create operator <% (leftarg = timestamptz, rightarg = int, function = is_past);
         create view seen as select today() as day from a;
         create function twice(int) returns int immutable language sql as 'select $1 * 2';",
    )
    .await;
    for (sql, reads_clock) in [
        ("select today() from a", true),
        ("select in_turn() from a", true),
        ("select atomic() from a", true),
        ("select of_atomic() from a", true),
        ("select years(born) from a", true),
        ("select at <% 1 from a", true),
        ("table seen", true),
        ("select twice(id) from a", false),
    ] {
        let found = resolve_with_clock(&mut server.conn, &read(sql)).await.expect("response");
        assert!(
            matches!(&found.0, Dependencies::Tables(tables) if tables.len() == 1),
            "{sql}: {found:?}"
        );
        assert_eq!(found.1, reads_clock, "{sql}");
    }
}

const HIDDEN_READERS: &str = "
create table a (id int, name text); select track('a'); create table bare (id int);
create type own as (n int);
create function reads(own, own) returns boolean immutable language sql as 'select count(*) > 0 from bare';
create function plain(own, own) returns boolean immutable return ($1).n < ($2).n;
create operator < (leftarg = own, rightarg = own, function = reads);
create operator <= (leftarg = own, rightarg = own, function = plain);
create operator = (leftarg = own, rightarg = own, function = plain);
create operator >= (leftarg = own, rightarg = own, function = plain);
create operator > (leftarg = own, rightarg = own, function = plain);
create function compared(own, own) returns int immutable language sql as 'select 0';
create operator class own_ops default for type own using btree
    as operator 1 <, operator 2 <=, operator 3 =, operator 4 >=, operator 5 >, function 1 compared(own, own);
create function row_less(int) returns boolean immutable
    begin atomic select (row($1)::own, 1) < (row(2)::own, 2); end;
create function row_more(int) returns boolean immutable
    begin atomic select (row($1)::own, 1) > (row(2)::own, 2); end;
";

#[tokio::test]
async fn the_operators_of_a_row_comparison_in_a_body_are_checked() {
    let mut server = Server::start(HIDDEN_READERS).await;
    server
        .assert_all(&[
            ("select row_less(id) from a", "!reading-function"),
            ("select row_more(id) from a", "a"),
        ])
        .await;
}

#[tokio::test]
async fn operators_and_casts_in_the_text_of_a_body_are_checked() {
    let mut server = Server::start(
        "create table a (id int); select track('a'); create table bare (id int);
         create function reads(int, int) returns boolean immutable language sql as 'select count(*) > 0 from bare';
         create operator >>>> (leftarg = int, rightarg = int, function = reads);
         create operator @+ (leftarg = int, rightarg = int, function = int4pl);
         create function uses(int) returns boolean immutable language sql as 'select $1>>>>-1';
         create function adds(int) returns int immutable language plpgsql as 'begin return $1 @+ 1; end';
         create function programmed(int) returns boolean immutable language plpgsql
             as 'begin return $1 operator(public.>>>>) 1; end';",
    )
    .await;
    server
        .assert_all(&[
            ("select uses(id) from a", "!reading-function"),
            ("select programmed(id) from a", "!reading-function"),
            ("select adds(id) from a", "a"),
        ])
        .await;
    server
        .run(
            "create type own as (n int);
             create function number(own) returns int immutable language sql as 'select count(*)::int from bare';
             create cast (own as int) with function number(own) as assignment;
             create function assigns() returns int immutable language plpgsql
                 as 'declare n int; begin n := row(1)::own; return n; end';",
        )
        .await;
    server.assert_all(&[("select assigns() from a", "!reading-function")]).await;
}
