//! Rows that a statement moves to another partition.
//!
//! Postgres gives a row that MERGE moves to the transition tables of DELETE and INSERT, whose triggers do not fire unless
//! the MERGE has actions of these kinds.

use tidegate::Triggers;

use super::Bed;

const PARTITIONED: &str = "
    create table p (id int, k int, n int, primary key (id, k)) partition by list (k);
    create table p1 partition of p for values in (1);
    create table p2 partition of p for values in (2) partition by range (id);
    create table p2a partition of p2 for values from (0) to (100);
    create table p2b partition of p2 for values from (100) to (200);
    insert into p values (5, 1, 0), (6, 1, 0), (7, 2, 0), (8, 2, 0);
    create function f() returns void language sql as
        'update p set n = n + 1 where id = 7';
    create function moves() returns void language plpgsql as 'begin
        execute ''merge into p using (values (5)) v (id) on p.id = v.id when matched then update set k = 2''; end';";

/// The version of Postgres that brought MERGE, and the one from which on it takes views.
const MERGE: u32 = 15;
const MERGE_INTO_VIEWS: u32 = 17;

async fn bed(triggers: Triggers) -> Bed {
    Bed::new(PARTITIONED, triggers).await
}

impl Bed {
    /// Whether the server has a statement that came with this version. An older server must refuse the statement.
    async fn has_since(&self, version: u32, sql: &str) -> bool {
        let installed = self.server.psql("show server_version_num").await.unwrap();
        let has = installed.parse::<u32>().unwrap() / 10_000 >= version;
        assert!(has || self.server.psql(sql).await.is_err(), "{sql}");
        has
    }

    /// The distinct tags of what a script adds to the log. All rows are as they were before it.
    async fn tags(&self, sql: &str) -> String {
        let restored =
            "truncate p; insert into p values (5, 1, 0), (6, 1, 0), (7, 2, 0), (8, 2, 0);";
        self.server.psql(restored).await.unwrap();
        let logged = self.log(sql).await;
        let mut tags: Vec<_> = logged.split_whitespace().collect();
        tags.sort_unstable();
        tags.dedup();
        tags.join(" ")
    }
}

/// Scripts in which MERGE moves the row 5, at least.
const MOVES: [&str; 11] = [
    "merge into p using (values (5)) v (id) on p.id = v.id when matched then update set k = 2, n = 9",
    "merge into p using (values (5), (9)) v (id) on p.id = v.id
     when matched then update set k = 2 when not matched then insert values (v.id, 1, 1)",
    "merge into p using (values (5), (6)) v (id) on p.id = v.id
     when matched and p.id = 6 then delete when matched then update set k = 2",
    "merge into p using (values (5), (7)) v (id) on p.id = v.id when matched then update set k = 2",
    "merge into p2 using (values (7)) v (id) on p2.id = v.id when matched then update set id = 150",
    "select moves()",
    "begin; savepoint s; select moves(); release s; commit",
    "do $$ begin perform moves(); end $$",
    "prepare m as merge into p using (values (5)) v (id) on p.id = v.id when matched then update set k = 2;
     execute m",
    "update p set n = (select 1 from (select moves()) m) where id = 8",
    "create procedure called() begin atomic
         merge into p using (values (5)) v (id) on p.id = v.id when matched then update set k = 2; end;
     call called()",
];

#[tokio::test]
async fn a_merge_that_moves_a_row_is_logged_as_a_bulk_change() {
    for row_limit in [100, 0] {
        let triggers = Triggers::new().table("p").row_limit(row_limit);
        let bed = bed(triggers).await;
        for sql in MOVES {
            if bed.has_since(MERGE, sql).await {
                let tags = bed.tags(sql).await;
                assert!(tags.contains("p p!"), "{sql}: {tags}");
            }
        }
    }
}

#[tokio::test]
async fn a_merge_through_a_view_that_moves_a_row_is_logged_as_a_bulk_change() {
    let bed = bed(Triggers::new().table("p")).await;
    bed.server.psql("create view v as select * from p where n < 100").await.unwrap();
    let sql =
        "merge into v using (values (5)) w (id) on v.id = w.id when matched then update set k = 2";
    if bed.has_since(MERGE_INTO_VIEWS, sql).await {
        assert_eq!(bed.tags(sql).await, "p p!");
    }
}

#[tokio::test]
async fn other_changes_of_partitioned_tables_are_logged_by_row() {
    let bed = bed(Triggers::new().table("p")).await;
    for (sql, tags) in [
        ("update p set k = 2 where id = 5", "p p:id=5 p:k=1 p:k=2"),
        ("delete from p where id = 6; update p set n = 1 where id = 5", "p p:id=5 p:id=6 p:k=1"),
        (
            "begin; delete from p where id = 6; update p set k = 2 where id = 5; commit",
            "p p:id=5 p:id=6 p:k=1 p:k=2",
        ),
        ("select f()", "p p:id=7 p:k=2"),
        (
            "merge into p using (values (5), (9)) v (id) on p.id = v.id
             when matched then update set n = 1 when not matched then insert values (v.id, 1, 1)",
            "p p:id=5 p:id=9 p:k=1",
        ),
        (
            "merge into p using (values (9)) v (id) on p.id = v.id when matched then update set k = 2",
            "",
        ),
        (
            "merge into p1 using (values (5)) v (id) on p1.id = v.id when matched then update set n = 2",
            "p p:id=5 p:k=1",
        ),
    ] {
        if !sql.starts_with("merge") || bed.has_since(MERGE, sql).await {
            assert_eq!(bed.tags(sql).await, tags, "{sql}");
        }
    }
}

/// As version 6 left it, the trigger of a partitioned table runs the function of any table's.
#[tokio::test]
async fn an_upgrade_gives_partitioned_tables_their_own_function() {
    let triggers = Triggers::new().table("p");
    let mut bed = bed(triggers.clone()).await;
    let before = "do $$ begin execute format('create or replace trigger tidegate_update after update on p
            referencing old table as tidegate_old new table as tidegate_new for each statement
            execute function tidegate.%I(100, %L, %L)', tidegate.note('update', '{1,2}', '{1,2}', 100, false),
            '1 2', '1 2'); end $$;
        update tidegate.meta set version = 6";
    bed.server.psql(before).await.unwrap();
    let has_merge = bed.has_since(MERGE, MOVES[0]).await;
    if has_merge {
        assert_eq!(bed.tags(MOVES[0]).await, "");
    }
    bed.server.psql("truncate tidegate.log").await.unwrap();
    triggers.install(&mut bed.conn).await.unwrap();
    assert_eq!(bed.rows().await, "p p!");
    if has_merge {
        assert_eq!(bed.tags(MOVES[0]).await, "p p!");
    }
}
