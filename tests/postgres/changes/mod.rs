//! Every way to change a table, and what the log says of it. All writes are plain SQL through psql.

use sqlx::{Connection, PgConnection};
use tidegate::{SchemaError, Triggers};
use tidegate_testing::Postgres;

use super::common::eventually;
use ways::{USERS, Ways, users};

mod altered;
mod locks;
mod long;
mod moved;
mod noted;
mod refused;
mod settings;
mod strangers;
pub(super) mod ways;

struct Bed {
    server: Postgres,
    conn: PgConnection,
}

impl Bed {
    async fn new(setup: &str, triggers: Triggers) -> Self {
        Self::with(&[], setup, triggers).await
    }

    async fn with(settings: &[(&str, &str)], setup: &str, triggers: Triggers) -> Self {
        let server = Postgres::start_with(settings).await.unwrap();
        server.psql(setup).await.unwrap();
        let mut conn = PgConnection::connect(&server.url()).await.unwrap();
        triggers.install(&mut conn).await.unwrap();
        server.psql("truncate tidegate.log").await.unwrap();
        Self { server, conn }
    }

    /// The tags of each row that a script adds to the log, in order, one row in a line.
    async fn log(&self, sql: &str) -> String {
        self.server.psql("truncate tidegate.log").await.unwrap();
        self.server.psql(sql).await.unwrap();
        self.rows().await
    }

    async fn rows(&self) -> String {
        let rows = "select array_to_string(array(
                        select distinct unnest(tidegate.named(relation, tags, null)) order by 1), ' ')
                    from tidegate.log order by ctid";
        self.server.psql(rows).await.unwrap()
    }
}

/// Writes what is listed in [`ways`], and compares the log.
async fn logs_the_tags(ways: &Ways) {
    let bed = Bed::new(ways.setup, (ways.tables)()).await;
    for (sql, tags) in ways.statements_for(&bed.server).await {
        let mut said: Vec<_> = bed.log(sql).await.lines().map(str::to_owned).collect();
        let mut wanted: Vec<_> = tags.lines().map(str::to_owned).collect();
        said.sort();
        wanted.sort();
        assert_eq!(said, wanted, "{sql}");
    }
}

#[tokio::test]
async fn each_plain_statement_logs_the_tags_of_its_rows() {
    logs_the_tags(&ways::PLAIN).await;
}

