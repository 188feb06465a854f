//! Where Postgres refuses what triggers do in general: no write may fail by that.

use tidegate::{SchemaError, Triggers};

use super::{Bed, USERS, users};

/// A view whose query writes, and what else runs functions within a security-restricted operation: from version 17 of
/// Postgres on by a search path without `public`.
const WRITING: &str = "create function touch() returns int language plpgsql as $$ begin
        update public.users set name = 'x' where id = 1; return 1; end $$;
    create function mark() returns int language plpgsql as $$ begin
        perform tidegate.invalidate('{page}'); return 1; end $$;
    create function touch(int) returns int language sql immutable as 'select public.touch()';
    create materialized view touching as select public.touch() with no data;
    create materialized view marking as select public.mark() with no data;
    create table indexed (id int primary key); insert into indexed values (1);";

#[tokio::test]
async fn a_write_within_a_restricted_operation_is_logged() {
    for prepared in ["0", "4"] {
        let settings = [("max_prepared_transactions", prepared)];
        let bed = Bed::with(&settings, USERS, users()).await;
        bed.server.psql(WRITING).await.unwrap();
        let touched = "users users:id=1 users:org=1";
        for (sql, tags) in [
            ("refresh materialized view touching", touched),
            ("create materialized view another as select public.touch()", touched),
            ("refresh materialized view marking", "page page!"),
            ("create index on indexed (touch(id))", touched),
            ("reindex table indexed", touched),
            ("analyze indexed", touched),
            ("cluster indexed using indexed_pkey", touched),
            ("begin; refresh materialized view touching; rollback", ""),
        ] {
            assert_eq!(bed.log(sql).await, tags, "{sql}");
        }
    }
}

/// What is written before and after goes on as if there were none between: the lock by which writers know of each other
/// is taken at the commit, and not for as long as the transaction lasts.
#[tokio::test]
async fn a_restricted_operation_leaves_its_transactions_locks_and_settings_unchanged() {
    let bed = Bed::new(USERS, users()).await;
    bed.server.psql(WRITING).await.unwrap();
    let sql = "begin; update users set name = 'y' where id = 2; refresh materialized view touching;
        update users set name = 'y' where id = 3;
        create table held as select count(*) from pg_locks where locktype = 'advisory';
        create table wish as select coalesce(current_setting('tidegate.notify', true), '') as wish; commit";
    let tags = [2, 1, 3].map(|id| format!("users users:id={id} users:org={}", id % 3)).join("\n");
    assert_eq!(bed.log(sql).await, tags);
    assert_eq!(bed.server.psql("table held; table wish").await.unwrap(), "0");
}

/// A session that has listened may still prepare its transactions.
#[tokio::test]
async fn a_write_of_a_listening_session_can_be_prepared() {
    let bed = Bed::with(&[("max_prepared_transactions", "4")], USERS, users()).await;
    let sql =
        "listen news; begin; update users set name = 'y' where id = 1; prepare transaction 'x';
        commit prepared 'x'";
    assert_eq!(bed.log(sql).await, "users users:id=1 users:org=1");
}

