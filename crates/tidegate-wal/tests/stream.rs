//! Streams of real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[cfg(feature = "tls")]
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{Connection, PgConnection, query_scalar, raw_sql};
use tidegate_testing::{Postgres, eventually};
use tidegate_wal::{
    Change, KeyColumns, KeyValue, Stream, StreamError, StreamOptions, StreamPoint, TableChange,
    Watermark, kept_slot_name,
};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A primary with a table and a publication.
struct World {
    server: Postgres,
    primary: PgConnection,
}

impl World {
    async fn new() -> Self {
        Self::with(&[]).await
    }

    async fn with(settings: &[(&str, &str)]) -> Self {
        let settings = [&[("wal_level", "logical")], settings].concat();
        let server = Postgres::start_with(&settings).await.unwrap();
        let schema = "create table items (id int primary key, owner text, body text);
            alter table items replica identity full;
            create publication tidegate for table items";
        server.psql(schema).await.unwrap();
        let primary = PgConnection::connect(&server.url()).await.unwrap();
        Self { server, primary }
    }

    async fn stream(&mut self) -> Stream {
        let options = StreamOptions::from_url(&self.server.url()).unwrap();
        let stream = Stream::start(&options).await.unwrap();
        stream.key_by(self.keyed(&["items"]).await);
        stream
    }

    /// The columns `id` and `owner` of these tables.
    async fn keyed(&mut self, tables: &[&str]) -> KeyColumns {
        let mut keyed = KeyColumns::default();
        for table in tables {
            let oid = query_scalar("select $1::regclass::oid::int8").bind(table);
            let oid: i64 = oid.fetch_one(&mut self.primary).await.unwrap();
            for column in ["id", "owner"] {
                keyed = keyed.with(u32::try_from(oid).unwrap(), column, column);
            }
        }
        keyed
    }

    /// A stream, after its first watermark.
    async fn begun(&mut self) -> Stream {
        let mut stream = self.stream().await;
        assert!(self.watermark(&mut stream).await.all);
        stream
    }

    async fn watermark(&mut self, stream: &mut Stream) -> Watermark {
        stream.announce(&mut self.primary).await.unwrap();
        let watermark = stream.reach().await.unwrap();
        assert!(watermark.fence < watermark.message);
        assert!(watermark.changes.iter().all(|change| change.commit < watermark.fence));
        watermark
    }

    /// What a script changes, by one watermark.
    async fn change(&mut self, stream: &mut Stream, sql: &'static str) -> Vec<String> {
        self.execute(sql).await;
        let watermark = self.watermark(stream).await;
        assert!(!watermark.all);
        keys(&watermark.changes)
    }

    async fn execute(&mut self, sql: &'static str) {
        raw_sql(sql).execute(&mut self.primary).await.unwrap();
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.server.url()).await.unwrap()
    }

    /// From now on, commits wait for a standby that does not exist. They can be decoded then, and are not visible.
    async fn hold_commits(&mut self) {
        let nobody =
            "alter system set synchronous_standby_names = 'nobody'; select pg_reload_conf()";
        self.server.psql(nobody).await.unwrap();
        // The server knows the setting a moment later. Until then, commits wait for nobody.
        eventually("commits wait", async || {
            let mut probe = self.connect().await;
            let written = "select pg_logical_emit_message(true, '', '')";
            tokio::spawn(async move { raw_sql(written).execute(&mut probe).await.map(drop) });
            tokio::time::sleep(Duration::from_millis(20)).await;
            let waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep'";
            self.server.psql(waiting).await.unwrap() != "0"
        })
        .await
        .unwrap();
    }

    /// Lets the commits that wait end, and those of later transactions too.
    async fn release_commits(&mut self) {
        let reset = "alter system reset synchronous_standby_names; select pg_reload_conf()";
        self.server.psql(reset).await.unwrap();
    }

    /// Runs a statement whose commit waits.
    async fn commit_without_end(&mut self, sql: &'static str) -> JoinHandle<()> {
        let mut writer = self.connect().await;
        let process: i32 =
            query_scalar("select pg_backend_pid()").fetch_one(&mut writer).await.unwrap();
        let commit = tokio::spawn(async move {
            raw_sql(sql).execute(&mut writer).await.unwrap();
        });
        eventually("the commit waits", async || {
            let wait = "select wait_event = 'SyncRep' from pg_stat_activity where pid = $1";
            let waits = query_scalar::<_, Option<bool>>(wait).bind(process);
            waits.fetch_one(&mut self.primary).await.unwrap() == Some(true)
        })
        .await
        .unwrap();
        commit
    }

    /// A transaction that has written, and whose commit waits for no standby.
    async fn writing(&self, sql: &'static str) -> PgConnection {
        let mut conn = self.connect().await;
        raw_sql("set synchronous_commit = local").execute(&mut conn).await.unwrap();
        raw_sql("begin").execute(&mut conn).await.unwrap();
        raw_sql(sql).execute(&mut conn).await.unwrap();
        conn
    }

    /// Waits until a session waits for the end of the transaction of `writer`.
    async fn is_waited_for(&mut self, writer: &mut PgConnection) {
        let xid: String =
            query_scalar("select pg_current_xact_id()::xid::text").fetch_one(writer).await.unwrap();
        eventually("the slot waits", async || {
            let wait = "select exists (select from pg_locks
                where locktype = 'transactionid' and not granted and transactionid::text = $1)";
            let waits = query_scalar::<_, bool>(wait).bind(&xid);
            waits.fetch_one(&mut self.primary).await.unwrap()
        })
        .await
        .unwrap();
    }
}