#[tokio::test]
async fn invalidating_a_tag_without_a_value_also_logs_its_bulk_tag() {
    let bed = Bed::new(USERS, users()).await;
    for (tags, logged) in [
        ("{users}", "users users!"),
        ("{users, users!}", "users users!"),
        ("{users:id=1, front page}", "front page front page! users:id=1"),
        (r#"{"a=b", users:id=a=b}"#, "a=b a=b! users:id=a=b"),
        ("{users:id=1, null}", "users:id=1"),
        ("{}", ""),
    ] {
        let sql = format!("select tidegate.invalidate('{tags}')");
        assert_eq!(bed.log(&sql).await, logged, "{tags}");
    }
}

#[tokio::test]
async fn a_merge_logs_the_tags_of_its_rows() {
    logs_the_tags(&ways::MERGE).await;
}

#[tokio::test]
async fn cascades_of_foreign_keys_are_logged() {
    logs_the_tags(&ways::CASCADES).await;
}

#[tokio::test]
async fn changes_of_partitions_are_logged_by_the_name_of_their_root() {
    let mut bed = Bed::new(ways::PARTITIONS.setup, (ways::PARTITIONS.tables)()).await;
    for (sql, tags) in ways::PARTITIONS.statements {
        let said = bed.log(sql).await;
        let mut said: Vec<_> = said.split_whitespace().collect();
        said.sort_unstable();
        said.dedup();
        assert_eq!(said.join(" "), *tags, "{sql}");
    }
    bed.server.psql("create table p3 partition of p for values in (3)").await.unwrap();
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(!status.table("p").unwrap().is_sound());
    Triggers::new().table("p").install(&mut bed.conn).await.unwrap();
    assert!(Triggers::status(&mut bed.conn).await.unwrap().table("p").unwrap().is_sound());
    assert_eq!(bed.log("insert into p3 values (9, 3)").await, "p p:id=9 p:k=3");
    bed.server.psql("alter table p detach partition p3").await.unwrap();
    assert_eq!(bed.log("insert into p3 values (8, 3)").await, "p3 p3:id=8 p3:k=3");
}

#[tokio::test]
async fn a_child_is_logged_by_its_parents_name_and_several_parents_are_refused() {
    let setup = "create table base (id int primary key); create table sub (x int) inherits (base);
        create table one (a int); create table two (b int);
        create table twofold () inherits (one, two); create view seen as table base;";
    let mut bed = Bed::new(setup, Triggers::new().table("base")).await;
    assert_eq!(bed.log("insert into sub values (1, 2)").await, "base base:id=1");
    for (table, message) in [
        ("twofold", "several"),
        ("one", "several"),
        ("none", "no table"),
        ("seen", "a view"),
        ("pg_catalog.pg_class", "system"),
    ] {
        let error = Triggers::new().table(table).install(&mut bed.conn).await.unwrap_err();
        assert!(error.to_string().contains(message), "{table}: {error}");
    }
}

#[tokio::test]
async fn writes_through_a_view_or_a_function_are_logged() {
    logs_the_tags(&ways::INDIRECT).await;
}

#[tokio::test]
async fn columns_that_cannot_be_tagged_are_refused() {
    let setup = "create table t (at timestamptz primary key, n numeric, u uuid, e int);
        create collation loose (provider = icu, locale = 'und', deterministic = false);
        create table s (id text collate loose primary key, name varchar(9));";
    let mut bed = Bed::new(setup, Triggers::new().columns("t", &["u"]).table("s")).await;
    assert_eq!(bed.log("insert into t values (now(), 1)").await, "t");
    for (table, column) in [("t", "at"), ("t", "n"), ("s", "id")] {
        let triggers = Triggers::new().columns(table, &[column]);
        let error = triggers.install(&mut bed.conn).await.unwrap_err();
        assert!(matches!(error, SchemaError::NotTaggable(..)), "{error}");
    }
    let error = Triggers::new().columns("t", &["gone"]).install(&mut bed.conn).await.unwrap_err();
    assert!(matches!(error, SchemaError::NoColumn(..)), "{error}");
}

#[tokio::test]
async fn hostile_names_and_values_are_logged_verbatim() {
    let setup = r#"create schema "we""ird.s%1$I";
        create table "we""ird.s%1$I"."ta'ble \ ü" ("i'd""%s" text primary key, "a.b" int);"#;
    let table = "we\"ird.s%1$I.ta'ble \\ ü";
    let bed = Bed::new(setup, Triggers::new().columns(table, &["a.b"])).await;
    let insert = r#"insert into "we""ird.s%1$I"."ta'ble \ ü" values ('x''y"\%I$1 {},', 5)"#;
    bed.server.psql(insert).await.unwrap();
    let tags = bed
        .server
        .psql("select unnest(tidegate.named(relation, tags, null)) from tidegate.log order by 1")
        .await
        .unwrap();
    assert_eq!(tags, format!("{table}\n{table}:a.b=5\n{table}:i'd\"%s=x'y\"\\%I$1 {{}},"));
}

#[tokio::test]
async fn a_writer_needs_no_rights_on_the_log_and_cannot_mislead_the_trigger() {
    let setup = format!(
        "{USERS} create role app login; grant all on users to app; grant create on schema public to app;"
    );
    let bed = Bed::new(&setup, users()).await;
    let url = bed.server.url().replace("postgres@", "app@");
    let attack = "set search_path = public, pg_catalog;
        create temp table pg_class (oid oid, relname name, relnamespace oid);
        create temp table tidegate_new (id int);
        create function public.concat(text, int) returns text language sql as 'select ''evil''';
        create function public.differs(text, text) returns bool language sql as 'select false';
        create operator public.<> (leftarg = text, rightarg = text, function = public.differs);
        create function public.pg_try_advisory_xact_lock(bigint) returns bool language sql as 'select 1 / 0 = 0';
        set datestyle = 'german'; set bytea_output = escape;
        update users set org = 5 where id = 1;";
    bed.server.psql_at(&url, attack).await.unwrap();
    assert_eq!(bed.rows().await, "users users:id=1 users:org=1 users:org=5");
    assert!(bed.server.psql_at(&url, "select from tidegate.log").await.is_err());
}

/// A type of the writer's own is looked at before the system's, and its checks run as whoever uses it.
#[tokio::test]
async fn the_triggers_do_not_use_types_defined_by_a_writer() {
    let setup = format!("{USERS} create role app login; grant all on users to app;");
    let bed = Bed::new(&setup, users()).await;
    let url = bed.server.url().replace("postgres@", "app@");
    let types = ["text", "int4", "int8", "bool", "oid", "xid8", "float8", "numeric"].map(|name| {
        format!("create domain pg_temp.{name} as pg_catalog.{name} check (pg_temp.evil());")
    });
    let types = types.concat();
    let attack = format!(
        "create function pg_temp.evil() returns pg_catalog.bool language plpgsql as $$ begin
            if current_user <> session_user then raise 'as %', current_user; end if; return true; end $$;
        {types} update users set org = 5 where id = 1; delete from users where id in (2, 3);
        insert into users values (40, 1); truncate users;"
    );
    bed.server.psql_at(&url, &attack).await.unwrap();
    assert_eq!(bed.rows().await.lines().count(), 4);
}

#[tokio::test]
async fn a_prepared_transaction_is_logged_when_it_commits() {
    let settings = [("max_prepared_transactions", "4")];
    let mut bed = Bed::with(&settings, USERS, users()).await;
    bed.server
        .psql("begin; delete from users where id = 1; prepare transaction 'p'")
        .await
        .unwrap();
    assert_eq!(bed.rows().await, "");
    bed.server.psql("commit prepared 'p'").await.unwrap();
    assert_eq!(bed.rows().await, "users users:id=1 users:org=1");
    let status = Triggers::status(&mut bed.conn).await.unwrap();
    assert!(status.no_wakeups.unwrap().contains("max_prepared_transactions"));
}

#[tokio::test]
async fn ten_thousand_statements_in_one_transaction_are_logged() {
    let bed = Bed::new(USERS, users()).await;
    let script = "do $$ begin for i in 1000..10999 loop
        insert into users values (i); end loop; end $$";
    bed.server.psql(script).await.unwrap();
    let count = "select count(distinct t), count(distinct xid)
        from tidegate.log, unnest(tidegate.named(relation, tags, null)) t";
    assert_eq!(bed.server.psql(count).await.unwrap(), "10001|1");
}

#[tokio::test]
async fn installing_again_changes_nothing_and_uninstalling_leaves_nothing() {
    let mut bed = Bed::new(USERS, users()).await;
    let state = "select string_agg(xmin::text, ',' order by oid) from pg_trigger";
    let before = bed.server.psql(state).await.unwrap();
    users().install(&mut bed.conn).await.unwrap();
    assert_eq!(bed.server.psql(state).await.unwrap(), before);
    assert_eq!(bed.rows().await, "");
    users().uninstall(&mut bed.conn).await.unwrap();
    assert_eq!(bed.rows().await, "users users!");
    users().install(&mut bed.conn).await.unwrap();
    Triggers::uninstall_all(&mut bed.conn).await.unwrap();
    let left = "select (select count(*) from pg_trigger where tgname like 'tidegate%'),
        to_regnamespace('tidegate') is null";
    assert_eq!(bed.server.psql(left).await.unwrap(), "0|t");
    let error = Triggers::status(&mut bed.conn).await.unwrap_err();
    assert!(matches!(error, SchemaError::NotInstalled));
}

#[tokio::test]
async fn nodes_that_start_together_can_all_install() {
    let server = Postgres::start().await.unwrap();
    server.psql(USERS).await.unwrap();
    let mut nodes = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let url = server.url();
        nodes.spawn(async move {
            let mut conn = PgConnection::connect(&url).await.unwrap();
            users().install(&mut conn).await.unwrap();
        });
    }
    while let Some(done) = nodes.join_next().await {
        done.unwrap();
    }
    assert_eq!(server.psql("select count(*) from tidegate.log").await.unwrap(), "1");
    assert_eq!(server.psql("select count(*) from tidegate.marks").await.unwrap(), "1");
}