/// A foreign table is none that a trigger could follow, and no reason for writes to its parent to fail.
#[tokio::test]
async fn a_foreign_partition_makes_no_write_fail() {
    let setup = "create extension postgres_fdw;
        do $$ begin execute format('create server self foreign data wrapper postgres_fdw options (host %L, port %L)',
            split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port')); end $$;
        create user mapping for public server self;
        create table remote (id int, org int);
        create table parts (id int, org int) partition by list (org);
        create table parts_1 partition of parts for values in (1);
        create table kids (id int primary key, org int);";
    let triggers = || Triggers::new().columns("parts", &["org"]).columns("kids", &["org"]);
    let mut bed = Bed::new(setup, triggers()).await;
    let attach =
        "create foreign table far (id int, org int) server self options (table_name 'remote');
        alter table parts attach partition far for values in (2);
        create foreign table far_kid () inherits (kids) server self options (table_name 'remote')";
    bed.server.psql(attach).await.unwrap();
    for (sql, tags) in [
        ("insert into parts values (1, 1), (2, 2)", "parts parts!"),
        ("update parts set id = id + 1", "parts parts!"),
        ("insert into kids values (1)", "kids kids!"),
        ("update kids set org = 7", "kids kids!"),
        ("delete from parts", "parts parts!"),
        ("insert into parts_1 values (5, 1)", "parts parts:org=1"),
    ] {
        assert_eq!(bed.log(sql).await, tags, "{sql}");
    }
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    let parts = status.table("parts").unwrap();
    assert!(!parts.is_sound() && parts.foreign_tables == ["far"], "{parts:?}");
    assert!(parts.warnings.is_empty(), "{parts:?}");
    let refused = triggers().install(&mut bed.conn).await.unwrap_err();
    assert!(matches!(refused, SchemaError::NotATable(..)), "{refused}");
    bed.server
        .psql("alter table parts detach partition far; drop table kids cascade")
        .await
        .unwrap();
    Triggers::new().columns("parts", &["org"]).install(&mut bed.conn).await.unwrap();
    assert_eq!(bed.log("insert into parts values (6, 1)").await, "parts parts:org=1");
}

/// Without event triggers nobody can see to it in time; then the status says what is wrong, and uninstalling mends it.
#[tokio::test]
async fn status_warns_of_a_foreign_partition_that_makes_writes_fail() {
    let setup = "create table parts (id int, org int) partition by list (org);
        create table parts_1 partition of parts for values in (1);
        create foreign data wrapper nothing; create server nowhere foreign data wrapper nothing;";
    let mut bed = Bed::new(setup, Triggers::new().columns("parts", &["org"])).await;
    let attach = "alter event trigger tidegate_foreign disable;
        create foreign table far partition of parts for values in (2) server nowhere";
    bed.server.psql(attach).await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    let warnings = &status.table("parts").unwrap().warnings;
    assert!(warnings.iter().any(|why| why.contains("fail")), "{warnings:?}");
    Triggers::new().table("parts").uninstall(&mut bed.conn).await.unwrap();
    let left = "select count(*) from pg_trigger where tgname like 'tidegate%'";
    assert_eq!(bed.server.psql(left).await.unwrap(), "0");
}

/// Transition tables of many rows go to temporary files.
#[tokio::test]
async fn with_a_row_limit_of_zero_a_statement_needs_no_temporary_files() {
    let settings = [("temp_file_limit", "64kB"), ("work_mem", "64kB")];
    let many = "insert into users select generate_series(100, 20000), 1, repeat('n', 100)";
    let bed = Bed::with(&settings, USERS, users().row_limit(0)).await;
    // As a role that may not exceed the limit.
    bed.server.psql("create role app login; grant all on users to app").await.unwrap();
    let sql = format!("set role app; {many}");
    assert_eq!(bed.log(&sql).await, "users users!");
}

#[tokio::test]
async fn row_security_on_the_log_is_reported_and_removed_by_install() {
    let mut bed = Bed::new(USERS, users()).await;
    assert!(Triggers::status(&mut bed.conn).await.unwrap().row_security.is_empty());
    let owner = "create role app login; grant create on database postgres to app; alter table users owner to app;
        alter schema tidegate owner to app";
    bed.server.psql(owner).await.unwrap();
    for table in ["log", "meta", "marks", "ddl", "housekeeping"] {
        let name = format!("tidegate.{table}");
        let secure = format!(
            "alter table {name} enable row level security; alter table {name} force row level security"
        );
        bed.server.psql(&secure).await.unwrap();
        let status = Triggers::status(&mut bed.conn).await.unwrap();
        assert!(status.outdated && status.row_security == [name], "{status:?}");
        users().install(&mut bed.conn).await.unwrap();
        let status = Triggers::status(&mut bed.conn).await.unwrap();
        assert!(!status.outdated && status.row_security.is_empty(), "{status:?}");
    }
}
