//! Changes of the schema: which are noted, and that none ever fails by that.

use sqlx::{Connection, PgConnection};
use tidegate::{TriggerState, Triggers};

use super::{Bed, USERS, users};

impl Bed {
    /// In how many transactions a script changes the schema, as far as is noted.
    async fn noted(&self, sql: &str) -> String {
        self.server.psql("truncate tidegate.ddl").await.unwrap();
        self.server.psql(sql).await.unwrap();
        self.server.psql("select count(distinct xid) from tidegate.ddl").await.unwrap()
    }
}

#[tokio::test]
async fn a_schema_change_is_recorded_once_in_its_own_transaction() {
    let bed = Bed::new(USERS, users()).await;
    for (sql, transactions) in [
        ("create table a (id int); create table b (id int)", "2"),
        ("begin; alter table a add x int; alter table b add x int; drop table b; commit", "1"),
        ("begin; create table c (); savepoint s; create table d (); rollback to s; commit", "1"),
        ("begin; savepoint s; create table e (); rollback to s; create table f (); commit", "1"),
        ("begin; create table g (); rollback", "0"),
        ("set session_replication_role = replica; create table h ()", "1"),
        ("drop table a", "1"),
        ("create type mood as enum ('sad')", "1"),
        ("alter type mood rename value 'sad' to 'blue'", "1"),
        ("create view v as select id from users", "1"),
        ("alter view v rename column id to nr", "1"),
        ("do $$ begin execute 'drop view v'; end $$", "1"),
        ("create table i as select 1 as one", "1"),
        ("select 2 as two into j", "1"),
        ("create policy p on users using (true)", "1"),
        ("drop policy p on users", "1"),
        ("alter table users disable trigger tidegate_insert", "1"),
        ("create cast (mood as int) with inout", "1"),
        ("drop cast (mood as int)", "1"),
        ("create operator ## (function = int4pl, leftarg = int, rightarg = int)", "1"),
        ("create function f() returns int language sql as 'select 1'", "1"),
        ("drop function f", "1"),
        ("create schema s create table t ()", "1"),
        ("drop schema s cascade", "1"),
        ("alter text search configuration english alter mapping for word with simple", "1"),
        ("insert into users values (100); truncate users; analyze; vacuum", "0"),
        ("grant select on users to public; revoke select on users from public", "0"),
        ("grant usage on schema public to public; grant usage on type mood to public", "0"),
        ("comment on table users is 'x'; comment on type mood is 'x'", "0"),
        ("create index on users (org); reindex table users; drop index users_org_idx", "0"),
        // It renames what else has a name, too.
        ("alter index users rename to people", "1"),
        ("alter index people rename to users", "1"),
        ("create view seen as select id from users", "1"),
        ("alter index seen rename to shown", "1"),
        ("drop view shown", "1"),
        (
            "create index on users (org); alter index users_org_idx rename to x; alter table x rename to y; drop index y",
            "0",
        ),
        (
            "create publication p for table users; alter publication p set table users; drop publication p",
            "0",
        ),
        ("create statistics st on id, org from users; drop statistics st", "0"),
        ("alter default privileges grant select on tables to public", "0"),
        (
            "create temp table x (a int default 3 primary key); alter table x add b int; drop table x",
            "0",
        ),
        ("create temp table y on commit drop as select 1", "0"),
        (
            "create temp table z (a int primary key); create policy p on z using (true); drop table z cascade",
            "0",
        ),
        (
            "create temp view w as select 1; create function pg_temp.f() returns int language sql as 'select 1'; drop view w",
            "0",
        ),
    ] {
        assert_eq!(bed.noted(sql).await, transactions, "{sql}");
    }
}

