//! What others may do in the database: take advisory locks, and create functions in `public`.

use sqlx::{Connection, PgConnection, raw_sql};
use tidegate::{Cache, DatabaseOptions, Key, Listener, Memory, Policy, ValuePolicy};
use tidegate_testing::Postgres;

use super::{Bed, USERS, users};
use crate::common::eventually;
use crate::common::warnings::{all_warnings, keep_warnings, warnings};
use crate::world::{Node, TTL, primary};

/// For arrays and names as such, which the functions of `pg_catalog` take only as any type. Postgres prefers an exact
/// match wherever it is (PostgreSQL manual, section 10.3).
const EXACT: &str = "
    create function public.unnest(text[]) returns setof text language sql as 'select null where false';
    create function public.unnest(int8[]) returns setof int8 language sql as 'select 0::int8 where false';
    create function public.unnest(oid[]) returns setof oid language sql as 'select 0::oid where false';
    create function public.cardinality(text[]) returns int language sql as 'select 1000000';
    create function public.cardinality(int2[]) returns int language sql as 'select 1';
    create function public.pg_column_size(text[]) returns int language sql as 'select 1000000000';
    create function public.same(text[], text) returns text[] language sql as 'select $1';
    create function public.same(int8, name) returns int8 language sql as 'select $1';
    create aggregate public.array_agg(text) (sfunc = public.same, stype = text[]);
    create aggregate public.count(name) (sfunc = public.same, stype = int8, initcond = 0);";

/// A session of a role without rights that holds every advisory lock whose number the schema's functions show.
async fn stranger(server: &Postgres) -> PgConnection {
    server.psql("create role stranger login").await.unwrap();
    let url = server.url().replace("postgres@", "stranger@");
    let mut conn = PgConnection::connect(&url).await.unwrap();
    for lock in
        [8_388_065_642_915_395_431_i64, 8_388_065_642_915_395_432, 8_388_065_642_915_395_433]
    {
        let take = sqlx::query("select pg_advisory_lock($1)").bind(lock);
        take.execute(&mut conn).await.unwrap();
    }
    conn
}

#[tokio::test]
async fn advisory_locks_of_another_role_do_not_block_installing_or_trimming() {
    let mut bed = Bed::new(USERS, users()).await;
    let mut stranger = stranger(&bed.server).await;
    users().install(&mut bed.conn).await.unwrap();
    bed.server.psql("insert into users values (42)").await.unwrap();
    assert_eq!(bed.server.psql("select tidegate.mark('0', 7)").await.unwrap(), "t");
    assert_eq!(bed.server.psql("select tidegate.trim('0', 1000)").await.unwrap(), "1");
    for table in ["installation", "housekeeping", "log", "marks"] {
        for mode in ["row share", "share row exclusive", "access exclusive"] {
            let lock = format!("begin; lock table tidegate.{table} in {mode} mode");
            assert!(raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut stranger).await.is_err());
            raw_sql("rollback").execute(&mut stranger).await.unwrap();
        }
    }
}

/// Whoever marks holds the lock until its transaction ends; the others leave it to that one.
#[tokio::test]
async fn only_one_transaction_marks_the_log_at_a_time() {
    let mut bed = Bed::new(USERS, users()).await;
    raw_sql("begin; select tidegate.mark('0', 8)").execute(&mut bed.conn).await.unwrap();
    assert_eq!(bed.server.psql("select tidegate.mark('0', 7)").await.unwrap(), "f");
    assert_eq!(bed.server.psql("select tidegate.trim('0', 7)").await.unwrap(), "0");
    raw_sql("commit").execute(&mut bed.conn).await.unwrap();
    assert_eq!(bed.server.psql("select tidegate.mark('0', 7)").await.unwrap(), "t");
}

/// Those of a role without rights: before the node starts, or while it runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_notifications_another_role_suppresses_polls_more_often_and_names_it() {
    keep_warnings();
    for before in [true, false] {
        is_noticed(before).await;
    }
}

async fn is_noticed(before_the_start: bool) {
    let bed = Bed::new(USERS, users()).await;
    bed.server.psql("insert into users values (31, 7, 'ada')").await.unwrap();
    let count = "create sequence beats; create or replace function tidegate.mark(every interval, known_schema bigint)
        returns boolean language plpgsql security definer as
        $$ begin perform nextval('public.beats'); return false; end $$";
    bed.server.psql(count).await.unwrap();
    let early = if before_the_start { Some(stranger(&bed.server).await) } else { None };
    let db = DatabaseOptions::new(bed.server.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    let listener = Listener::spawn(&db, &cache).await.unwrap();
    let mut stranger = match early {
        Some(stranger) => stranger,
        None => stranger(&bed.server).await,
    };
    let process = sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
    let process = process.fetch_one(&mut stranger).await.unwrap();
    let named =
        [&format!("process={process} "), "role=stranger ", "holds Tidegate's advisory lock"];
    let (key, policy) = (Key::new("name").finish(), ValuePolicy::ttl(TTL).build().unwrap());
    let sql = "select name from users where id = 31";
    let load = async || sqlx::query_scalar::<_, String>(sql).fetch_one(db.reader()).await;
    let name = async || cache.get_or_load(&key, &policy, load).await.unwrap();
    let mut written = name().await;
    let beats = async || {
        bed.server.psql("select last_value from beats").await.unwrap().parse::<u64>().unwrap()
    };
    for _beat in 0..20 {
        bed.server.psql("update users set name = name || 'x' where id = 31").await.unwrap();
        written.push('x');
        eventually("the change is seen", async || name().await == written).await;
        let (polls, before) = (listener.polls(), beats().await);
        while beats().await == before {
            tokio::task::yield_now().await;
        }
        if listener.polls() > polls + 4 {
            assert_eq!(warnings(&named), 1, "{}", all_warnings());
            return;
        }
    }
    panic!("it polls at each heartbeat alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_in_public_do_not_replace_system_functions() {
    let primary = primary(&[]).await;
    primary.psql(EXACT).await.unwrap();
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1", "/users/2", "/users"]).await;
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    node.sees("/users", "eve bob").await;
    assert!(node.get("/users/2").await.1.contains("hit"), "its row has not changed");
}

/// The query on each connection of the pool, where its path has `public` before `pg_catalog`.
const CAPTURING: &str = "
    create function public.pg_is_in_recovery() returns boolean language sql as 'select not pg_catalog.pg_is_in_recovery()';
    create function public.pg_backend_pid() returns int language sql as 'select 1';
    create function public.current_database() returns name language sql as 'select null::name';
    create function public.host(inet) returns text language sql as 'select pg_catalog.random()::text';
    create function public.never(name, name) returns boolean language sql as 'select false';
    create operator public.= (leftarg = name, rightarg = name, function = public.never);
    create domain public.int8 as text; create domain public.text as int;";

#[tokio::test(flavor = "multi_thread")]
async fn objects_in_public_do_not_capture_the_queries_about_a_connection() {
    let primary = primary(&[]).await;
    primary.psql(CAPTURING).await.unwrap();
    let url = format!("{}?options=-csearch_path%3Dpublic,pg_catalog", primary.url());
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    assert!(!db.status()[0].several);
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    let (body, status) = node.get("/users/1").await;
    assert_eq!(body, "ada");
    assert!(status.contains("search-path"), "{status}");
}
