//! Another server becomes the primary, and may lack what the old one had committed.

use std::time::Duration;

use tidegate::{DatabaseError, DatabaseOptions, Policy};
use tidegate_testing::{FaultProxy, Postgres};

use super::common::eventually;
use super::world::{Node, TTL, primary, proxy};

/// A primary behind a name that can be led elsewhere, and a standby.
pub(super) struct Pair {
    pub(super) primary: Postgres,
    pub(super) standby: Postgres,
    name: FaultProxy,
    pub(super) node: Node,
}

impl Pair {
    async fn new(policy: &Policy) -> Self {
        Self::with(&[], policy).await
    }

    pub(super) async fn with(settings: &[(&str, &str)], policy: &Policy) -> Self {
        let primary = primary(settings).await;
        let standby = primary.standby().await.unwrap();
        let (name, url) = proxy(&primary).await;
        let options = DatabaseOptions::new(url).wait(Duration::from_secs(1));
        let node = Node::start(&options.connect().await.unwrap(), policy).await;
        Self { primary, standby, name, node }
    }

    /// Nothing that is committed from here on reaches the standby.
    async fn part(&self) {
        let apart = "alter system set primary_conninfo = ''; select pg_reload_conf()";
        self.standby.psql(apart).await.unwrap();
        // A node's stream is none of it.
        let streaming =
            "select count(*) from pg_stat_replication where application_name <> 'tidegate'";
        eventually("replication ends", async || self.primary.psql(streaming).await.unwrap() == "0")
            .await;
    }