/// As if another node were about to record the version.
#[tokio::test]
async fn an_update_of_the_schema_waits_longer_than_one_lock_timeout() {
    let mut bed = Bed::new(USERS, Triggers::new()).await;
    bed.server.psql("update tidegate.meta set version = version - 1").await.unwrap();
    let mut other = PgConnection::connect(&bed.server.url()).await.unwrap();
    let lock = "begin; lock table tidegate.meta in exclusive mode";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    let waits = async || {
        let sql = "select exists (select from pg_locks where not granted
            and relation = 'tidegate.meta'::regclass)";
        bed.server.psql(sql).await.unwrap() == "t"
    };
    let release = async {
        eventually("it waits for the lock", &waits).await;
        eventually("the lock timeout ends its wait", async || !waits().await).await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
    };
    let triggers = users();
    let (installed, ()) = tokio::join!(triggers.install(&mut bed.conn), release);
    installed.unwrap();
}

#[tokio::test]
async fn installing_without_rights_on_a_standby_or_over_a_newer_version_is_refused() {
    let mut bed = Bed::new(&format!("{USERS} create role app login"), Triggers::new()).await;
    let url = bed.server.url().replace("postgres@", "app@");
    let mut app = PgConnection::connect(&url).await.unwrap();
    let error = users().install(&mut app).await.unwrap_err();
    assert!(matches!(error, SchemaError::NoRights { .. }), "{error}");
    let standby = bed.server.standby().await.unwrap();
    let mut conn = PgConnection::connect(&standby.url()).await.unwrap();
    let error = users().install(&mut conn).await.unwrap_err();
    assert!(matches!(error, SchemaError::Standby), "{error}");
    bed.server.psql("update tidegate.meta set version = 99").await.unwrap();
    let error = users().install(&mut bed.conn).await.unwrap_err();
    assert!(matches!(error, SchemaError::Newer(99)), "{error}");
}
