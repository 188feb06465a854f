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
async fn a_cast_or_operator_that_is_not_trusted_counts_where_its_types_occur() {
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

/// Such as one that was given this collation after triggers were made for it.
#[tokio::test]
async fn a_column_in_which_other_texts_are_equal_distinguishes_no_rows() {
    let setup = "
        create collation loose (provider = icu, locale = 'und-u-ks-level1', deterministic = false);
        create table t (c text primary key);
        select track('t')";
    let mut server = Server::start(setup).await;
    let columns = async |server: &mut Server| match server.resolve("select from t").await {
        Dependencies::Tables(tables) => tables[0].columns.clone(),
        Dependencies::Unfit(unfit) => panic!("{unfit}"),
    };
    assert_eq!(columns(&mut server).await, ["c"]);
    server.run("alter table t alter c type text collate loose").await;
    assert_eq!(columns(&mut server).await, Vec::<String>::new());
}