#[tokio::test]
async fn no_schema_change_fails_because_it_cannot_be_recorded() {
    let bed = Bed::new(USERS, users()).await;
    let server = bed.server;
    // A copy of the database for each case; what is copied must have no connection.
    bed.conn.close().await.unwrap();
    let url = server.url_of("template1");
    let psql = async |sql: &str| server.psql_at(&url, sql).await;
    for (number, (broken, change)) in [
        ("drop table tidegate.ddl", "create table a ()"),
        ("drop table tidegate.log cascade", "create table a ()"),
        ("drop function tidegate.no_event_trigger", "create table a ()"),
        ("alter table tidegate.ddl add check (false) not valid", "create table a ()"),
        ("alter table tidegate.ddl rename to gone", "create table a (); drop table a"),
        ("alter schema tidegate rename to gone", "create table a (); drop table a"),
        (
            "create role app login; grant create on schema public to app",
            "set role app; create table a (); drop table a",
        ),
        (
            "select 1",
            "begin; create table a (); drop schema tidegate cascade; create table b (); commit",
        ),
        ("select 1", "drop schema tidegate cascade; create table b ()"),
        ("select 1", "set session_replication_role = replica; create table b (); drop table b"),
        ("select 1", "begin isolation level serializable; create table b (); drop table b; commit"),
        ("create extension if not exists plpgsql", "drop table users"),
        ("create extension pg_trgm", "alter extension pg_trgm update; drop extension pg_trgm"),
        (
            "create role owner; alter table users owner to owner",
            "reassign owned by owner to postgres; drop owned by owner",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        psql(&format!("create database case_{number} template postgres")).await.unwrap();
        let url = server.url_of(&format!("case_{number}"));
        if let Err(error) = server.psql_at(&url, broken).await {
            assert!(broken.contains("pg_trgm"), "{broken}: {error}");
            continue;
        }
        let changed = server.psql_at(&url, change).await;
        changed.unwrap_or_else(|error| panic!("{broken}; {change}: {error}"));
    }
}

#[tokio::test]
async fn schema_changes_in_two_serializable_transactions_are_recorded() {
    let bed = Bed::new(USERS, users()).await;
    // As autovacuum would: what looks for a row of a small table reads all of it.
    bed.server.psql("create table before (); analyze tidegate.ddl").await.unwrap();
    let mut conns = Vec::new();
    for name in ["a", "b"] {
        let mut conn = PgConnection::connect(&bed.server.url()).await.unwrap();
        let change = format!(
            "begin isolation level serializable; create table {name} (); alter table {name} add x int"
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(&mut conn).await.unwrap();
        conns.push(conn);
    }
    for conn in &mut conns {
        sqlx::raw_sql("commit").execute(conn).await.unwrap();
    }
    let noted = "select count(distinct xid) from tidegate.ddl where xid::xid in (
        select xmin from pg_class where relname in ('a', 'b'))";
    assert_eq!(bed.server.psql(noted).await.unwrap(), "2");
}

#[tokio::test]
async fn a_schema_change_in_a_prepared_transaction_is_recorded() {
    let settings = [("max_prepared_transactions", "4")];
    let bed = Bed::with(&settings, USERS, users()).await;
    let prepared = "begin; create table a (); prepare transaction 'x'; commit prepared 'x'";
    assert_eq!(bed.noted(prepared).await, "1");
}

#[tokio::test]
async fn a_superusers_install_creates_event_triggers_and_uninstall_drops_them() {
    let mut bed = Bed::new(USERS, users()).await;
    assert_eq!(Triggers::status(&mut bed.conn).await.unwrap().no_event_trigger, None);
    let triggers = "select count(*) from pg_event_trigger";
    assert_eq!(bed.server.psql(triggers).await.unwrap(), "4");
    bed.server.psql("alter event trigger tidegate_ddl disable").await.unwrap();
    let why = Triggers::status(&mut bed.conn).await.unwrap().no_event_trigger.unwrap();
    assert!(why.contains("ALWAYS"), "{why}");
    users().install(&mut bed.conn).await.unwrap();
    assert_eq!(Triggers::status(&mut bed.conn).await.unwrap().no_event_trigger, None);
    Triggers::uninstall_all(&mut bed.conn).await.unwrap();
    assert_eq!(bed.server.psql(triggers).await.unwrap(), "0");
    // A schema of a role that is no superuser: neither it nor a superuser after it makes event triggers, whose function
    // would write with a superuser's rights into what that role can replace.
    let role = "create role app login; grant create on database postgres to app; alter table users owner to app";
    bed.server.psql(role).await.unwrap();
    let url = bed.server.url().replace("postgres@", "app@");
    let mut app = PgConnection::connect(&url).await.unwrap();
    for _ in 0..2 {
        users().install(&mut app).await.unwrap();
        users().install(&mut bed.conn).await.unwrap();
        let status = Triggers::status(&mut app).await.unwrap();
        assert!(status.no_event_trigger.unwrap().contains("superuser"));
        assert!(status.tables[0].triggers.iter().all(|one| one.state == TriggerState::Always));
        assert_eq!(bed.server.psql(triggers).await.unwrap(), "0");
    }
    bed.server.psql("create table later ()").await.unwrap();
    bed.server.psql("alter role app superuser").await.unwrap();
    users().install(&mut app).await.unwrap();
    assert_eq!(Triggers::status(&mut app).await.unwrap().no_event_trigger, None);
    bed.server.psql("alter role app nosuperuser").await.unwrap();
    Triggers::uninstall_all(&mut app).await.unwrap();
    assert_eq!(bed.server.psql(triggers).await.unwrap(), "0");
}

/// A database as version 4 left it.
#[tokio::test]
async fn an_upgrade_from_version_4_keeps_the_rights_of_listening_roles() {
    let mut bed = Bed::new(USERS, users()).await;
    let before = "drop function tidegate.note_ddl cascade; drop function tidegate.no_event_trigger;
        drop table tidegate.ddl; update tidegate.meta set version = 4;
        create role \"the ear\"; grant execute on function tidegate.mark to \"the ear\"";
    bed.server.psql(before).await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(status.outdated && status.no_event_trigger.is_some(), "{status:?}");
    users().install(&mut bed.conn).await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(!status.outdated && status.no_event_trigger.is_none(), "{status:?}");
    let follows = "select has_table_privilege('the ear', 'tidegate.ddl', 'select'),
        has_function_privilege('the ear', 'tidegate.no_event_trigger()', 'execute')";
    assert_eq!(bed.server.psql(follows).await.unwrap(), "t|t");
    assert_eq!(bed.noted("create table later ()").await, "1");
    users().install(&mut bed.conn).await.unwrap();
    assert_eq!(bed.noted("select 1").await, "0", "a second install changes nothing");
}

/// A label is what the writer's transaction called it. Renamed since, it may stand for any row.
#[tokio::test]
async fn a_change_logged_with_a_label_renamed_since_is_a_bulk_change() {
    let setup =
        "create type mood as enum ('sad', 'glad'); create table t (id int primary key, m mood);";
    let bed = Bed::new(setup, Triggers::new().columns("t", &["m"])).await;
    let said = bed.log("insert into t values (1, 'sad')").await;
    assert_eq!(said, "t t:id=1 t:m=sad");
    bed.server.psql("alter type mood rename value 'sad' to 'blue'").await.unwrap();
    assert_eq!(bed.rows().await, "t t! t:id=1");
}

#[tokio::test]
async fn a_temporary_child_in_another_session_does_not_block_install() {
    let mut bed = Bed::new(USERS, users()).await;
    let mut session = PgConnection::connect(&bed.server.url()).await.unwrap();
    sqlx::raw_sql("create temp table kid () inherits (users)").execute(&mut session).await.unwrap();
    users().columns("users", &["name"]).install(&mut bed.conn).await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    let table = status.table("users").unwrap();
    assert!(table.is_sound() && table.columns == ["id", "org", "name"], "{table:?}");
}
