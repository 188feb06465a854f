//! Tables whose changes are read from the write-ahead log.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, raw_sql};
use tidegate::{
    Cache, ChangeSource, Changes, DatabaseOptions, Listener, Memory, Policy, Position, SchemaError,
    Triggers, ValuePolicy,
};
use tidegate_testing::{Authority, Postgres};

use super::changes::ways;
use super::common::{drains, eventually};
use super::world::{Node, TTL, connect, options};

const LOGICAL: (&str, &str) = ("wal_level", "logical");

/// Published instead of triggers.
fn published() -> Triggers {
    Triggers::new().source(ChangeSource::LogicalReplication)
}

async fn server(setup: &str) -> Postgres {
    let server = Postgres::start_with(&[LOGICAL]).await.unwrap();
    server.psql(setup).await.unwrap();
    server
}

/// The service of `world.rs` on a published table.
async fn primary() -> Postgres {
    let server = server(super::world::SETUP).await;
    published().table("users").install(&mut connect(&server).await).await.unwrap();
    server
}

async fn value(server: &Postgres, sql: &str) -> String {
    server.psql(sql).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_row_invalidates_what_depends_on_it_and_nothing_else() {
    let primary = primary().await;
    let triggers =
        "select count(*) from pg_trigger where tgname like 'tidegate%' and tgenabled <> 'D'";
    assert_eq!(value(&primary, triggers).await, "0", "no trigger fires on a change");
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1", "/users/2", "/users"]).await;
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    node.sees("/users", "eve bob").await;
    let (_, status) = node.get("/users/2").await;
    assert!(status.contains("hit"), "the other row has not changed: {status}");
    primary.psql("delete from users where id = 2").await.unwrap();
    eventually("the row is gone", async || node.get("/users/2").await.0 != "bob").await;
    primary.psql("truncate users; insert into users values (1, 'new')").await.unwrap();
    node.sees("/users/1", "new").await;
    assert_eq!(
        value(&primary, "select count(*) from tidegate.log where relation is not null").await,
        "0"
    );
}

/// The server delivers nothing that a transaction wrote before the table was published.
#[tokio::test(flavor = "multi_thread")]
async fn publishing_waits_for_transactions_that_have_written() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    primary.psql("create table others (id int primary key)").await.unwrap();
    published().table("others").install(&mut connect(&primary).await).await.unwrap();
    // What publishing changes is in place, but for the publication itself.
    primary.psql("alter publication tidegate drop table users").await.unwrap();
    let mut writer = connect(&primary).await;
    raw_sql("begin; update users set name = 'early' where id = 1")
        .execute(&mut writer)
        .await
        .unwrap();
    let mut conn = connect(&primary).await;
    let install = tokio::spawn(async move { published().table("users").install(&mut conn).await });
    let waits =
        "select count(*) > 0 from pg_locks where not granted and relation = 'users'::regclass";
    eventually("it waits", async || value(&primary, waits).await == "t").await;
    raw_sql("commit").execute(&mut writer).await.unwrap();
    install.await.unwrap().unwrap();
    node.sees("/users/1", "early").await;
    node.warm(&["/users/1"]).await;
    primary.psql("update users set name = 'late' where id = 1").await.unwrap();
    node.sees("/users/1", "late").await;
}

/// Since Postgres 18, a publication has to have them.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_a_generated_column_is_followed() {
    let setup = "create table users (id int primary key, name text, long int generated always as (length(name)) stored);
        insert into users values (1, 'ada')";
    let server = server(setup).await;
    published().columns("users", &["long"]).install(&mut connect(&server).await).await.unwrap();
    let node = Node::alone(&server).await;
    for name in ["one", "three"] {
        node.warm(&["/users/1"]).await;
        server.psql(&format!("update users set name = '{name}' where id = 1")).await.unwrap();
        node.sees("/users/1", name).await;
    }
}

