//! What the executors make of results, errors and connections, seen by those who call them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sqlx::postgres::PgListener;
use tidegate::{Cache, Database, DatabaseOptions, Listener, Memory, Record, ValuePolicy};
use tidegate_testing::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};

use super::common::eventually;
use super::world::{TTL, options, primary, proxy};

/// Of each unique constraint that is checked at the commit, and so after the row.
const SLOTS: &str = "create table slots (n int unique deferrable initially deferred);
    insert into slots values (1);
    create function take_slot(n int) returns int language sql
        as 'insert into slots values (n) returning n'";

async fn with_replica(primary: &Postgres) -> (Postgres, Database) {
    let replica = primary.standby().await.unwrap();
    let db = options(primary).replica(replica.url()).connect().await.unwrap();
    eventually("the replica is up", async || db.replicas()[0].reached.is_some()).await;
    (replica, db)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_through_the_reader_fails_if_its_commit_fails() {
    let primary = primary(&[]).await;
    primary.psql(SLOTS).await.unwrap();
    let (_replica, db) = with_replica(&primary).await;
    for sql in ["insert into slots values (1) returning n", "select take_slot(1)"] {
        for in_scope in [true, false] {
            let write = sqlx::query_scalar::<_, i32>(sql).fetch_one(db.reader());
            let outcome = match in_scope {
                true => Record::detached(write).await,
                false => write.await,
            };
            let error = outcome.expect_err("it was rolled back");
            assert!(error.to_string().contains("slots"), "{sql}: {error}");
        }
    }
}

/// With replicas, what is not known to be a read runs on the primary in a transaction.
#[tokio::test(flavor = "multi_thread")]
async fn a_notification_sent_through_the_reader_is_delivered() {
    let primary = primary(&[]).await;
    let (replica, db) = with_replica(&primary).await;
    replica.pause().unwrap();
    eventually("the replica is down", async || db.replicas()[0].reached.is_none()).await;
    let mut listener = PgListener::connect(&primary.url()).await.unwrap();
    listener.listen("orders").await.unwrap();
    for number in ["1", "2"] {
        let query = sqlx::query("select pg_notify('orders', $1)").bind(number);
        query.fetch_one(db.reader()).await.unwrap();
    }
    primary.psql("select pg_notify('orders', 'last')").await.unwrap();
    for expected in ["1", "2", "last"] {
        assert_eq!(listener.recv().await.unwrap().payload(), expected);
    }
    replica.resume().unwrap();
}

/// A lookup observes a position past all that has ended, and there is none past a write that may commit at any time.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_serve_a_scope_again_after_its_write_that_returns_a_row() {
    let primary = primary(&[]).await;
    let (replica, db) = with_replica(&primary).await;
    let cache = Cache::new(Memory::new(1 << 20));
    let _listener = Listener::spawn(&db, &cache).await.unwrap();
    let cached = db.cached(&cache, ValuePolicy::ttl(TTL).build().unwrap());
    Record::detached(async {
        let write = "insert into users values (7, 'eve') returning id";
        sqlx::query(write).fetch_one(db.reader()).await.unwrap();
        let name = sqlx::query("select name from users where id = 7");
        assert_eq!(cached.fetch_one::<(String,)>(name).await.unwrap().0, "eve");
        let port = async || {
            sqlx::query_scalar::<_, i32>("select inet_server_port()").fetch_one(db.reader()).await
        };
        let of_replica = i32::from(replica.port());
        eventually("the replica serves", async || port().await.unwrap() == of_replica).await;
    })
    .await;
}

/// The replica lacks a migration, and can't read what is not in the WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_only_a_standby_refuses_runs_on_the_primary() {
    let primary = primary(&[]).await;
    primary
        .psql("create unlogged table carts (id int); insert into carts values (3)")
        .await
        .unwrap();
    let (replica, db) = with_replica(&primary).await;
    replica.pause_replay().await.unwrap();
    let migration = "create table fresh (id int); insert into fresh values (4);
        alter table users add age int default 5; create type mood as enum ('happy');
        create function six() returns int language sql immutable as 'select 6'";
    primary.psql(migration).await.unwrap();
    for (sql, expected) in [
        ("select id from carts", 3),
        ("select id from fresh", 4),
        ("select min(age) from users", 5),
        ("select six()", 6),
        ("select (pg_current_wal_insert_lsn() > '0/0')::int", 1),
    ] {
        let read = sqlx::query_scalar::<_, i32>(sql).fetch_one(db.reader()).await;
        assert_eq!(read.unwrap(), expected, "{sql}");
    }
    let read = sqlx::query_scalar::<_, bool>("select $1 = 'happy'").bind(Mood::Happy);
    assert!(read.fetch_one(db.reader()).await.unwrap(), "a type that the replica lacks");
    assert!(db.replicas()[0].reached.is_some(), "the replica is as good as before");
}