    /// The standby takes over, and the node knows of it.
    pub(super) async fn fail_over(&mut self) {
        let before = self.node.cache.fences().epoch();
        self.primary.kill().await.unwrap();
        self.standby.promote().await.unwrap();
        self.name.retarget(self.standby.addr());
        eventually("the new primary is followed", async || {
            let now = self.node.cache.fences().epoch();
            now.is_known() && now != before
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_lost_in_a_failover_is_never_served_again() {
    let mut pair = Pair::new(&Policy::ttl(TTL)).await;
    pair.node.warm(&["/users/1", "/users/2"]).await;
    pair.part().await;
    pair.primary.psql("update users set name = 'lost' where id = 1").await.unwrap();
    pair.node.sees("/users/1", "lost").await;
    pair.node.warm(&["/users/1"]).await;
    pair.fail_over().await;
    let (body, status) = pair.node.get("/users/1").await;
    assert!(body == "ada" && status.contains("old-epoch"), "{body}: {status}");
    assert!(pair.node.get("/users/2").await.1.contains("old-epoch"), "nobody knows if it is whole");
    pair.node.warm(&["/users/1", "/users/2"]).await;
    pair.standby.psql("update users set name = 'eve' where id = 1").await.unwrap();
    pair.node.sees("/users/1", "eve").await;
}

/// The old primary is still up, and the name leads to it again for a moment: connections to both are in one pool.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_only_on_the_old_primary_is_not_stored_while_its_name_alternates() {
    const ROWS: i32 = 8;
    let pair = Pair::new(&Policy::ttl(TTL)).await;
    let rows = format!("insert into users select n, 'good' from generate_series(3, {ROWS}) n");
    pair.primary.psql(&rows).await.unwrap();
    let has_them = format!("select count(*) = {ROWS} from users");
    eventually("the standby has the rows", async || {
        pair.standby.psql(&has_them).await.unwrap() == "t"
    })
    .await;
    pair.part().await;
    pair.standby.promote().await.unwrap();
    pair.primary.psql("update users set name = 'lost'").await.unwrap();
    pair.name.retarget(pair.standby.addr());
    let before = pair.node.cache.fences().epoch();
    let leave = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'tidegate' and pid <> pg_backend_pid()";
    pair.primary.psql(leave).await.unwrap();
    eventually("the new primary is followed", async || {
        let now = pair.node.cache.fences().epoch();
        now.is_known() && now != before
    })
    .await;
    // One connection more each time, the last one to the new primary.
    let grow = async |most: i32, to: &Postgres| {
        pair.name.retarget(to.addr());
        let count = "select count(*) from pg_stat_activity where application_name = 'tidegate'";
        let there = async || to.psql(count).await.unwrap().parse::<i32>().unwrap();
        let had = there().await;
        let more = async || {
            futures_util::future::join_all((0..most).map(|_| pair.node.get("/plain/1"))).await;
            there().await > had
        };
        eventually("the pool has grown", more).await;
    };
    grow(2, &pair.standby).await;
    pair.node.warm(&["/users/1"]).await;
    grow(6, &pair.primary).await;
    grow(10, &pair.standby).await;
    let mut stored = 0;
    for _ in 0..10 {
        pair.standby.psql("update users set name = name").await.unwrap();
        let all = async || {
            let one = async |id| pair.node.get(&format!("/users/{id}")).await;
            futures_util::future::join_all((1..=ROWS).map(one)).await
        };
        all().await;
        for (body, status) in all().await.into_iter().filter(|(_, status)| status.contains("hit")) {
            assert_ne!(body, "lost", "{status}");
            stored += 1;
        }
    }
    assert!(stored > 0, "nothing was stored");
}

/// Another `Database` for the same primary has no listener of its own.
#[tokio::test(flavor = "multi_thread")]
async fn every_database_of_the_process_leaves_the_old_primary_with_the_listener() {
    let pair = Pair::new(&Policy::ttl(TTL)).await;
    let url = format!("postgres://postgres@{}/postgres", pair.name.addr());
    let other = DatabaseOptions::new(url).connections(1).connect().await.unwrap();
    let server = async || -> (i32, i32) {
        let sql = "select inet_server_port(), pg_backend_pid()";
        sqlx::query_as(sql).fetch_one(other.reader()).await.unwrap()
    };
    let (port, process) = server().await;
    assert_eq!(port, i32::from(pair.primary.port()));
    pair.standby.promote().await.unwrap();
    pair.name.retarget(pair.standby.addr());
    let before = pair.node.cache.fences().epoch();
    let leave = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity
         where application_name = 'tidegate' and pid not in ({process}, pg_backend_pid())"
    );
    pair.primary.psql(&leave).await.unwrap();
    eventually("the new primary is followed", async || {
        let now = pair.node.cache.fences().epoch();
        now.is_known() && now != before
    })
    .await;
    assert_eq!(server().await.0, i32::from(pair.standby.port()));
}

/// The pool's idle connections, and the listener's, still lead to the old one.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_wrote_on_a_new_primary_is_read_from_there_also_without_the_cache() {
    let pair = Pair::new(&Policy::ttl(TTL)).await;
    let plain = pair.node.get("/plain/1").await.0;
    assert!(plain.starts_with("ada"), "{plain}");
    pair.standby.promote().await.unwrap();
    pair.name.retarget(pair.standby.addr());
    let direct = super::world::options(&pair.standby).connect().await.unwrap();
    let token = Node::start(&direct, &Policy::ttl(TTL)).await.put(1, "eve").await;
    let plain = pair.node.get_with("/plain/1", &token).await.0;
    assert!(plain.starts_with("eve"), "{plain}");
    assert_eq!(pair.node.get_with("/users/1", &token).await.0, "eve");
}

/// The name that reads use leads to the new primary later than the one that the listener uses.
#[tokio::test(flavor = "multi_thread")]
async fn a_pool_leaves_an_old_primary_that_the_listener_has_left() {
    let primary = primary(&[]).await;
    let standby = primary.standby().await.unwrap();
    let ((name, url), (line, listen)) = (proxy(&primary).await, proxy(&primary).await);
    let options = DatabaseOptions::new(url).listen_url(listen).connections(1);
    let db = options.connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    let before = node.cache.fences().epoch();
    standby.promote().await.unwrap();
    line.retarget(standby.addr());
    line.cut();
    line.heal().await.unwrap();
    eventually("the new primary is followed", async || {
        let now = node.cache.fences().epoch();
        now.is_known() && now != before
    })
    .await;
    let port = async || {
        let query = sqlx::query_scalar::<_, i32>("select inet_server_port()");
        query.fetch_one(&mut *db.begin_read_only().await.unwrap()).await.unwrap()
    };
    let direct = super::world::options(&standby).connect().await.unwrap();
    let token = Node::start(&direct, &Policy::ttl(TTL)).await.put(1, "eve").await;
    assert_eq!(port().await, i32::from(primary.port()), "the name still leads there");
    // The pool keeps its connection to the old primary.
    name.retarget(standby.addr());
    let plain = node.get_with("/plain/1", &token).await.0;
    assert!(plain.starts_with("eve"), "{plain}");
    assert_eq!(port().await, i32::from(standby.port()));
}

/// As after a restored backup has taken the primary's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_the_cluster_that_the_primary_leads_to_now_is_accepted() {
    let (first, second) = (primary(&[]).await, primary(&[]).await);
    let standby = second.standby().await.unwrap();
    let (name, url) = proxy(&first).await;
    let db = DatabaseOptions::new(url).connect().await.unwrap();
    let refused = db.add_replica(&standby.url()).await.unwrap_err();
    assert!(matches!(refused, DatabaseError::OtherCluster(_)), "{refused}");
    name.retarget(second.addr());
    db.add_replica(&standby.url()).await.unwrap();
}

