//! Where Postgres refuses what triggers do in general: no write may fail by that.

use super::{Bed, USERS, users};

/// A view whose query writes, and what else runs functions within a security-restricted operation.
const WRITING: &str = "create function touch() returns int language plpgsql as $$ begin
        update users set name = 'x' where id = 1; return 1; end $$;
    create function mark() returns int language plpgsql as $$ begin
        perform tidegate.invalidate('{page}'); return 1; end $$;
    create function touch(int) returns int language sql immutable as 'select touch()';
    create materialized view touching as select touch() with no data;
    create materialized view marking as select mark() with no data;
    create table indexed (id int primary key); insert into indexed values (1);";

#[tokio::test]
async fn a_write_within_a_restricted_operation_is_noted() {
    for prepared in ["0", "4"] {
        let settings = [("max_prepared_transactions", prepared)];
        let bed = Bed::with(&settings, USERS, users()).await;
        bed.server.psql(WRITING).await.unwrap();
        let touched = "users users:id=1 users:org=1";
        for (sql, tags) in [
            ("refresh materialized view touching", touched),
            ("create materialized view another as select touch()", touched),
            ("refresh materialized view marking", "page"),
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
async fn a_restricted_operation_leaves_its_transaction_as_it_was() {
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
async fn a_listening_session_s_write_can_be_prepared() {
    let bed = Bed::with(&[("max_prepared_transactions", "4")], USERS, users()).await;
    let sql =
        "listen news; begin; update users set name = 'y' where id = 1; prepare transaction 'x';
        commit prepared 'x'";
    assert_eq!(bed.log(sql).await, "users users:id=1 users:org=1");
}

/// Transition tables of many rows go to temporary files.
#[tokio::test]
async fn without_a_row_limit_a_statement_needs_no_temporary_files() {
    let settings = [("temp_file_limit", "64kB"), ("work_mem", "64kB")];
    let many = "insert into users select generate_series(100, 20000), 1, repeat('n', 100)";
    let bed = Bed::with(&settings, USERS, users().row_limit(0)).await;
    // As a role that may not exceed the limit.
    bed.server.psql("create role app login; grant all on users to app").await.unwrap();
    let sql = format!("set role app; {many}");
    assert_eq!(bed.log(&sql).await, "users users!");
}