#[derive(sqlx::Type)]
#[sqlx(type_name = "mood", rename_all = "lowercase")]
enum Mood {
    Happy,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_the_primary_would_repeat_is_not_retried_there() {
    let primary = primary(&[]).await;
    let raise =
        "create function refuse() returns int language plpgsql as $$ begin raise 'no'; end $$";
    primary.psql(raise).await.unwrap();
    let (_replica, db) = with_replica(&primary).await;
    let sent = || db.status()[0].statements;
    let before = sent();
    for (sql, code) in [
        ("select 1 / 0", "22012"),
        ("select (select generate_series(1, 2))", "21000"),
        ("select refuse()", "P0001"),
        ("select", ""),
        ("select 1 +", "42601"),
    ] {
        let outcome = sqlx::query(sql).fetch_all(db.reader()).await;
        let found =
            outcome.err().and_then(|error| error.as_database_error()?.code().map(String::from));
        assert_eq!(found.unwrap_or_default(), code, "{sql}");
    }
    assert_eq!(sent(), before);
    assert!(sqlx::query("select missing from users").fetch_all(db.reader()).await.is_err());
    assert_eq!(sent(), before + 1, "once, where the primary might know better");
}

/// The primary can't be reached, so the error of the replica is all there is.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_primary_the_error_of_the_replica_is_returned() {
    let mut primary = primary(&[]).await;
    let (_replica, db) = with_replica(&primary).await;
    primary.kill().await.unwrap();
    for _ in 0..3 {
        let outcome = sqlx::query("select missing from users").fetch_all(db.reader()).await;
        let error = outcome.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(String::from));
        assert_eq!(code.as_deref(), Some("42703"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_parameters_are_an_error_that_closes_no_connection() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let db = options(&primary).replica(replica.url()).connections(1).connect().await.unwrap();
    eventually("the replica is up", async || db.replicas()[0].reached.is_some()).await;
    let pids = async || {
        let pid = || sqlx::query_scalar::<_, i32>("select pg_backend_pid()");
        let of_replica = pid().fetch_one(db.reader()).await.unwrap();
        // In a scope of its own, so that the next read is not the primary's.
        let of_primary = Record::detached(pid().fetch_one(db.writer())).await.unwrap();
        (of_replica, of_primary)
    };
    let before = pids().await;
    let many = || (0..65_536).fold(sqlx::query("select 1"), |query, _| query.bind(true));
    let errors = [
        many().execute(db.reader()).await.unwrap_err(),
        many().execute(db.writer()).await.unwrap_err(),
    ];
    for error in errors {
        assert!(error.to_string().contains("65535 parameters at most"), "{error}");
    }
    assert!(db.replicas()[0].reached.is_some());
    assert_eq!(pids().await, before);
}

/// All connections hang, and those who waited for them have given up.
#[tokio::test(flavor = "multi_thread")]
async fn requests_succeed_after_the_primarys_host_has_vanished() {
    let primary = primary(&[]).await;
    let standby = primary.standby().await.unwrap();
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(url).connections(6).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    let _listener = Listener::spawn(&db, &cache).await.unwrap();
    let sleep = "select pg_sleep(0.2)";
    let warm = (0..6).map(|_| sqlx::query(sleep).execute(db.reader()));
    futures_util::future::try_join_all(warm).await.unwrap();
    eventually("all are idle", async || db.status()[0].idle_connections == 6).await;
    line.strand();
    let give_up = async |kind: usize| {
        let work = async {
            match kind % 3 {
                0 => drop(sqlx::query("select 1").execute(db.reader()).await),
                1 => drop(sqlx::query("select 2").execute(db.writer()).await),
                _ => drop(db.begin().await),
            }
        };
        let _late = tokio::time::timeout(Duration::from_secs(1), work).await;
    };
    futures_util::future::join_all((0..6).map(give_up)).await;
    standby.promote().await.unwrap();
    line.retarget(standby.addr());
    let read = || {
        let query = sqlx::query_scalar::<_, String>("select name from users where id = 1");
        async { query.fetch_one(db.reader()).await.is_ok_and(|name| name == "ada") }
    };
    eventually("a read succeeds", read).await;
    let all = async || {
        let all = (0..6).map(|_| sqlx::query(sleep).execute(db.writer()));
        futures_util::future::try_join_all(all).await.is_ok() && db.status()[0].connections == 6
    };
    eventually("all permits are free", all).await;
}

/// The primary is down before anything is sent to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_never_sent_does_not_keep_reads_from_replicas() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let (line, url) = proxy(&primary).await;
    let options = DatabaseOptions::new(url).replica(replica.url()).wait(Duration::from_millis(500));
    let db = options.connect().await.unwrap();
    eventually("the replica is up", async || db.replicas()[0].reached.is_some()).await;
    line.cut();
    for what in ["writer", "reader", "transaction"] {
        Record::detached(async {
            let write = sqlx::query("insert into users values (7, 'eve')");
            let is_refused = match what {
                "writer" => write.execute(db.writer()).await.is_err(),
                "reader" => write.execute(db.reader()).await.is_err(),
                _ => db.begin().await.is_err(),
            };
            assert!(is_refused, "{what}");
            let read = sqlx::query_scalar::<_, i64>("select count(*) from users");
            assert_eq!(read.fetch_one(db.reader()).await.unwrap(), 2, "{what}");
        })
        .await;
    }
}

/// The replica gives a row before it refuses the write of the next.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_after_the_first_row_is_sent_to_the_primary_once() {
    let primary = primary(&[]).await;
    let log = "create table seen (n int);
        create function see(n int) returns int language plpgsql as $$ begin
            if n > 1 then insert into seen values (n); end if;
            return n;
        end $$";
    primary.psql(log).await.unwrap();
    let (_replica, db) = with_replica(&primary).await;
    let count = async || primary.psql("select count(*) from seen").await.unwrap();
    for in_scope in [true, false] {
        primary.psql("truncate seen").await.unwrap();
        let work = async {
            let see = "select see(n) from generate_series(1, 3) as n";
            let seen = sqlx::query_scalar::<_, i32>(see).fetch_all(db.reader()).await;
            assert_eq!(seen.unwrap(), [1, 2, 3]);
            assert_eq!(count().await, "2");
            let two = sqlx::raw_sql("select 1; insert into seen values (9)");
            two.execute(db.reader()).await.unwrap();
            assert_eq!(count().await, "3");
            let own = sqlx::query_scalar::<_, i64>("select count(*) from seen");
            assert_eq!(own.fetch_one(db.reader()).await.unwrap(), 3, "in a scope: {in_scope}");
        };
        match in_scope {
            true => Record::detached(work).await,
            false => work.await,
        }
    }
}