/// A primary that flushes what nobody commits long after it wrote it to its log.
async fn slow_to_flush() -> Postgres {
    primary(&[("wal_writer_delay", "10s"), ("wal_buffers", "16MB")]).await
}

/// Writes to the log what a crash will lose, once the node writes nothing more that would have it flushed: more than the
/// first statements after the crash write, which log whole pages where a server has checksums. Returns the position behind it.
async fn write_unflushed(primary: &Postgres) -> u64 {
    let marked = "select exists (select from tidegate.own_marks where schema is not null)";
    eventually("it writes no more", async || primary.psql(marked).await.unwrap() == "t").await;
    let long = "select pg_logical_emit_message(false, '', repeat('x', 1000000)) - '0/0'";
    primary.psql(long).await.unwrap().parse().unwrap()
}

/// Whether that position will come a second time.
async fn is_lost(primary: &Postgres, written: u64) -> bool {
    let lost = format!("select pg_current_wal_insert_lsn() < '0/0'::pg_lsn + {written}");
    primary.psql(&lost).await.unwrap() == "t"
}

/// Tries again where the crash lost nothing: the server flushes every now and then, and on a busy machine before the crash.
async fn until_lost(attempt: impl AsyncFn() -> bool) {
    for _ in 0..5 {
        if attempt().await {
            return;
        }
    }
    panic!("five crashes lost nothing");
}

/// A crash loses what was written to the log and not flushed: positions come a second time, on the same timeline.
#[tokio::test(flavor = "multi_thread")]
async fn a_position_reused_after_a_crash_is_not_taken_for_the_earlier_one() {
    until_lost(async || {
        let mut primary = slow_to_flush().await;
        let (name, url) = proxy(&primary).await;
        let db = DatabaseOptions::new(url).connect().await.unwrap();
        let node = Node::start(&db, &Policy::ttl(TTL)).await;
        let fences = node.cache.fences();
        let epoch = fences.epoch();
        let written = write_unflushed(&primary).await;
        eventually("it has seen that", async || {
            fences.seen().is_some_and(|seen| seen.position.get() >= written)
        })
        .await;
        node.warm(&["/users/1"]).await;
        primary.kill().await.unwrap();
        name.cut();
        primary.restart().await.unwrap();
        primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
        if !is_lost(&primary, written).await {
            return false;
        }
        name.heal().await.unwrap();
        node.sees("/users/1", "eve").await;
        assert_ne!(fences.epoch(), epoch);
        node.warm(&["/users/1", "/users/2"]).await;
        true
    })
    .await;
}

/// The pool may be back before the listener: until that has begun another history, a position is of none.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_writes_right_after_a_crash_sees_its_write() {
    until_lost(async || {
        let mut primary = slow_to_flush().await;
        let (name, url) = proxy(&primary).await;
        let db = super::world::options(&primary).listen_url(url).connect().await.unwrap();
        let node = Node::start(&db, &Policy::ttl(TTL)).await;
        node.warm(&["/users/2"]).await;
        let written = write_unflushed(&primary).await;
        eventually("it has followed to there", async || {
            node.cache
                .fences()
                .followed()
                .is_some_and(|followed| followed.position.get() >= written)
        })
        .await;
        node.warm(&["/users/1"]).await;
        name.cut();
        primary.kill().await.unwrap();
        primary.restart().await.unwrap();
        if !is_lost(&primary, written).await {
            return false;
        }
        let token = node.put(1, "eve").await;
        assert_eq!(node.get_with("/users/1", &token).await.0, "eve");
        name.heal().await.unwrap();
        node.sees("/users/1", "eve").await;
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_may_serve_entries_from_before_a_failover_while_they_are_recomputed() {
    let mut pair = Pair::new(&Policy::ttl(TTL).stale_after_failover()).await;
    pair.node.warm(&["/users/1"]).await;
    pair.fail_over().await;
    let (body, status) = pair.node.get("/users/1").await;
    assert!(body == "ada" && status.contains("stale-after-failover"), "{status}");
    eventually("it is recomputed", async || {
        pair.node.get("/users/1").await.1.contains("\"memory\"")
    })
    .await;
}

/// Which change was known is not forgotten because another server is primary.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_changed_before_a_failover_is_not_served_after_it() {
    let mut pair = Pair::new(&Policy::ttl(TTL).stale_after_failover()).await;
    let node = &pair.node;
    node.warm(&["/users/1", "/users/2", "/users"]).await;
    pair.primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users", "eve bob").await;
    eventually("the standby has it", async || {
        pair.standby.psql("select name from users where id = 1").await.unwrap() == "eve"
    })
    .await;
    pair.fail_over().await;
    let (body, status) = pair.node.get("/users/1").await;
    assert!(body == "eve" && status.contains("old-epoch"), "{body}: {status}");
    // Of the new epoch, so that only the change itself ends it.
    eventually("a hit that is not stale", async || {
        let (_, status) = pair.node.get("/users").await;
        status.contains("hit") && !status.contains("stale")
    })
    .await;
    pair.standby.psql("update users set name = 'zoe' where id = 2").await.unwrap();
    pair.node.sees("/users", "eve zoe").await;
    let (body, status) = pair.node.get("/users/2").await;
    assert!(body == "zoe", "changed since: {body}: {status}");
}

/// One of the replicas is promoted by mistake: what is written to it belongs to nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_timeline_is_not_read() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let options = super::world::options(&primary).replica(replica.url());
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    eventually("it is used", async || node.get("/users").await.1.contains("hit")).await;
    let token = node.put(2, "bea").await;
    replica.promote().await.unwrap();
    replica.psql("update users set name = 'astray'").await.unwrap();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    for _ in 0..50 {
        assert!(!node.get("/users").await.0.contains("astray"));
        assert!(node.get_with("/plain/2", &token).await.0.starts_with("bea from "));
        primary.psql("update users set name = name where id = 1").await.unwrap();
    }
}