/// What fires no statement trigger is in the write-ahead log all the same.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_fire_no_trigger_are_seen() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    for (name, before) in [
        ("replica", "set session_replication_role = replica"),
        ("disabled", "alter table users disable trigger all"),
        ("enabled", "alter table users enable trigger all"),
    ] {
        node.warm(&["/users/1"]).await;
        let sql = format!("{before}; update users set name = '{name}' where id = 1");
        primary.psql(&sql).await.unwrap();
        node.sees("/users/1", name).await;
    }
}

/// The server's own workers apply what another server sends, and fire no statement trigger.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_subscription_applies_are_seen() {
    let primary = primary().await;
    let upstream = server(super::world::SETUP).await;
    upstream.psql("create publication upstream for table users").await.unwrap();
    let subscribe = format!(
        "create subscription upstream connection 'host=127.0.0.1 port={} user=postgres' publication upstream
            with (copy_data = false)",
        upstream.port()
    );
    primary.psql(&subscribe).await.unwrap();
    let node = Node::alone(&primary).await;
    for name in ["one", "two"] {
        node.warm(&["/users/1", "/users/2"]).await;
        upstream.psql(&format!("update users set name = '{name}' where id = 1")).await.unwrap();
        node.sees("/users/1", name).await;
        let (_, status) = node.get("/users/2").await;
        assert!(status.contains("hit"), "the other row has not changed: {status}");
    }
    primary.psql("drop subscription upstream").await.unwrap();
}

/// Large values and transactions pass through the stream, and other changes behind them.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes a gigabyte of write-ahead log: scripts/deep"]
async fn a_huge_value_and_a_huge_transaction_are_followed() {
    let setup = "create table users (id int primary key, name text, body text);
        insert into users select i, 'user ' || i from generate_series(1, 300000) i";
    let primary = server(setup).await;
    published().table("users").install(&mut connect(&primary).await).await.unwrap();
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    let large = "update users set name = 'large', body = repeat('x', 100000000) where id = 1";
    primary.psql(large).await.unwrap();
    node.sees("/users/1", "large").await;
    node.warm(&["/users/1"]).await;
    primary.psql("update users set name = 'again' where id = 1").await.unwrap();
    node.sees("/users/1", "again").await;
    node.warm(&["/users/1", "/users/2"]).await;
    primary.psql("update users set name = name || '!' where id > 1").await.unwrap();
    node.sees("/users/2", "user 2!").await;
    node.warm(&["/users/1", "/users/2"]).await;
    primary.psql("update users set name = 'last' where id = 1").await.unwrap();
    node.sees("/users/1", "last").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_own_write() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    for name in ["one", "two", "three", "four", "five"] {
        node.warm(&["/users/1", "/users"]).await;
        let token = node.put(1, name).await;
        assert_eq!(node.get_with("/users/1", &token).await.0, name);
        assert_eq!(node.get_with("/users", &token).await.0, format!("{name} bob"));
    }
}