/// Counts what a client sends: each flush is one round trip, since the client waits for the response.
async fn counted(server: &Postgres) -> (String, Arc<AtomicUsize>) {
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://postgres@{}/postgres", socket.local_addr().unwrap());
    let (count, target) = (Arc::new(AtomicUsize::new(0)), server.addr());
    let counter = count.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = socket.accept().await {
            let server = TcpStream::connect(target).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { copy(&mut from_server, &mut to_client).await });
            let count = counter.clone();
            tokio::spawn(async move {
                let mut buffer = vec![0; 1 << 16];
                while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
                    count.fetch_add(1, Ordering::Relaxed);
                    to_server.write_all(&buffer[..read]).await.unwrap();
                }
            });
        }
    });
    (url, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_one_row_costs_one_round_trip_and_the_pools_ping() {
    let primary = primary(&[]).await;
    let (url, count) = counted(&primary).await;
    // No other connection than the pool's one is in use after the start, but for the monitor's, which queries each second.
    let options = DatabaseOptions::new(url).connections(1).max_lag(Duration::from_mins(10));
    let db = options.connect().await.unwrap();
    let read = async || {
        let query = sqlx::query_scalar::<_, String>("select name from users where id = $1").bind(1);
        query.fetch_one(db.reader()).await.unwrap()
    };
    let idle = async || db.status()[0].idle_connections == 1;
    read().await;
    eventually("the connection is idle", idle).await;
    let before = count.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert_eq!(read().await, "ada");
        eventually("the connection is idle", idle).await;
    }
    let sent = count.load(Ordering::Relaxed) - before;
    // The monitor sends a few queries.
    assert!((200..220).contains(&sent), "{sent}");
}
