//! Every way to change a table, and what the log says of it. All writes are plain SQL through psql.

use sqlx::{Connection, PgConnection};
use tidegate::{SchemaError, Triggers};
use tidegate_testing::Postgres;

use super::common::eventually;

mod altered;
mod locks;
mod long;
mod moved;
mod noted;
mod refused;
mod settings;
mod strangers;

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

const USERS: &str = "create table users (id int primary key, org int, name text);
    insert into users select g, g % 3, 'n' from generate_series(1, 20) g;";

fn users() -> Triggers {
    Triggers::new().columns("users", &["org"]).row_limit(10)
}

#[tokio::test]
async fn each_plain_statement_logs_the_tags_of_its_rows() {
    let bed = Bed::new(USERS, users()).await;
    for (sql, tags) in [
        ("insert into users values (42, 7)", "users users:id=42 users:org=7"),
        ("insert into users values (43, null)", "users users:id=43"),
        ("update users set org = 8 where id = 42", "users users:id=42 users:org=7 users:org=8"),
        ("update users set id = 44 where id = 43", "users users:id=43 users:id=44"),
        ("update users set name = name where id = 44", "users users:id=44"),
        ("delete from users where id = 44", "users users:id=44"),
        ("update users set org = 9 where id = -1", ""),
        ("delete from users where false", ""),
        ("insert into users select 1 where false", ""),
        (
            "copy users (id, org) from stdin;\n50\t1\n51\t\\N\n\\.\n",
            "users users:id=50 users:id=51 users:org=1",
        ),
        (
            "insert into users values (50, 5), (52, 6) on conflict (id) do update set org = 6",
            "users users:id=52 users:org=6\nusers users:id=50 users:org=1 users:org=6",
        ),
        ("insert into users values (50) on conflict do nothing", ""),
        ("begin; delete from users; rollback", ""),
        (
            "begin; delete from users where id = 1; savepoint s; delete from users where id = 2;
             rollback to s; commit",
            "users users:id=1 users:org=1",
        ),
        (
            "with gone as (delete from users where id = 2 returning id)
             insert into users select 60, id from gone",
            "users users:id=60 users:org=2\nusers users:id=2 users:org=2",
        ),
        ("delete from users where id < 14", "users users!"),
        (
            "set session_replication_role = replica; delete from users where id = 15",
            "users users:id=15 users:org=0",
        ),
        ("truncate users", "users users!"),
    ] {
        let mut said: Vec<_> = bed.log(sql).await.lines().map(str::to_owned).collect();
        let mut wanted: Vec<_> = tags.lines().map(str::to_owned).collect();
        said.sort();
        wanted.sort();
        assert_eq!(said, wanted, "{sql}");
    }
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
    let bed = Bed::new(USERS, users()).await;
    if bed.server.psql("show server_version_num").await.unwrap().as_str() < "150000" {
        return; // MERGE came with Postgres 15.
    }
    let said = bed
        .log(
            "merge into users u using (values (1), (2), (99)) v (id) on u.id = v.id
             when matched and u.id = 1 then delete
             when matched then update set org = 5
             when not matched then insert values (v.id, 9)",
        )
        .await;
    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(
        said,
        [
            "users users:id=1 users:org=1",
            "users users:id=2 users:org=2 users:org=5",
            "users users:id=99 users:org=9",
        ]
    );
}

#[tokio::test]
async fn cascades_of_foreign_keys_are_logged() {
    let setup = "create table a (id int primary key);
        create table b (id int primary key, a int references a on delete cascade);
        create table c (id int primary key, a int references a on delete set null);
        insert into a values (1), (2); insert into b values (10, 1); insert into c values (20, 1);";
    let triggers = Triggers::new().table("a").columns("b", &["a"]).columns("c", &["a"]);
    let bed = Bed::new(setup, triggers).await;
    let said = bed.log("delete from a where id = 1").await;
    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["a a:id=1", "b b:a=1 b:id=10", "c c:a=1 c:id=20"]);
    let said = bed.log("truncate a cascade").await;
    let mut said: Vec<_> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["a a!", "b b!", "c c!"]);
}

#[tokio::test]
async fn changes_of_partitions_are_logged_by_the_name_of_their_root() {
    let setup = "create table p (id int, k int, primary key (id, k)) partition by list (k);
        create table p1 partition of p for values in (1);
        create table p2 (k int not null, extra text, id int not null);
        alter table p2 drop column extra;
        alter table p attach partition p2 for values in (2);";
    let mut bed = Bed::new(setup, Triggers::new().table("p1")).await;
    for (sql, tags) in [
        ("insert into p values (5, 1), (6, 2)", "p p:id=5 p:id=6 p:k=1 p:k=2"),
        ("insert into p2 (id, k) values (7, 2)", "p p:id=7 p:k=2"),
        ("update p set k = 2 where id = 5", "p p:id=5 p:k=1 p:k=2"),
        ("delete from p2 where id = 7", "p p:id=7 p:k=2"),
    ] {
        let said = bed.log(sql).await;
        let mut said: Vec<_> = said.split_whitespace().collect();
        said.sort_unstable();
        said.dedup();
        assert_eq!(said.join(" "), tags, "{sql}");
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
    let setup = format!(
        "{USERS} create view v as select id, org from users where org = 1;
         create function f() returns void language sql as 'delete from users where id = 4';"
    );
    let bed = Bed::new(&setup, users()).await;
    assert_eq!(
        bed.log("update v set org = 2 where id = 1").await,
        "users users:id=1 users:org=1 users:org=2"
    );
    assert_eq!(bed.log("select f()").await, "users users:id=4 users:org=1");
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
