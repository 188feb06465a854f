//! Tables that are altered after they were tracked, and those that an earlier version tracked.

use tidegate::{TriggerState, Triggers};

use super::{Bed, USERS, users};

#[tokio::test]
async fn writes_to_an_altered_table_never_fail_and_are_logged() {
    let mut bed = Bed::new(USERS, users()).await;
    let insert = "alter table users rename id to nr; insert into users (nr, org) values (99, 1)";
    assert_eq!(bed.log(insert).await, "users users:nr=99 users:org=1");
    let insert = "alter table users rename to people; insert into people (nr) values (98)";
    assert_eq!(bed.log(insert).await, "people people:nr=98");
    let insert = "alter table people drop column org; insert into people (nr) values (97)";
    assert_eq!(bed.log(insert).await, "people people:nr=97");
    let insert = "alter table people alter nr type numeric; insert into people (nr) values (96)";
    assert_eq!(bed.log(insert).await, "people people!");
    bed.server.psql("alter table people disable trigger tidegate_update").await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    let people = status.table("people").unwrap();
    let update = people.triggers.iter().find(|trigger| trigger.event == "update").unwrap();
    assert_eq!(update.state, TriggerState::Disabled);
}

/// In the trigger's statements a column's name could mean a variable of the trigger, and the other way round.
#[tokio::test]
async fn columns_may_have_the_names_of_the_triggers_variables() {
    let names =
        "plain most touched root up base name shown unclear one other tags this n o c t r s";
    let columns: Vec<String> = names.split(' ').map(|name| format!("\"{name}\" int")).collect();
    let columns = columns.join(", ");
    let setup = format!(
        "create table first (id int primary key, {columns}); create table other ({columns}, id int primary key);"
    );
    let tracked = Triggers::new().table("first").columns("other", &["name", "tags"]);
    let bed = Bed::new(&setup, tracked).await;
    for (statement, tags) in [
        ("insert into first (id, name) values (1, 2)", "first first:id=1"),
        ("update first set name = 3", "first first:id=1"),
        ("update first set id = 2", "first first:id=1 first:id=2"),
        ("delete from first", "first first:id=2"),
        ("insert into first (id) values (1), (2)", "first first:id=1 first:id=2"),
        ("insert into other (id, name) values (1, 2)", "other other:id=1 other:name=2"),
        ("update other set name = 3", "other other:id=1 other:name=2 other:name=3"),
        ("update other set tags = name", "other other:id=1 other:name=3 other:tags=3"),
        ("delete from other", "other other:id=1 other:name=3 other:tags=3"),
    ] {
        assert_eq!(bed.log(statement).await, tags, "{statement}");
    }
}

/// The statements of a trigger are planned once in a session.
#[tokio::test]
async fn a_session_keeps_writing_to_a_table_that_is_altered_meanwhile() {
    let setup = "create table t (\"a b\" text, id int primary key, k int, note text);";
    let mut bed = Bed::new(setup, Triggers::new().columns("t", &["k"])).await;
    let insert = "insert into t (id, k) values ((select coalesce(max(id), 0) + 1 from t), 7);
        update t set note = 'x' where id = 1; insert into t (id, k) values (-1, 8), (-2, 8);
        delete from t where id < 0;";
    let altered = [
        "",
        "alter table t alter id type bigint;",
        "alter table t alter k type text;",
        "alter table t add later int;",
        "alter table t rename k to kind; alter table t rename kind to k;",
    ];
    let script: String = altered.iter().flat_map(|alter| [*alter, insert]).collect();
    let said = bed.log(&script).await;
    let one = "t t:id=NR t:k=7\nt t:id=1 t:k=7\nt t:id=-1 t:id=-2 t:k=8\nt t:id=-1 t:id=-2 t:k=8";
    let wanted: Vec<_> = (1..=altered.len()).map(|nr| one.replace("NR", &nr.to_string())).collect();
    assert_eq!(said, wanted.join("\n"));
    // Changes keyed by a column's position are no longer keyed when the position has changed.
    let said = bed.log(&format!("{insert} alter table t drop \"a b\"; {insert}")).await;
    assert!(said.lines().count() > 4);
    assert!(said.lines().all(|row| row == "t t!"), "{said}");
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(status.table("t").unwrap().warnings[0].contains("a column was dropped"), "{status:?}");
    let said = bed.log("alter table t drop id, drop note; insert into t (k) values (1)").await;
    assert_eq!(said, "t t!", "NULL where a column was");
    Triggers::new().columns("t", &["k"]).install(&mut bed.conn).await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(status.table("t").unwrap().warnings.is_empty(), "{status:?}");
    assert_eq!(bed.log("insert into t (k) values (1)").await, "t t:k=1");
    let bare = "alter table t drop k, drop later; insert into t default values; delete from t;
        insert into t default values; insert into t select from generate_series(1, 200);";
    let said = bed.log(bare).await;
    assert_eq!(said, "t\nt\nt\nt t!");
}