/// Each key as text, in order.
fn keys(changes: &[Change]) -> Vec<String> {
    let mut keys = BTreeSet::new();
    for Change { change, .. } in changes {
        match change {
            TableChange::All => {
                keys.insert("all".to_owned());
            }
            TableChange::Rows(rows) => keys.extend(rows.iter().map(|key| match &key.value {
                KeyValue::Null => format!("{} null", key.column),
                KeyValue::Text(text) => format!("{}={text}", key.column),
                KeyValue::Large => format!("{} large", key.column),
            })),
        }
    }
    keys.into_iter().collect()
}

#[tokio::test]
async fn each_change_has_the_keys_of_its_rows_before_and_after() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    for (sql, expected) in [
        (
            "insert into items values (1, 'ada', 'x'), (2, null, 'y')",
            &["id=1", "id=2", "owner null", "owner=ada"][..],
        ),
        ("update items set owner = 'bob' where id = 1", &["id=1", "owner=ada", "owner=bob"]),
        ("update items set id = 3 where id = 2", &["id=2", "id=3", "owner null"]),
        ("delete from items where id = 3", &["id=3", "owner null"]),
        (
            "update items set owner = repeat('o', 3000) where id = 1",
            &["id=1", "owner large", "owner=bob"],
        ),
        ("truncate items", &["all"]),
        ("insert into items select n, 'many' from generate_series(1, 20000) n", &["all"]),
        ("create table others (id int)", &[]),
        ("insert into others values (1)", &[]),
    ] {
        assert_eq!(world.change(&mut stream, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_key_outside_the_replica_identity_counts_as_a_change_of_all_rows() {
    let mut world = World::new().await;
    world.server.psql("alter table items replica identity default").await.unwrap();
    let mut stream = world.begun().await;
    let insert = "insert into items values (1, 'ada')";
    assert_eq!(world.change(&mut stream, insert).await, ["id=1", "owner=ada"]);
    for sql in ["update items set body = 'b'", "update items set id = 2", "delete from items"] {
        let keys = world.change(&mut stream, sql).await;
        assert!(keys.contains(&"all".to_owned()), "{sql}: {keys:?}");
    }
    // An index over all keyed columns is enough.
    let identity = "delete from items; alter table items alter owner set not null;
        create unique index by_both on items (id, owner);
        alter table items replica identity using index by_both";
    world.execute(identity).await;
    assert!(world.watermark(&mut stream).await.all);
    for (sql, expected) in [
        ("insert into items values (1, 'ada')", &["id=1", "owner=ada"][..]),
        ("update items set body = 'b'", &["id=1", "owner=ada"]),
        ("update items set owner = 'bob'", &["id=1", "owner=ada", "owner=bob"]),
        ("delete from items", &["id=1", "owner=bob"]),
    ] {
        assert_eq!(world.change(&mut stream, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_large_value_that_has_not_changed_has_its_key() {
    let mut world = World::new().await;
    world.server.psql("alter table items alter owner set storage external").await.unwrap();
    let mut stream = world.begun().await;
    world.change(&mut stream, "insert into items values (1, repeat('o', 5000))").await;
    let keys = world.change(&mut stream, "update items set body = 'b'").await;
    assert_eq!(keys, ["id=1", "owner large"]);
}

#[tokio::test]
async fn a_column_that_is_renamed_counts_as_a_change_of_all_rows() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    world.change(&mut stream, "alter table items rename owner to holder").await;
    assert_eq!(world.change(&mut stream, "insert into items values (1, 'ada')").await, ["all"]);
}

/// What was delivered with other columns is not mistaken for what the new ones would have shown.
#[tokio::test]
async fn columns_can_be_replaced_at_any_time() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    let mut open = world.writing("insert into items values (1, 'ada', 'x')").await;
    world.execute("insert into items values (2, 'bob', 'y')").await;
    stream.changed().await.unwrap();
    let items: i64 = query_scalar("select 'items'::regclass::oid::int8")
        .fetch_one(&mut world.primary)
        .await
        .unwrap();
    let items = u32::try_from(items).unwrap();
    stream.key_by(KeyColumns::default().with(items, "body", "3/3"));
    assert_eq!(keys(&world.watermark(&mut stream).await.changes), ["all"]);
    // The server describes the table only once.
    raw_sql("commit").execute(&mut open).await.unwrap();
    assert_eq!(keys(&world.watermark(&mut stream).await.changes), ["3/3=x"]);
    assert_eq!(world.change(&mut stream, "delete from items where id = 2").await, ["3/3=y"]);
}

#[tokio::test]
async fn a_change_of_the_watched_expression_makes_everything_unknown() {
    let mut world = World::new().await;
    let options = StreamOptions::from_url(&world.server.url()).unwrap();
    let watched =
        "(select pg_catalog.count(*)::text from pg_catalog.pg_class where relname = 'another')";
    let mut stream = Stream::start(&options.watching(watched)).await.unwrap();
    let mut looks = Vec::new();
    for sql in ["select", "select", "create table another ()", "select"] {
        world.execute(sql).await;
        let watermark = world.watermark(&mut stream).await;
        looks.push((watermark.all, watermark.is_altered));
    }
    assert_eq!(looks, [(true, false), (false, false), (true, true), (false, false)]);
}

#[tokio::test]
async fn a_table_without_key_columns_has_changes_of_all_rows() {
    let mut world = World::new().await;
    let options = StreamOptions::from_url(&world.server.url()).unwrap();
    let mut stream = Stream::start(&options).await.unwrap();
    world.watermark(&mut stream).await;
    assert_eq!(world.change(&mut stream, "insert into items values (1, 'ada')").await, ["all"]);
}

/// Each partition is a table of its own, with a replica identity that it does not inherit.
#[tokio::test]
async fn partitions_are_tables_of_their_own() {
    let mut world = World::new().await;
    let schema = "drop table items;
        create table items (id int primary key, owner text) partition by range (id);
        create table low partition of items for values from (0) to (10);
        create table high partition of items for values from (10) to (100);
        alter table items replica identity full;
        alter table low replica identity full;
        alter publication tidegate add table items";
    world.server.psql(schema).await.unwrap();
    let options = StreamOptions::from_url(&world.server.url()).unwrap();
    let mut stream = Stream::start(&options).await.unwrap();
    stream.key_by(world.keyed(&["low", "high"]).await);
    world.watermark(&mut stream).await;
    for (sql, expected) in [
        (
            "insert into items values (1, 'ada'), (11, 'bob')",
            &["id=1", "id=11", "owner=ada", "owner=bob"][..],
        ),
        ("update items set owner = 'eve' where id = 1", &["id=1", "owner=ada", "owner=eve"]),
        // The other has the default identity, which lacks the owner.
        ("update items set owner = 'eve' where id = 11", &["all"]),
        ("update items set id = 2 where id = 1", &["id=1", "id=2", "owner=eve"]),
        ("truncate low", &["all"]),
        ("delete from items", &["all"]),
    ] {
        assert_eq!(world.change(&mut stream, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_rolled_back_row_is_no_change() {
    let mut world = World::with(&[("max_prepared_transactions", "2")]).await;
    let mut stream = world.begun().await;
    for (sql, expected) in [
        ("begin; insert into items values (1, 'ada'); rollback", &[][..]),
        (
            "begin; insert into items values (1, 'ada'); savepoint s; insert into items values (2, 'bob');
                rollback to s; insert into items values (3, 'eve'); commit",
            &["id=1", "id=3", "owner=ada", "owner=eve"],
        ),
        ("begin; insert into items values (4, 'kim'); prepare transaction 'p'", &[]),
        ("commit prepared 'p'", &["id=4", "owner=kim"]),
        ("begin; delete from items; prepare transaction 'q'", &[]),
        ("rollback prepared 'q'", &[]),
    ] {
        assert_eq!(world.change(&mut stream, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_commit_that_is_delivered_and_not_visible_is_part_of_a_later_watermark() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    world.hold_commits().await;
    let commit = world.commit_without_end("insert into items values (1, 'ada')").await;
    stream.changed().await.unwrap();
    assert_eq!(keys(&world.watermark(&mut stream).await.changes), [""; 0]);
    // Nothing more is delivered, and the stream says again and again that it waits.
    stream.changed().await.unwrap();
    world.release_commits().await;
    commit.await.unwrap();
    stream.changed().await.unwrap();
    let watermark = world.watermark(&mut stream).await;
    assert_eq!(keys(&watermark.changes), ["id=1", "owner=ada"]);
    assert!(!watermark.all);
    // If the stream still waited for a commit, it would return after a pause of 2 ms, and so before this timer.
    assert!(timeout(Duration::from_millis(50), stream.changed()).await.is_err());
}

/// The stream never delivers it, and it becomes visible after the first watermark.
#[tokio::test]
async fn a_commit_from_before_the_stream_makes_everything_unknown_once_it_is_visible() {
    let mut world = World::new().await;
    // Before the slot: when this was done during its creation, the server failed to build the slot's snapshot.
    world.hold_commits().await;
    let probes =
        "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'SyncRep'";
    world.server.psql(probes).await.unwrap();
    let mut first = world.writing("insert into items values (1, 'ada')").await;
    let options = StreamOptions::from_url(&world.server.url()).unwrap();
    let start = tokio::spawn(async move { Stream::start(&options).await });
    world.is_waited_for(&mut first).await;
    let mut second = world.writing("insert into items values (2, 'bob')").await;
    raw_sql("commit").execute(&mut first).await.unwrap();
    // The server now tracks all commits, and waits for those that began before.
    world.is_waited_for(&mut second).await;
    let commit = world.commit_without_end("insert into items values (3, 'eve')").await;
    raw_sql("commit").execute(&mut second).await.unwrap();
    let mut stream = start.await.unwrap().unwrap();
    assert!(world.watermark(&mut stream).await.all);
    let watermark = world.watermark(&mut stream).await;
    assert_eq!((keys(&watermark.changes), watermark.all), (vec![], false));
    world.release_commits().await;
    commit.await.unwrap();
    let watermark = world.watermark(&mut stream).await;
    assert_eq!((keys(&watermark.changes), watermark.all), (vec![], true));
    assert!(!world.watermark(&mut stream).await.all);
}

#[tokio::test]
async fn a_watermark_that_is_not_awaited_is_replaced_by_the_next() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    let nothing = stream.reach().await;
    assert!(matches!(nothing, Err(StreamError::NotAnnounced)), "{nothing:?}");
    world.execute("insert into items values (1, 'ada')").await;
    stream.announce(&mut world.primary).await.unwrap();
    let mut changes = match timeout(Duration::ZERO, stream.reach()).await {
        Ok(reached) => reached.unwrap().changes,
        Err(_) => Vec::new(),
    };
    world.execute("insert into items values (2, 'bob')").await;
    changes.extend(world.watermark(&mut stream).await.changes);
    assert_eq!(keys(&changes), ["id=1", "id=2", "owner=ada", "owner=bob"]);
}

#[tokio::test]
async fn a_watermark_that_can_t_be_announced_leaves_the_stream_usable() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    world.execute("insert into items values (1, 'ada')").await;
    stream.changed().await.unwrap();
    let mut transaction = world.primary.begin().await.unwrap();
    let refused = stream.announce(&mut transaction).await;
    assert!(matches!(refused, Err(StreamError::InTransaction)), "{refused:?}");
    transaction.rollback().await.unwrap();
    let mut ended = world.connect().await;
    let process: i32 = query_scalar("select pg_backend_pid()").fetch_one(&mut ended).await.unwrap();
    world.server.psql(&format!("select pg_terminate_backend({process})")).await.unwrap();
    let refused = stream.announce(&mut ended).await;
    assert!(matches!(refused, Err(StreamError::Announce(_))), "{refused:?}");
    stream.changed().await.expect("an earlier change is still reported");
    let watermark = world.watermark(&mut stream).await;
    assert_eq!(keys(&watermark.changes), ["id=1", "owner=ada"]);
}

#[tokio::test]
async fn a_watermark_of_another_server_or_database_is_refused() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    let url = world.server.create_database("other").await.unwrap();
    let other = World::new().await;
    for url in [url, other.server.url()] {
        let mut conn = PgConnection::connect(&url).await.unwrap();
        let refused = stream.announce(&mut conn).await;
        assert!(matches!(refused, Err(StreamError::OtherServer)), "{refused:?}");
    }
    assert!(!world.watermark(&mut stream).await.all);
}

#[tokio::test]
async fn a_change_of_the_publication_makes_everything_unknown() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    for sql in [
        "create table others (id int primary key); alter publication tidegate add table others",
        "alter publication tidegate drop table others",
        "alter publication tidegate set (publish = 'insert')",
        "alter table items replica identity default",
        "drop publication tidegate",
    ] {
        world.execute(sql).await;
        assert!(world.watermark(&mut stream).await.all, "{sql}");
        assert!(!world.watermark(&mut stream).await.all, "{sql}");
    }
}

#[tokio::test]
async fn a_publication_that_hides_changes_is_refused() {
    let mut world = World::new().await;
    let options = StreamOptions::from_url(&world.server.url()).unwrap();
    let version: i32 = query_scalar("select current_setting('server_version_num')::int")
        .fetch_one(&mut world.primary)
        .await
        .unwrap();
    let mut refused = vec![
        ("alter publication tidegate set (publish = 'insert, update, delete')", "truncate"),
        (
            "alter publication tidegate set (publish = 'insert, update, delete, truncate', publish_via_partition_root)",
            "partition_root",
        ),
        ("drop publication tidegate", "does not exist"),
    ];
    if version >= 150_000 {
        refused.push(("create publication tidegate for table items where (id > 0)", "row filters"));
    }
    for (sql, why) in refused {
        world.execute(sql).await;
        let error = Stream::start(&options).await.unwrap_err().to_string();
        assert!(error.contains(why), "{sql}: {error}");
    }
}

#[tokio::test]
async fn several_streams_each_get_their_own_watermarks() {
    let mut world = World::new().await;
    let (mut first, mut second) = (world.begun().await, world.begun().await);
    let insert = "insert into items values (1, 'ada')";
    assert_eq!(world.change(&mut first, insert).await, ["id=1", "owner=ada"]);
    first.announce(&mut world.primary).await.unwrap();
    assert_eq!(keys(&world.watermark(&mut second).await.changes), ["id=1", "owner=ada"]);
    assert_eq!(keys(&first.reach().await.unwrap().changes), [""; 0]);
}

#[tokio::test]
async fn the_slot_ends_with_its_stream() {
    let mut world = World::new().await;
    let stream = world.begun().await;
    let slots = "select count(*) from pg_replication_slots";
    let count: i64 = query_scalar(slots).fetch_one(&mut world.primary).await.unwrap();
    assert_eq!(count, 1);
    drop(stream);
    eventually("the slot is dropped", async || {
        query_scalar::<_, i64>(slots).fetch_one(&mut world.primary).await.unwrap() == 0
    })
    .await
    .unwrap();
}

/// The server moves a slot only if the consumer confirms, and an idle database has nothing to confirm but other databases'
/// changes.
#[tokio::test]
async fn an_idle_stream_confirms_what_other_databases_write() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    let url = world.server.create_database("busy").await.unwrap();
    world
        .server
        .psql_at(&url, "create table t as select n from generate_series(1, 100000) n")
        .await
        .unwrap();
    let written: String = query_scalar("select pg_current_wal_lsn()::text")
        .fetch_one(&mut world.primary)
        .await
        .unwrap();
    let confirmed = async {
        let confirmed = "select confirmed_flush_lsn >= $1::pg_lsn from pg_replication_slots";
        eventually("it is confirmed", async || {
            let confirmed = query_scalar::<_, bool>(confirmed).bind(&written);
            confirmed.fetch_one(&mut world.primary).await.unwrap()
        })
        .await
    };
    tokio::select! {
        confirmed = confirmed => confirmed.unwrap(),
        changed = stream.changed() => panic!("nothing changes: {changed:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_can_t_start_says_why() {
    let server = Postgres::start_with(&[("wal_level", "replica")]).await.unwrap();
    server.psql("create publication tidegate").await.unwrap();
    let options = StreamOptions::from_url(&server.url()).unwrap();
    let error = Stream::start(&options).await.unwrap_err();
    assert!(error.to_string().contains("wal_level"), "{error}");
    let world = World::new().await;
    world.server.psql("create role reader login").await.unwrap();
    let reader = world.server.url().replace("postgres@", "reader@");
    let options = StreamOptions::from_url(&reader).unwrap();
    let error = Stream::start(&options).await.unwrap_err();
    assert!(error.to_string().to_lowercase().contains("replication"), "{error}");
}

#[tokio::test]
async fn a_stream_ends_with_its_server() {
    let mut world = World::new().await;
    let mut stream = world.begun().await;
    world.server.kill().await.unwrap();
    assert!(stream.changed().await.is_err());
}

/// The property that everything else rests on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_each_watermark_has_every_transaction_that_its_snapshot_sees() {
    const WATERMARKS: usize = 100;
    const WRITERS: usize = 6;
    let mut world = World::new().await;
    world.execute("insert into items select n from generate_series(0, 5) n").await;
    let mut stream = world.begun().await;
    let (is_over, ended) =
        (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(BTreeSet::new())));
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let mut conn = world.connect().await;
        let (is_over, ended) = (is_over.clone(), ended.clone());
        writers.push(tokio::spawn(async move {
            let update =
                "update items set body = '' where id = $1 returning pg_current_xact_id()::text";
            while !is_over.load(Ordering::Relaxed) {
                let id = i32::try_from(writer).unwrap();
                let xid: String = query_scalar(update).bind(id).fetch_one(&mut conn).await.unwrap();
                ended.lock().unwrap().insert(xid.parse::<u64>().unwrap());
            }
        }));
    }
    let mut delivered = BTreeSet::new();
    let mut note = |watermark: Watermark, before: BTreeSet<u64>| {
        assert!(!watermark.all);
        for change in &watermark.changes {
            assert!(watermark.snapshot.sees(change.xid), "{} is not seen", change.xid);
            assert!(delivered.insert(change.xid), "{} comes twice", change.xid);
        }
        let missing: Vec<_> = before.difference(&delivered).collect();
        assert!(missing.is_empty(), "{missing:?} had ended, and are missing");
        delivered.len()
    };
    for _ in 0..WATERMARKS {
        stream.changed().await.unwrap();
        // Whatever has ended by now is seen by the next snapshot.
        let before = ended.lock().unwrap().clone();
        note(world.watermark(&mut stream).await, before);
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let all = ended.lock().unwrap().clone();
    let count = all.len();
    assert_eq!(note(world.watermark(&mut stream).await, all), count);
}

/// Each kind of password that Postgres requests, and a wrong one.
#[tokio::test]
async fn a_stream_logs_in_with_a_password() {
    let mut world = World::new().await;
    let methods = [("scram", "scram-sha-256"), ("digest", "md5"), ("plain", "password")];
    for (role, method) in methods {
        // A password is kept in one of two forms, and only the older one serves md5.
        let kept = if method == "md5" { "md5" } else { "scram-sha-256" };
        let sql = format!(
            "set password_encryption = '{kept}';
             create role {role} login replication password 'p:/ ss'"
        );
        world.server.psql(&sql).await.unwrap();
        world.server.add_access_rules(&format!("host all {role} all {method}")).await.unwrap();
        let with = |password: &str| {
            let url = world.server.url().replace("postgres@", &format!("{role}:{password}@"));
            StreamOptions::from_url(&url).unwrap()
        };
        let mut stream = Stream::start(&with("p%3A%2F%20ss")).await.unwrap();
        stream.announce(&mut world.primary).await.unwrap();
        stream.reach().await.unwrap();
        let refused = Stream::start(&with("other")).await.unwrap_err();
        let is_rejected = matches!(&refused, StreamError::Server { code, .. } if code == "28P01");
        assert!(is_rejected, "{method}: {refused:?}");
    }
}

/// A server that is reached as `localhost`, and its authority. `host` is what its certificate is for.
#[cfg(feature = "tls")]
async fn encrypted(host: &str) -> (World, tidegate_testing::Authority) {
    let world = World::new().await;
    let authority = tidegate_testing::Authority::new().unwrap();
    world.server.offer_tls(&authority, host).await.unwrap();
    (world, authority)
}

#[cfg(feature = "tls")]
impl World {
    /// Whether a stream with these parameters of the URL is encrypted.
    async fn stream_with(&mut self, parameters: &str) -> Result<bool, StreamError> {
        let url = self.server.url().replace("127.0.0.1", "localhost");
        self.is_encrypted(&StreamOptions::from_url(&format!("{url}?{parameters}"))?).await
    }

    async fn is_encrypted(&mut self, options: &StreamOptions) -> Result<bool, StreamError> {
        let mut stream = Stream::start(options).await?;
        stream.announce(&mut self.primary).await.unwrap();
        stream.reach().await.unwrap();
        let sql = "select ssl from pg_stat_ssl join pg_stat_replication using (pid)";
        Ok(query_scalar(sql).fetch_one(&mut self.primary).await.unwrap())
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_stream_is_encrypted_as_the_url_says() {
    let (mut world, authority) = encrypted("localhost").await;
    let root = format!("sslrootcert={}", authority.certificate().display());
    for mode in ["disable", "allow"] {
        assert!(!world.stream_with(&format!("sslmode={mode}")).await.unwrap(), "{mode}");
    }
    for mode in ["prefer", "require"] {
        // The authority is not known, and need not be.
        assert!(world.stream_with(&format!("sslmode={mode}")).await.unwrap(), "{mode}");
    }
    for mode in ["verify-ca", "verify-full"] {
        assert!(world.stream_with(&format!("sslmode={mode}&{root}")).await.unwrap(), "{mode}");
        let unknown = world.stream_with(&format!("sslmode={mode}")).await.unwrap_err();
        assert!(matches!(unknown, StreamError::Tls(_)), "{mode}: {unknown:?}");
    }
    let pem = std::fs::read(authority.certificate()).unwrap();
    let options: PgConnectOptions = world.server.url().parse().unwrap();
    let options = options.host("localhost").ssl_mode(PgSslMode::VerifyFull);
    let options = StreamOptions::from_options(&options.ssl_root_cert_from_pem(pem)).unwrap();
    assert!(world.is_encrypted(&options).await.unwrap());
    let missing =
        world.stream_with("sslmode=verify-ca&sslrootcert=/no/such/file").await.unwrap_err();
    assert!(missing.to_string().contains("/no/such/file"), "{missing}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_certificate_for_another_host_is_accepted_only_if_hosts_do_not_matter() {
    let (mut world, authority) = encrypted("db.example").await;
    let root = format!("sslrootcert={}", authority.certificate().display());
    assert!(world.stream_with(&format!("sslmode=verify-ca&{root}")).await.unwrap());
    let refused = world.stream_with(&format!("sslmode=verify-full&{root}")).await.unwrap_err();
    assert!(matches!(refused, StreamError::Tls(_)), "{refused:?}");
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_stream_shows_its_own_certificate() {
    let (mut world, authority) = encrypted("localhost").await;
    let files = authority.sign("postgres").unwrap();
    world.server.add_access_rules("hostssl all postgres all cert").await.unwrap();
    let refused = world.stream_with("sslmode=require").await.unwrap_err();
    assert!(matches!(refused, StreamError::Server { .. }), "{refused:?}");
    let (certificate, key) = (files.certificate.display(), files.key.display());
    let alone = world.stream_with(&format!("sslmode=require&sslcert={certificate}")).await;
    assert!(matches!(alone, Err(StreamError::Options(_))), "{alone:?}");
    let both = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    assert!(world.stream_with(&both).await.unwrap());
}

/// A server that does not offer TLS.
#[cfg(feature = "tls")]
#[tokio::test]
async fn a_stream_is_not_started_without_the_encryption_that_it_needs() {
    let mut world = World::new().await;
    assert!(!world.stream_with("sslmode=prefer").await.unwrap());
    let refused = world.stream_with("sslmode=require").await.unwrap_err();
    assert!(refused.to_string().contains("does not offer"), "{refused}");
}

/// A stream of a slot that outlives it, and a snapshot from which it can be continued.
struct Kept {
    stream: Stream,
    snapshot: tidegate_wal::Snapshot,
    point: StreamPoint,
}

impl World {
    async fn kept(&mut self) -> Kept {
        let options = StreamOptions::from_url(&self.server.url()).unwrap();
        let mut stream = Stream::create(&options, &kept_slot_name()).await.unwrap();
        stream.key_by(self.keyed(&["items"]).await);
        assert!(stream.point().is_none());
        let first = self.watermark(&mut stream).await;
        assert!(first.all);
        let point = stream.point().unwrap().clone();
        Kept { stream, snapshot: first.snapshot, point }
    }

    async fn resume(&mut self, kept: &Kept) -> Result<Stream, StreamError> {
        let options = StreamOptions::from_url(&self.server.url()).unwrap();
        let keyed = self.keyed(&["items"]).await;
        let conn = &mut self.primary;
        Stream::resume(&options, conn, &kept.point, kept.snapshot.clone(), keyed).await
    }

    async fn slots(&mut self) -> i64 {
        let slots = query_scalar("select count(*) from pg_replication_slots");
        slots.fetch_one(&mut self.primary).await.unwrap()
    }
}

/// Neither what was known at that point, nor what has changed since, is lost or comes twice.
#[tokio::test]
async fn a_stream_continues_from_an_earlier_point_on_another_connection() {
    let mut world = World::new().await;
    let mut kept = world.kept().await;
    let seen = world.change(&mut kept.stream, "insert into items values (1, 'known')").await;
    assert_eq!(seen, ["id=1", "owner=known"]);
    let last = world.watermark(&mut kept.stream).await;
    (kept.snapshot, kept.point) = (last.snapshot, kept.stream.point().unwrap().clone());
    // A watermark that was never part of anything.
    world.change(&mut kept.stream, "insert into items values (2, 'lost')").await;
    drop(std::mem::replace(&mut kept.stream, world.stream().await));
    world.execute("insert into items values (3, 'meanwhile')").await;
    let mut stream = world.resume(&kept).await.unwrap();
    let watermark = world.watermark(&mut stream).await;
    assert!(!watermark.all && !watermark.is_altered);
    let expected = ["id=2", "id=3", "owner=lost", "owner=meanwhile"];
    assert_eq!(keys(&watermark.changes), expected);
    let later = world.change(&mut stream, "update items set owner = 'new' where id = 3").await;
    assert_eq!(later, ["id=3", "owner=meanwhile", "owner=new"]);
}

#[tokio::test]
async fn a_commit_that_is_not_visible_is_part_of_the_continued_stream() {
    let mut world = World::new().await;
    let mut kept = world.kept().await;
    world.hold_commits().await;
    let commit = world.commit_without_end("insert into items values (1, 'held')").await;
    let held = loop {
        let watermark = world.watermark(&mut kept.stream).await;
        assert_eq!(keys(&watermark.changes), [""; 0], "it is not visible");
        let point = kept.stream.point().unwrap().clone();
        // The commit was delivered once the point no longer moves on.
        if point.position < watermark.fence && kept.point.position == point.position {
            break (watermark, point);
        }
        kept.point = point;
    };
    (kept.snapshot, kept.point) = (held.0.snapshot, held.1);
    kept.stream.confirm(kept.point.position);
    eventually("it is confirmed", async || {
        let confirmed = "select confirmed_flush_lsn >= $1::pg_lsn from pg_replication_slots";
        let at = kept.point.position;
        let at = format!("{:X}/{:X}", at >> 32, at & 0xffff_ffff);
        let confirmed = query_scalar::<_, bool>(confirmed).bind(at);
        confirmed.fetch_one(&mut world.primary).await.unwrap()
    })
    .await
    .unwrap();
    let mut stream = world.resume(&kept).await.unwrap();
    let before = world.watermark(&mut stream).await;
    assert_eq!((keys(&before.changes), before.all), (Vec::new(), false));
    world.release_commits().await;
    commit.await.unwrap();
    let after = world.watermark(&mut stream).await;
    assert_eq!(
        (keys(&after.changes), after.all),
        (vec!["id=1".into(), "owner=held".into()], false)
    );
}

/// As when a node hangs: the one that takes over ends its connection.
#[tokio::test]
async fn a_stream_that_is_continued_elsewhere_ends() {
    let mut world = World::new().await;
    let mut kept = world.kept().await;
    let mut stream = world.resume(&kept).await.unwrap();
    let ended = timeout(Duration::from_secs(30), async {
        loop {
            if let Err(error) = kept.stream.changed().await {
                return error;
            }
            kept.stream.announce(&mut world.primary).await.unwrap();
            if let Err(error) = kept.stream.reach().await {
                return error;
            }
        }
    });
    let ended = ended.await.unwrap();
    let is_over = matches!(
        ended,
        StreamError::Ended | StreamError::Server { .. } | StreamError::Connection(_)
    );
    assert!(is_over, "{ended:?}");
    assert!(!world.watermark(&mut stream).await.all);
    assert_eq!(world.slots().await, 1);
}

#[tokio::test]
async fn a_stream_is_not_continued_if_its_slot_has_lost_changes() {
    let mut world = World::new().await;
    let mut kept = world.kept().await;
    world.change(&mut kept.stream, "insert into items values (1, 'one')").await;
    let later = kept.stream.point().unwrap().clone();
    assert!(later.position > kept.point.position);
    kept.stream.confirm(later.position);
    let refused = async |world: &mut World, kept: &Kept| {
        matches!(world.resume(kept).await, Err(StreamError::SlotLost { .. }))
    };
    let mut was_refused = false;
    // Confirmed within a second.
    eventually("the earlier point is refused", async || {
        let confirmed = "select confirmed_flush_lsn = $1::pg_lsn from pg_replication_slots";
        let at = format!("{:X}/{:X}", later.position >> 32, later.position & 0xffff_ffff);
        let confirmed = query_scalar::<_, bool>(confirmed).bind(at);
        if confirmed.fetch_one(&mut world.primary).await.unwrap() {
            was_refused = refused(&mut world, &kept).await;
        }
        was_refused
    })
    .await
    .unwrap();
    for slot in ["tidegate_kept_0", "tidegate_kept_' or true --", "other", ""] {
        kept.point = StreamPoint { slot: slot.to_owned(), ..later.clone() };
        assert!(refused(&mut world, &kept).await, "{slot}");
    }
}

/// Meanwhile, the publication may have lacked changes.
#[tokio::test]
async fn a_continued_stream_knows_nothing_if_the_publication_has_changed() {
    let mut world = World::new().await;
    let mut kept = world.kept().await;
    drop(std::mem::replace(&mut kept.stream, world.stream().await));
    world
        .execute("alter publication tidegate drop table items; insert into items values (1)")
        .await;
    world.execute("alter publication tidegate add table items").await;
    let mut stream = world.resume(&kept).await.unwrap();
    let watermark = world.watermark(&mut stream).await;
    assert!(watermark.all && watermark.is_altered);
}

/// A server waits for a stream's confirmation when it shuts down; a stream that keeps its slot must end then.
#[tokio::test]
async fn a_kept_slot_retains_unconfirmed_changes() {
    let mut world = World::new().await;
    let mut kept = world.kept().await;
    for id in 0..50 {
        let insert = format!("insert into items values ({id}, 'x', repeat('x', 1000))");
        world.server.psql(&insert).await.unwrap();
    }
    world.watermark(&mut kept.stream).await;
    let retained = async |world: &mut World| {
        let retained =
            "select (pg_current_wal_lsn() - confirmed_flush_lsn)::int8 from pg_replication_slots";
        query_scalar::<_, i64>(retained).fetch_one(&mut world.primary).await.unwrap()
    };
    assert!(retained(&mut world).await > 50_000);
    kept.stream.confirm(kept.stream.point().unwrap().position);
    eventually("it is confirmed", async || retained(&mut world).await < 50_000).await.unwrap();
    drop(kept);
    assert_eq!(world.slots().await, 1, "it outlives the connection");
}
