//! Casts and operators that are not trusted count where a statement can have values of their types.

use super::super::Dependencies;
use super::server::Server;

const SETUP: &str = "
    create type mood as (m int);
    create type other as (m int);
    create type tree as enum ('oak');
    create domain moody as mood;
    create table plain (id int primary key, name text);
    create table moods (id int primary key, m mood);
    create table lists (id int primary key, m mood[]);
    create type wrapped as (inner_one mood);
    create table nested (id int primary key, w wrapped);
    create table trees (id int primary key, t tree);
    create view seen as select id, m from moods;
    create function f(int) returns mood immutable language sql as 'select row($1)::mood';
    create function wild(mood) returns int volatile language sql as 'select 1';
    create function wild(int) returns mood volatile language sql as 'select row(1)::mood';
    create function wild(tree) returns other volatile language sql as 'select row(1)::other';
    create cast (mood as int) with function wild(mood) as implicit;
    create cast (int as mood) with function wild(int) as implicit;
    create cast (tree as other) with function wild(tree);
    create function same(mood, mood) returns bool volatile language sql as 'select true';
    create operator @@ (leftarg = mood, rightarg = mood, function = same);
    create function made(int, int) returns mood immutable language sql as 'select row($1)::mood';
    create operator <% (leftarg = int, rightarg = int, function = made);";

#[tokio::test]
async fn an_untrusted_cast_or_operator_counts_only_where_its_types_occur() {
    let mut server = Server::start(SETUP).await;
    for table in ["plain", "moods", "lists", "nested", "trees"] {
        server.run(&format!("select track('{table}')")).await;
    }
    server
        .assert_all(&[
            ("select * from plain where id = $1", "plain"),
            ("select name, count(*) from plain where id < 3 group by name order by 2", "plain"),
            ("select * from moods", "!cast"),
            ("select id from seen", "!cast"),
            ("select id from lists", "!cast"),
            ("select id from nested", "!cast"),
            ("select f(id) from plain", "!cast"),
            ("select null::mood", "!cast"),
            ("select id from plain where name = '(1)'::moody::text", "!cast"),
            ("select cast(null as mood[]) from plain", "!cast"),
            ("select id <% 1 from plain", "!cast"),
            ("select id from plain where id @@ 1", "!cast"),
            ("select * from trees", "trees"),
            ("select t::other from trees", "!cast"),
            ("select null::other from plain", "plain"),
        ])
        .await;
    let drop = "drop cast (mood as int); drop cast (int as mood);
        create operator = (leftarg = mood, rightarg = mood, function = same)";
    server.run(drop).await;
    server
        .assert_all(&[
            ("select * from plain where id = $1", "plain"),
            ("select * from moods", "!operator"),
            ("select * from plain where name = 'x' and id <> 3", "plain"),
            ("select (null::mood) @@ null from plain", "!operator"),
        ])
        .await;
}

/// A role's or an index's new name changes the text of a value that is stored as a number.
#[tokio::test]
async fn a_type_whose_text_depends_on_catalog_names_is_refused() {
    let setup = "
        create domain actor as regrole;
        create type act as (by actor, at int);
        create type acts as range (subtype = actor);
        create table plain (id int primary key, n name, o oid);
        create table configured (id int primary key, c regconfig, t regtype, p regprocedure);
        create table roles (id int, by regrole);
        create table indexes (id int, of regclass);
        create table rights (id int, acl aclitem[]);
        create table domains (id int, by actor);
        create table nested (id int, acts act[]);
        create table ranges (id int, acts acts);
        create view seen as select id from roles;
        create function acted(int) returns actor immutable language plpgsql as 'begin return $1; end';
        create function found(int, out by actor, out n int) immutable language plpgsql as 'begin n := 1; end';";
    let mut server = Server::start(setup).await;
    let refused = ["roles", "indexes", "rights", "domains", "nested", "ranges"];
    for table in refused.iter().chain(&["plain", "configured"]) {
        server.run(&format!("select track('{table}')")).await;
    }
    for table in refused {
        server.assert_all(&[(&format!("select id from {table}"), "!system-catalog")]).await;
    }
    server
        .assert_all(&[
            ("select id from seen", "!system-catalog"),
            ("select acted(id) from plain", "!system-catalog"),
            ("select n from plain, found(1)", "!system-catalog"),
            ("select o::actor from plain", "!system-catalog"),
            ("select '{10}'::_regrole from plain", "!system-catalog"),
            ("select '{postgres=r/postgres}'::aclitem[] from plain", "!system-catalog"),
            ("select acldefault('r', o) from plain", "!system-catalog"),
            ("select id, n, o from plain", "plain"),
            ("select * from configured", "configured"),
        ])
        .await;
    let Dependencies::Unanalyzable(unanalyzable) = server.resolve("select id from domains").await
    else {
        panic!()
    };
    let text = "type regrole (domains.by) belongs to the system and changes without a trigger";
    assert_eq!(unanalyzable.to_string(), text);
}

/// For example, a column that got this collation after its triggers were created.
#[tokio::test]
async fn a_column_with_a_nondeterministic_collation_does_not_narrow() {
    let setup = "
        create collation loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
        create table t (c text primary key);
        select track('t')";
    let mut server = Server::start(setup).await;
    let columns = async |server: &mut Server| match server.resolve("select from t").await {
        Dependencies::Tables(tables) => tables[0].columns.clone(),
        Dependencies::Unanalyzable(unanalyzable) => panic!("{unanalyzable}"),
    };
    assert_eq!(columns(&mut server).await, ["c"]);
    server.run("alter table t alter c type text collate loose").await;
    assert_eq!(columns(&mut server).await, Vec::<String>::new());
}