#[tokio::test]
async fn many_columns_far_back_in_a_table_are_logged() {
    let columns: Vec<String> = (0..40).map(|i| format!("c{i} int default {i}")).collect();
    let setup = format!(
        "create table wide (gone int, x text, {}, id int primary key); alter table wide drop gone;",
        columns.join(", ")
    );
    let names: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let bed = Bed::new(&setup, Triggers::new().columns("wide", &names)).await;
    let mut wanted: Vec<String> = (0..40).map(|i| format!("wide:c{i}={i}")).collect();
    wanted.extend(["wide".to_owned(), "wide:id=5".to_owned()]);
    wanted.sort();
    assert_eq!(bed.log("insert into wide (id) values (5)").await, wanted.join(" "));
    wanted.push("wide:c39=100".to_owned());
    wanted.sort();
    assert_eq!(bed.log("update wide set c39 = 100").await, wanted.join(" "));
}

#[tokio::test]
async fn row_limits_of_zero_and_of_all_rows_are_respected() {
    // Of a limit of none, a statement that changes no row is not distinguished from others.
    for (limit, none, single, many) in [
        (0, "users users!", "users users!", "users users!"),
        (u32::MAX, "", "users users:id=1 users:org=1", ""),
    ] {
        let bed = Bed::new(USERS, users().row_limit(limit)).await;
        assert_eq!(bed.log("update users set name = 'x' where id = 1").await, single);
        assert_eq!(bed.log("update users set name = 'x' where id = -1").await, none);
        let all = bed.log("delete from users").await;
        assert!(if many.is_empty() { all.contains("users:id=20") } else { all == many }, "{all}");
    }
}

/// A database as version 2 left it.
#[tokio::test]
async fn an_upgrade_keeps_tracking_the_tables_of_an_earlier_version() {
    let mut bed = Bed::new(USERS, users()).await;
    bed.server.psql(AS_BEFORE).await.unwrap();
    bed.server.psql("create table late (id int primary key)").await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(status.outdated && status.table("users").unwrap().columns == ["id", "org"]);
    assert!(status.table("users").unwrap().warnings.is_empty(), "{status:?}");
    Triggers::new().table("late").install(&mut bed.conn).await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(!status.outdated && status.table("users").unwrap().columns == ["id", "org"]);
    assert_eq!(bed.rows().await, format!("old old:id=1\n{}late late!", "users users!\n".repeat(4)));
    let triggers = &status.table("users").unwrap().triggers;
    let disabled: Vec<_> = triggers.iter().filter(|t| t.state == TriggerState::Disabled).collect();
    assert!(disabled.len() == 1 && disabled[0].event == "delete", "{triggers:?}");
    assert_eq!(bed.log("insert into users values (30, 2)").await, "users users:id=30 users:org=2");
    let left =
        "select to_regproc('tidegate.changed') is null, to_regproc('tidegate.in_progress') is null";
    assert_eq!(bed.server.psql(left).await.unwrap(), "t|t");
    let follows = "select has_function_privilege('the ear', 'tidegate.begin_history()', 'execute')
        and has_table_privilege('the ear', 'tidegate.own_marks', 'select')";
    assert_eq!(bed.server.psql(follows).await.unwrap(), "t");
}