/// No response is older than a write that had been seen before.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_changes_its_source_without_a_stale_response() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    let mut conn = connect(&primary).await;
    for (number, source) in [
        ChangeSource::Triggers,
        ChangeSource::LogicalReplication,
        ChangeSource::Triggers,
        ChangeSource::LogicalReplication,
    ]
    .into_iter()
    .enumerate()
    {
        node.warm(&["/users/1", "/users"]).await;
        Triggers::new().source(source).table("users").install(&mut conn).await.unwrap();
        let name = format!("name{number}");
        primary.psql(&format!("update users set name = '{name}' where id = 1")).await.unwrap();
        node.sees("/users/1", &name).await;
        node.sees("/users", &format!("{name} bob")).await;
        node.warm(&["/users/1"]).await;
        primary.psql(&format!("update users set name = '{name}b' where id = 1")).await.unwrap();
        node.sees("/users/1", &format!("{name}b")).await;
        let status = Triggers::status(&mut conn).await.unwrap();
        let table = status.table("users").unwrap();
        assert_eq!((table.source, table.is_sound()), (source, true), "{table:?}");
        assert_eq!(table.columns, ["id"]);
    }
    // A second run changes nothing.
    let state = "select (select string_agg(xmin::text, ' ' order by oid) from pg_trigger), (select count(*) from tidegate.log)";
    let before = value(&primary, state).await;
    published().table("users").install(&mut conn).await.unwrap();
    assert_eq!(value(&primary, state).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn unpublishing_a_table_restores_its_replica_identity() {
    let setup = "create table by_default (id int primary key);
        create table by_nothing (id int);
        alter table by_nothing replica identity nothing;
        create table by_full (id int);
        alter table by_full replica identity full;
        create table by_index (id int not null);
        create unique index \"the Index\" on by_index (id);
        alter table by_index replica identity using index \"the Index\";
        create table by_part1 (id int not null unique);
        create table by_part2 (id int not null);
        create unique index part2 on by_part2 (id);
        alter table by_part2 replica identity using index part2;
        create table by_root (id int not null) partition by range (id);
        alter table by_root attach partition by_part1 for values from (0) to (10);
        alter table by_root attach partition by_part2 for values from (10) to (20)";
    let server = server(setup).await;
    let state = "select string_agg(relname || ' ' || relreplident::text, ', ' order by relname),
        (select string_agg(indexrelid::regclass::text, ' ' order by indexrelid) from pg_index where indisreplident),
        (select count(*) from pg_publication), (select count(*) from pg_trigger where tgrelid = 'by_full'::regclass)
        from pg_class where relname like 'by\\_%'";
    let before = value(&server, state).await;
    let mut conn = connect(&server).await;
    let tables = ["by_default", "by_nothing", "by_full", "by_index", "by_root"];
    let all = || tables.into_iter().fold(published(), Triggers::table);
    for way in 0..3 {
        all().install(&mut conn).await.unwrap();
        // Also with another column, which replaces the trigger that shows the columns.
        all().columns("by_nothing", &["id"]).install(&mut conn).await.unwrap();
        assert!(value(&server, state).await.contains("by_index f"));
        match way {
            0 => all().uninstall(&mut conn).await.unwrap(),
            1 => Triggers::uninstall_all(&mut conn).await.unwrap(),
            _ => {
                all().source(ChangeSource::Triggers).install(&mut conn).await.unwrap();
                let status = Triggers::status(&mut conn).await.unwrap();
                let is_triggered = status
                    .tables
                    .iter()
                    .all(|table| table.source == ChangeSource::Triggers && table.is_sound());
                assert!(is_triggered && status.tables.len() == tables.len(), "{status:?}");
                Triggers::uninstall_all(&mut conn).await.unwrap();
            }
        }
        assert_eq!(value(&server, state).await, before, "{way}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_and_children_are_followed() {
    const ORDERS: &str = "select string_agg(v, ' ' order by id) from orders";
    const FIRST: &str = "select string_agg(v, ' ' order by id) from orders where id = 1";
    const PARENT: &str = "select string_agg(v, ' ' order by id) from parent";
    let setup =
        "create table orders (id int, k int, v text, primary key (id, k)) partition by list (k);
        create table orders1 partition of orders for values in (1);
        create table orders2 partition of orders for values in (2);
        insert into orders values (1, 1, 'a'), (2, 2, 'b');
        create table parent (id int primary key, v text);
        create table child (primary key (id)) inherits (parent);
        insert into child values (1, 'c')";
    let server = server(setup).await;
    let mut conn = connect(&server).await;
    published().table("orders").table("parent").install(&mut conn).await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let cached = db.cached(&cache, ValuePolicy::ttl(TTL).build().unwrap());
    let get = async |sql: &'static str| {
        let (rows,) = cached.fetch_one::<(Option<String>,)>(sqlx::query(sql)).await.unwrap();
        rows.unwrap_or_default()
    };
    let hits = || cache.counters().outcome(tidegate::Outcome::Hit(tidegate::Tier::Memory));
    let warm = async |sql: &'static str| {
        eventually("a hit", async || {
            let before = hits();
            get(sql).await;
            hits() > before
        })
        .await;
    };
    for (change, query, expected) in [
        ("update orders set v = 'x' where id = 1", ORDERS, "x b"),
        ("update orders1 set v = 'y' where id = 1", FIRST, "y"),
        ("update orders set k = 2 where id = 1", ORDERS, "y b"),
        ("truncate orders1", ORDERS, "y b"),
        ("truncate orders2", ORDERS, ""),
        ("insert into orders values (1, 1, 'new')", FIRST, "new"),
        (
            "create table orders3 partition of orders for values in (3); insert into orders values (5, 3, 'z')",
            ORDERS,
            "new z",
        ),
        ("update orders set v = 'w' where id = 5", ORDERS, "new w"),
        ("alter table orders detach partition orders3", ORDERS, "new"),
        ("update child set v = 'd'", PARENT, "d"),
        ("truncate child", PARENT, ""),
        ("insert into parent values (7, 'e')", PARENT, "e"),
    ] {
        warm(query).await;
        server.psql(change).await.unwrap();
        eventually(change, async || get(query).await == expected).await;
    }
}

/// Without a primary key and a replica identity, a server refuses to change rows of a published table.
#[tokio::test(flavor = "multi_thread")]
async fn writes_to_a_new_partition_of_a_published_table_do_not_fail() {
    let setup = "create table events (k int, v text) partition by list (k);
        create table events1 partition of events for values in (1);
        create table later (k int, v text)";
    let server = server(setup).await;
    published().columns("events", &["k"]).install(&mut connect(&server).await).await.unwrap();
    for (partition, k) in [
        ("create table events2 partition of events for values in (2)", 2),
        ("alter table events attach partition later for values in (3)", 3),
    ] {
        let sql = format!(
            "{partition}; insert into events values ({k}, 'a'); update events set v = 'b' where k = {k};
            delete from events where k = {k}"
        );
        server.psql(&sql).await.unwrap();
    }
    let status = Triggers::status(&mut connect(&server).await).await.unwrap();
    let table = status.table("events").unwrap();
    assert_eq!((table.is_sound(), &table.warnings[..]), (true, &[][..]), "{table:?}");
    let marked = "select count(*) from pg_trigger where tgname = 'tidegate_published'";
    assert_eq!(value(&server, marked).await, "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn renamed_tables_and_columns_are_followed() {
    for noted in [true, false] {
        let setup = "create table a (id int primary key, k int, l int, v text);
            insert into a values (1, 10, 20, 'one')";
        let server = server(setup).await;
        let mut conn = connect(&server).await;
        published().columns("a", &["k"]).install(&mut conn).await.unwrap();
        if !noted {
            let drop = "drop event trigger tidegate_ddl; drop event trigger tidegate_drop";
            server.psql(drop).await.unwrap();
        }
        let db = options(&server).connect().await.unwrap();
        let cache = Cache::new(Memory::new(1 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        let cached = db.cached(&cache, ValuePolicy::ttl(TTL).build().unwrap());
        let get = async |sql: &'static str| {
            let rows = cached.fetch_optional::<(String,)>(sqlx::query(sql)).await;
            rows.map(|row| row.map_or_else(String::new, |(v,)| v)).unwrap_or_default()
        };
        for (change, query, expected) in [
            ("update a set v = 'two'", "select v from a where k = 10", "two"),
            // The names of two columns are swapped.
            (
                "begin; alter table a rename k to t; alter table a rename l to k; alter table a rename t to l; commit",
                "select v from a where k = 20",
                "two",
            ),
            ("update a set v = 'three'", "select v from a where k = 20", "three"),
            ("update a set v = 'four'", "select v from a where l = 10", "four"),
            ("alter table a rename to b", "select v from b where l = 10", "four"),
            ("update b set v = 'five'", "select v from b where l = 10", "five"),
            ("update b set l = 11", "select v from b where l = 10", ""),
        ] {
            for _ in 0..3 {
                get(query).await;
            }
            server.psql(change).await.unwrap();
            eventually(change, async || get(query).await == expected).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_stream_is_replaced_without_a_stale_response() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    for name in ["one", "two", "three"] {
        node.warm(&["/users/1"]).await;
        let lost = format!(
            "begin; update users set name = '{name}' where id = 1;
            select pg_terminate_backend(pid) from pg_stat_replication; commit"
        );
        primary.psql(&lost).await.unwrap();
        node.sees("/users/1", name).await;
    }
    eventually("one slot is left", async || {
        value(&primary, "select count(*) from pg_replication_slots").await == "1"
    })
    .await;
}

/// A commit that waits for a standby is delivered, and no query sees it.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_not_visible_yet_is_reported_once_it_is() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    let hold = "alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()";
    primary.psql(hold).await.unwrap();
    let url = primary.url();
    let write = tokio::spawn(async move {
        let mut conn = PgConnection::connect(&url).await.unwrap();
        loop {
            let update = "update users set name = name || '!' where id = 1";
            raw_sql(update).execute(&mut conn).await.unwrap();
        }
    });
    let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and query like 'update%'";
    eventually("a commit waits", async || value(&primary, waiting).await == "1").await;
    let before = value(&primary, "select name from users where id = 1").await;
    node.warm(&["/users/1"]).await;
    assert_eq!(node.get("/users/1").await.0, before);
    let written = value(&primary, "select pg_current_wal_insert_lsn()").await;
    let written = written.parse::<Position>().unwrap();
    eventually("the stream is read past the commit", async || {
        node.cache.fences().seen().is_some_and(|seen| seen.position > written)
    })
    .await;
    drains(&node.cache, 2).await;
    assert_eq!(node.get("/users/1").await.0, before);
    let release = "alter system reset synchronous_standby_names; select pg_reload_conf()";
    primary.psql(release).await.unwrap();
    eventually("the write is seen", async || node.get("/users/1").await.0 != before).await;
    write.abort();
    let now = value(&primary, "select name from users where id = 1").await;
    node.sees("/users/1", &now).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_leaves_the_publication_is_not_cached() {
    let primary = primary().await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    primary.psql("create table others (id int primary key)").await.unwrap();
    published().table("others").install(&mut connect(&primary).await).await.unwrap();
    node.warm(&["/users/1"]).await;
    primary.psql("alter publication tidegate drop table users").await.unwrap();
    eventually("it is not cached any more", async || {
        node.get("/users/1").await.1.contains("untracked-table")
    })
    .await;
    primary.psql("update users set name = 'gone' where id = 1").await.unwrap();
    assert_eq!(node.get("/users/1").await.0, "gone", "it is read each time");
    let mut conn = connect(&primary).await;
    let status = Triggers::status(&mut conn).await.unwrap();
    let table = status.table("users").unwrap();
    assert_eq!((table.is_sound(), &table.unpublished[..]), (false, &["users".to_owned()][..]));
    published().table("users").install(&mut conn).await.unwrap();
    node.warm(&["/users/1"]).await;
    primary.psql("drop publication tidegate").await.unwrap();
    eventually("it is not cached any more", async || {
        node.get("/users/1").await.1.contains("untracked-table")
    })
    .await;
    primary.psql("update users set name = 'dropped' where id = 1").await.unwrap();
    assert_eq!(node.get("/users/1").await.0, "dropped");
    eventually("the slot is dropped", async || {
        value(&primary, "select count(*) from pg_replication_slots").await == "0"
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn observers_see_changes_of_published_tables() {
    let primary = primary().await;
    let db = options(&primary).connect().await.unwrap();
    let mut changes = Changes::follow(&db).await.unwrap();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    let change = changes.next().await.unwrap();
    assert_eq!(
        (&change.tags[..], change.all),
        (&["users".to_owned(), "users:id=1".to_owned()][..], false)
    );
}

#[tokio::test]
async fn a_table_that_cannot_be_published_is_refused() {
    let plain = Postgres::start_with(&[("wal_level", "replica")]).await.unwrap();
    plain.psql(super::world::SETUP).await.unwrap();
    let refused = published().table("users").install(&mut connect(&plain).await).await;
    assert!(matches!(refused, Err(SchemaError::WalLevel)), "{refused:?}");
    let server = server("create unlogged table quick (id int primary key)").await;
    let refused = published().table("quick").install(&mut connect(&server).await).await;
    assert!(refused.unwrap_err().to_string().contains("unlogged"));
    let version: u32 = value(&server, "show server_version_num").await.parse().unwrap();
    if version >= 150_000 {
        let listed = "create table listed (id int primary key, name text);
            create publication app for table listed (id)";
        server.psql(listed).await.unwrap();
        let refused = published().table("listed").install(&mut connect(&server).await).await;
        assert!(refused.unwrap_err().to_string().contains("column list"));
    }
    if version >= 180_000 {
        server
            .psql("create table virtual (id int, twice int generated always as (id * 2))")
            .await
            .unwrap();
        let refused = published().table("virtual").install(&mut connect(&server).await).await;
        assert!(refused.unwrap_err().to_string().contains("virtual"));
    }
    assert_eq!(
        value(&server, "select count(*) from pg_publication where pubname = 'tidegate'").await,
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_publishes_tables_too() {
    let server = server(super::world::SETUP).await;
    server.psql(&published().table("users").migration()).await.unwrap();
    let node = Node::alone(&server).await;
    node.warm(&["/users/1"]).await;
    server.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
}

/// As on RDS, where `rds.force_ssl` has the server refuse other connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_requires_tls_is_followed() {
    let primary = primary().await;
    let authority = Authority::new().unwrap();
    primary.offer_tls(&authority, "localhost").await.unwrap();
    primary.add_access_rules("hostnossl all all all reject").await.unwrap();
    let root = authority.certificate();
    let url = primary.url().replace("127.0.0.1", "localhost");
    let url = format!("{url}?sslmode=verify-full&sslrootcert={}", root.display());
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    node.warm(&["/users/1"]).await;
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    let unencrypted =
        "select count(*) from pg_stat_replication left join pg_stat_ssl using (pid) where not ssl";
    assert_eq!(value(&primary, unencrypted).await, "0");
}

/// Its credentials were rotated since the last ones were issued.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_logs_in_with_new_credentials() {
    let primary = primary().await;
    primary.psql("create role app login superuser password 'first'").await.unwrap();
    primary.add_access_rules("host all app all scram-sha-256").await.unwrap();
    let vault = Arc::new(Mutex::new("first"));
    let secret = vault.clone();
    let url = primary.url().replace("postgres@", "app@");
    let db = DatabaseOptions::new(url).credentials(move |options: PgConnectOptions| {
        let issued = options.password(*secret.lock().unwrap());
        async move { Ok::<_, std::io::Error>(issued) }
    });
    let node = Node::start(&db.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    node.warm(&["/users/1"]).await;
    *vault.lock().unwrap() = "second";
    let rotated = "alter role app password 'second';
        select pg_terminate_backend(pid) from pg_stat_replication;
        update users set name = 'eve' where id = 1";
    primary.psql(rotated).await.unwrap();
    node.sees("/users/1", "eve").await;
    node.warm(&["/users/1"]).await;
}

/// The listener's role can't read the stream, and says what it lacks.
#[tokio::test(flavor = "multi_thread")]
async fn the_error_names_the_missing_right_to_replicate() {
    let primary = primary().await;
    primary.psql("create role app login; grant select on users to app").await.unwrap();
    Triggers::grant(&mut connect(&primary).await, "app").await.unwrap();
    let url = primary.url().replace("postgres@", "app@");
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let refused = Listener::spawn(&db, &Cache::new(Memory::new(1 << 20))).await;
    let error = refused.map(drop).unwrap_err();
    let said = format!(
        "{error} {}",
        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default()
    );
    assert!(said.to_lowercase().contains("replication"), "{said}");
}

/// But for the number of rows of one statement, which only triggers limit.
#[tokio::test(flavor = "multi_thread")]
async fn statements_are_reported_with_the_tags_that_triggers_log() {
    for ways in ways::ALL {
        let server = server(ways.setup).await;
        let tables = (ways.tables)().source(ChangeSource::LogicalReplication);
        tables.install(&mut connect(&server).await).await.unwrap();
        let db = options(&server).connect().await.unwrap();
        let mut changes = Changes::follow(&db).await.unwrap();
        for (sql, logged) in ways.statements_for(&server).await {
            server.psql(sql).await.unwrap();
            let past_the_limit = logged.contains('!') && !sql.starts_with("truncate");
            if logged.is_empty() {
                continue;
            }
            let next = tokio::time::timeout(Duration::from_secs(60), changes.next());
            let change = next.await.expect("it is reported").unwrap();
            let said: BTreeSet<&str> = change.tags.iter().map(String::as_str).collect();
            if past_the_limit {
                assert!(said.contains("users:id=3") && !said.contains("users!"), "{sql}: {said:?}");
                continue;
            }
            assert_eq!((said, change.all), (logged.split_whitespace().collect(), false), "{sql}");
        }
    }
}

/// The tags that an observer gets for each script.
#[tokio::test(flavor = "multi_thread")]
async fn each_statement_is_reported_by_the_values_before_and_after_it() {
    let setup = "create type mood as enum ('sad', 'glad');
        create table users (id int primary key, org int, name text, m mood);
        insert into users select g, g % 3, 'n', 'sad' from generate_series(1, 20) g;
        create table others (id int primary key);
        create table archive (like users including all)";
    let server =
        Postgres::start_with(&[LOGICAL, ("max_prepared_transactions", "2")]).await.unwrap();
    server.psql(setup).await.unwrap();
    let tables = published().columns("users", &["org", "name", "m"]).table("archive");
    tables.install(&mut connect(&server).await).await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let mut changes = Changes::follow(&db).await.unwrap();
    for (sql, expected) in [
        ("insert into users values (42, 7)", "users users:id=42 users:org=7"),
        (
            "update users set org = 8, m = 'glad' where id = 42",
            "users users:id=42 users:m=glad users:org=7 users:org=8",
        ),
        (
            "update users set id = 44 where id = 42",
            "users users:id=42 users:id=44 users:m=glad users:org=8",
        ),
        (
            "update users set name = repeat('x', 3000) where id = 44",
            "users users:id=44 users:m=glad users:name> users:org=8",
        ),
        (
            "delete from users where id = 44",
            "users users:id=44 users:m=glad users:name> users:org=8",
        ),
        ("copy users (id) from stdin;\n50\n51\n\\.\n", "users users:id=50 users:id=51"),
        (
            "with gone as (delete from users where id = 50 returning *) insert into archive select * from gone",
            "archive archive:id=50 users users:id=50",
        ),
        (
            "begin; delete from users where id = 51; savepoint s; delete from users where id = 2; rollback to s; commit",
            "users users:id=51",
        ),
        (
            "begin; update users set org = 1 where id = 3; prepare transaction 'p'; commit prepared 'p'",
            "users users:id=3 users:m=sad users:name=n users:org=0 users:org=1",
        ),
        ("select tidegate.invalidate('{front page}')", "front page front page!"),
        ("truncate users", "users users!"),
        (
            "insert into users values (1, 1, e'it''s = \"x\" {\\\\,}')",
            "users users:id=1 users:name=it's = \"x\" {\\,} users:org=1",
        ),
        ("insert into others values (1); insert into users values (2)", "users users:id=2"),
    ] {
        server.psql(sql).await.unwrap();
        let change = changes.next().await.unwrap();
        let mut said = change.tags.clone();
        said.sort_unstable();
        let mut expected: Vec<_> = split(expected);
        expected.sort_unstable();
        assert_eq!((said, change.all), (expected, false), "{sql}");
    }
}

/// The tags of a line. A blank begins a tag only before a table's name.
fn split(line: &str) -> Vec<String> {
    let mut tags: Vec<String> = Vec::new();
    for word in line.split(' ') {
        let begins = ["users", "archive", "front"].iter().any(|name| word.starts_with(name));
        match tags.last_mut().filter(|_| !begins) {
            Some(tag) => *tag = format!("{tag} {word}"),
            None => tags.push(word.to_owned()),
        }
    }
    tags
}