/// Nor by reads that nobody caches, though nobody knows yet where the primary was a while ago.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_another_timeline_is_not_read_by_uncached_reads() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let options = super::world::options(&primary).replica(replica.url());
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    let from_replica = format!("ada from {}", replica.port());
    eventually("it is used", async || node.get("/plain/1").await.0 == from_replica).await;
    replica.promote().await.unwrap();
    replica.psql("update users set name = 'astray'").await.unwrap();
    eventually("the node knows of it", async || {
        let epochs: Vec<_> =
            node.db.status().iter().filter_map(|at| Some(at.reached?.epoch)).collect();
        matches!(epochs[..], [primary, replica] if primary != replica)
    })
    .await;
    for _ in 0..50 {
        assert!(node.get("/plain/1").await.0.starts_with("ada from "));
    }
}

/// What was written in a history that is over says nothing of which servers of the present one have it.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_before_a_failover_binds_no_read_to_the_old_history() {
    const NAME: &str = "select name || ' from ' || inet_server_port() from users where id = 2";
    let primary = primary(&[]).await;
    let (standby, orphan) = (primary.standby().await.unwrap(), primary.standby().await.unwrap());
    let (name, url) = proxy(&primary).await;
    let options = DatabaseOptions::new(url).wait(Duration::from_secs(1)).replica(orphan.url());
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    let mut pair = Pair { primary, standby, name, node };
    let token = pair.node.put(1, "bea").await;
    let (db, cache) = (pair.node.db.clone(), pair.node.cache.clone());
    // In no scope.
    sqlx::query("update users set name = 'zoe' where id = 2").execute(db.writer()).await.unwrap();
    let read = async || sqlx::query_scalar::<_, String>(NAME).fetch_one(db.reader()).await.unwrap();
    let from_orphan = format!("zoe from {}", orphan.port());
    eventually("the replica serves it", async || read().await == from_orphan).await;
    let there = async || pair.standby.psql("select name from users where id = 2").await.unwrap();
    eventually("the standby has it", async || there().await == "zoe").await;
    pair.fail_over().await;
    pair.standby.psql("update users set name = 'eve'").await.unwrap();
    eventually("the database knows of it", async || {
        let now = cache.fences().epoch();
        db.status().iter().any(|at| at.reached.is_some_and(|reached| reached.epoch == now))
    })
    .await;
    for _ in 0..20 {
        let (body, _) = pair.node.get_with("/plain/1", &token).await;
        assert!(body.starts_with("eve from "), "by its session: {body}");
        let body = read().await;
        assert!(body.starts_with("eve from "), "in no scope: {body}");
    }
    let fresh = pair.standby.standby().await.unwrap();
    db.add_replica(&fresh.url()).await.unwrap();
    let from_fresh = format!("eve from {}", fresh.port());
    eventually("a replica of now serves it", async || read().await == from_fresh).await;
}