const AS_BEFORE: &str = "
    drop function tidegate.running_writers;
    drop function tidegate.begin_history; drop table tidegate.uninterrupted, tidegate.marks cascade;
    drop sequence tidegate.history;
    create table tidegate.marks (snapshot pg_snapshot not null, lsn pg_lsn not null, at timestamptz not null default now(),
        schema bigint, cluster bigint not null default (pg_control_system()).system_identifier);
    create index marks_xmax on tidegate.marks (pg_snapshot_xmax(snapshot), lsn);
    create view tidegate.own_marks as select snapshot, lsn, at, schema from tidegate.marks;
    create role \"the ear\"; grant select on tidegate.own_marks to \"the ear\"; grant execute on function tidegate.mark to \"the ear\";
    create function tidegate.in_progress(seen pg_snapshot) returns bigint[] language sql as 'select null::bigint[]';
    update tidegate.meta set version = 2;
    alter table tidegate.log drop relation;
    insert into tidegate.log (tags) values ('{old,old:id=1}');
    create function tidegate.changed() returns trigger language plpgsql as 'begin return null; end';
    do $$ declare event text; begin
        foreach event in array array['insert', 'update', 'delete', 'truncate'] loop
            execute format('create or replace trigger %I after %s on users for each statement
                execute function tidegate.changed(10, ''1 2'')', 'tidegate_' || event, event);
            execute format('alter table users enable always trigger %I', 'tidegate_' || event);
        end loop;
        alter table users disable trigger tidegate_delete;
    end $$;";

/// Changes go by the name of a parent that is not tracked itself.
#[tokio::test]
async fn an_upgraded_table_that_gained_a_parent_is_logged_by_the_parents_name() {
    let mut bed = Bed::new(USERS, users()).await;
    bed.server.psql(AS_BEFORE).await.unwrap();
    let inherit = "create table parent (id int); alter table users inherit parent;
        create table late (id int primary key)";
    bed.server.psql(inherit).await.unwrap();
    Triggers::new().table("late").install(&mut bed.conn).await.unwrap();
    let said = bed.log("insert into users values (30, 2)").await;
    assert_eq!(said, "parent parent:id=30 parent:org=2");
}

/// Of what is selected there can be 1,664 columns, in a table 1,600.
#[tokio::test]
async fn a_key_at_the_end_of_the_widest_possible_table_is_logged() {
    let columns: Vec<String> = (1..1600).map(|i| format!("c{i} bool")).collect();
    let setup = format!("create table wide ({}, id int primary key)", columns.join(", "));
    let bed = Bed::new(&setup, Triggers::new().table("wide")).await;
    assert_eq!(bed.log("insert into wide (id) values (1)").await, "wide wide:id=1");
    assert_eq!(bed.log("update wide set c1 = true").await, "wide wide:id=1");
    assert_eq!(bed.log("insert into wide (id) values (2), (3)").await, "wide wide:id=2 wide:id=3");
}

#[tokio::test]
async fn a_row_that_an_update_loses_is_logged() {
    let setup = "create table p (id int, k int, primary key (id, k)) partition by list (k);
        create table p1 partition of p for values in (1);
        create table p2 partition of p for values in (2);
        create function nope() returns trigger language plpgsql as 'begin return null; end';
        create trigger nope before insert on p2 for each row execute function nope();
        insert into p select g, 1 from generate_series(1, 9) g;";
    for (limit, one, many) in
        [(100, "p p:id=5 p:k=1", "p p:id=6 p:id=7 p:k=1"), (0, "p p!", "p p!")]
    {
        let bed = Bed::new(setup, Triggers::new().table("p").row_limit(limit)).await;
        assert_eq!(bed.log("update p set k = 2 where id = 5").await, one);
        assert_eq!(bed.log("update p set k = 2 where id in (6, 7)").await, many);
    }
}
