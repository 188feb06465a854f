//! The connection that follows the log breaks, hangs, or is not woken.

use std::time::Duration;

use tidegate::internals::put_clock_forward;
use tidegate::{
    Cache, DatabaseError, DatabaseOptions, Key, Listener, Memory, Policy, Triggers, ValuePolicy,
};
use tidegate_testing::{FaultProxy, Postgres};

use super::common::eventually;
use super::common::warnings::{all_warnings, keep_warnings, warnings};
use super::world::{Node, TTL, connect, primary, proxy};

/// A node that follows the log through a proxy, and trusts what it knows for half a second.
async fn followed() -> (Postgres, FaultProxy, Node) {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let options = DatabaseOptions::new(primary.url()).listen_url(url);
    let policy = Policy::ttl(TTL).max_staleness(Duration::from_millis(1500));
    let node = Node::start(&options.connect().await.unwrap(), &policy).await;
    node.warm(&["/users/1", "/users/2"]).await;
    (primary, line, node)
}

/// However the line is lost, after its bound a node leaves its entries alone; once the line is
/// back, what did not change is as good as before.
async fn survives(primary: &Postgres, node: &Node, heal: impl AsyncFnOnce()) {
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("it trusts its entries no more", async || {
        node.get("/users/2").await.1.contains("unconfirmed")
    })
    .await;
    assert_eq!(node.get("/users/1").await.0, "eve");
    heal().await;
    eventually("it has caught up", async || node.get("/users/2").await.1.contains("hit")).await;
    let (body, status) = node.get("/users/1").await;
    assert!(body == "eve", "{status}");
    node.warm(&["/users/1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_listener_is_cut_off_distrusts_its_entries_until_it_catches_up() {
    let (primary, line, node) = followed().await;
    line.cut();
    survives(&primary, &node, async || line.heal().await.unwrap()).await;
}

/// No error reports this one.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_listener_hangs_distrusts_its_entries_until_it_catches_up() {
    let (primary, line, node) = followed().await;
    line.freeze();
    survives(&primary, &node, async || line.heal().await.unwrap()).await;
}

/// A node that does not know what has changed does not know what a replica must have.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_follow_the_log_reads_the_primary() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let (line, url) = proxy(&primary).await;
    let options = DatabaseOptions::new(primary.url()).listen_url(url).replica(replica.url());
    let policy = Policy::ttl(TTL).max_staleness(Duration::from_millis(1500));
    let node = Node::start(&options.connect().await.unwrap(), &policy).await;
    node.warm(&["/users/1"]).await;
    replica.pause_replay().await.unwrap();
    line.cut();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("it trusts its entries no more", async || {
        node.get("/users/1").await.1.contains("unconfirmed")
    })
    .await;
    for _ in 0..20 {
        assert_eq!(node.get("/users/1").await.0, "eve");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_seen_after_backends_were_terminated() {
    let (primary, _line, node) = followed().await;
    let kill = "select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = 'tidegate'";
    for round in 0..5 {
        primary.psql(kill).await.unwrap();
        let name = format!("user {round}");
        primary.psql(&format!("update users set name = '{name}' where id = 1")).await.unwrap();
        node.sees("/users/1", &name).await;
    }
    node.warm(&["/users/1", "/users/2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_without_a_notification_is_seen_by_the_heartbeat() {
    let (primary, _line, node) = followed().await;
    primary
        .psql("set tidegate.notify = off; update users set name = 'eve' where id = 1")
        .await
        .unwrap();
    node.sees("/users/1", "eve").await;
}

/// Whoever may connect may notify.
#[tokio::test(flavor = "multi_thread")]
async fn forged_notifications_do_no_harm() {
    let (primary, _line, node) = followed().await;
    primary
        .psql("do $$ begin for i in 1..2000 loop perform pg_notify('tidegate', 'users:id=' || i); end loop; end $$")
        .await
        .unwrap();
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    assert!(node.get("/users/2").await.1.contains("hit"), "what did not change is left alone");
}

/// Row security would hide every change from a node whose role does not own the log, without an error.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_hidden_by_row_security_confirms_nothing() {
    for table in ["log", "ddl"] {
        let primary = primary(&[]).await;
        primary.psql("create role node login; grant select on users to node").await.unwrap();
        Triggers::grant(&mut connect(&primary).await, "node").await.unwrap();
        let url = primary.url().replace("postgres@", "node@");
        let options = DatabaseOptions::new(primary.url()).listen_url(url);
        let policy = Policy::ttl(TTL).max_staleness(Duration::from_millis(1500));
        let node = Node::start(&options.connect().await.unwrap(), &policy).await;
        node.warm(&["/users/1"]).await;
        let hide = format!("alter table tidegate.{table} enable row level security");
        primary.psql(&hide).await.unwrap();
        primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
        node.sees("/users/1", "eve").await;
        eventually("it trusts its entries no more", async || {
            node.get("/users/2").await.1.contains("unconfirmed")
        })
        .await;
        let show = format!("alter table tidegate.{table} disable row level security");
        primary.psql(&show).await.unwrap();
        node.warm(&["/users/1", "/users/2"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emptied_log_invalidates_everything() {
    let (primary, _line, node) = followed().await;
    primary
        .psql("update users set name = 'eve' where id = 1; truncate tidegate.log, tidegate.marks")
        .await
        .unwrap();
    eventually("nothing is trusted", async || node.get("/users/2").await.1.contains("changed"))
        .await;
    node.sees("/users/1", "eve").await;
    node.warm(&["/users/1", "/users/2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_change_invalidates_everything() {
    let (primary, _line, node) = followed().await;
    primary.psql("alter table users add column age int").await.unwrap();
    eventually("nothing is trusted", async || node.get("/users/2").await.1.contains("changed"))
        .await;
    node.warm(&["/users/2"]).await;
}

/// A virtual machine that was asleep: its monotonic clock may have stood still meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_suspended_does_not_trust_its_entries() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let options = DatabaseOptions::new(primary.url()).listen_url(url);
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    node.warm(&["/users/1"]).await;
    line.freeze();
    assert!(node.get("/users/1").await.1.contains("hit"));
    put_clock_forward(60_000);
    let (body, status) = node.get("/users/1").await;
    assert!(body == "ada" && status.contains("unconfirmed"), "{status}");
    put_clock_forward(-60_000);
    assert!(node.get("/users/1").await.1.contains("hit"), "a clock put back is no reason");
    put_clock_forward(60_000);
    line.heal().await.unwrap();
    node.warm(&["/users/1"]).await;
}

/// Under load a listener keeps commits from waking it and others, and wakes the others itself.
#[tokio::test(flavor = "multi_thread")]
async fn under_load_a_listener_suppresses_notifications_and_resumes_them_afterwards() {
    const SUPPRESSED: &str =
        "select count(*) > 0 from pg_locks l join pg_stat_activity a using (pid)
        where l.locktype = 'advisory' and l.granted and a.query like 'with prev as%'
            and (l.classid::bigint << 32) + l.objid::bigint = 8388065642915395431";
    let primary = primary(&[]).await;
    let nodes = [Node::alone(&primary).await, Node::alone(&primary).await];
    let mut writer = connect(&primary).await;
    let load = tokio::spawn(async move {
        loop {
            let write = "update users set name = name where id = 2";
            sqlx::query(write).execute(&mut writer).await.unwrap();
        }
    });
    eventually("it is quiet", async || primary.psql(SUPPRESSED).await.unwrap() == "t").await;
    for (node, name) in nodes.iter().zip(["eve", "bob"]) {
        let write = format!("update users set name = '{name}' where id = 1");
        primary.psql(&write).await.unwrap();
        node.sees("/users/1", name).await;
    }
    nodes[0].sees("/users/1", "bob").await;
    load.abort();
    eventually("commits wake again", async || primary.psql(SUPPRESSED).await.unwrap() == "f").await;
}

/// Each attempt to read all of it would take too long, and the next would begin with it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_larger_than_the_drain_budget_is_followed() {
    let (primary, _line, node) = followed().await;
    let large = "do $$ begin
            for nr in 10..800 loop
                insert into users select nr * 100 + g, 'new' from generate_series(0, 99) g;
            end loop;
            update users set name = 'eve' where id = 1;
        end $$";
    primary.psql(large).await.unwrap();
    node.sees("/users/1", "eve").await;
    node.warm(&["/users/1", "/users/2"]).await;
    primary.psql("update users set name = 'mallory' where id = 1").await.unwrap();
    node.sees("/users/1", "mallory").await;
    assert!(node.get("/users/2").await.1.contains("hit"), "rows count one by one again");
    let late = Node::alone(&primary).await;
    late.warm(&["/users/1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_marked_is_followed_on_the_same_connection() {
    let (primary, _line, node) = followed().await;
    // Sequences keep what is rolled back.
    let refuse = "create sequence attempts; create sequence process; create sequence moved;
        create or replace function tidegate.mark(every interval, known_schema bigint) returns boolean
            language plpgsql security definer as $$ begin
                perform nextval('public.attempts');
                if (select is_called and last_value <> pg_backend_pid() from public.process) then
                    perform nextval('public.moved');
                end if;
                perform setval('public.process', pg_backend_pid());
                raise exception 'refused';
            end $$";
    primary.psql(refuse).await.unwrap();
    eventually("it is tried again", async || {
        primary.psql("select last_value >= 3 from attempts").await.unwrap() == "t"
    })
    .await;
    assert_eq!(primary.psql("select is_called from moved").await.unwrap(), "f");
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    node.sees("/users/1", "eve").await;
    node.warm(&["/users/2"]).await;
}

/// A process may have several runtimes, one after another, as tests and plug-ins do.
#[test]
fn a_cache_whose_listeners_runtime_has_ended_warns_and_accepts_another_listener() {
    keep_warnings();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let lasting = runtime();
    let server = lasting.block_on(primary(&[]));
    let cache = Cache::new(Memory::new(1 << 20));
    let follow = async || {
        let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
        Listener::spawn(&db, &cache).await
    };
    let first = runtime();
    first.block_on(follow()).unwrap();
    assert!(matches!(first.block_on(follow()), Err(DatabaseError::Attached)));
    drop(first);
    let second = runtime();
    let (key, policy) = (Key::new("unfollowed").finish(), ValuePolicy::ttl(TTL));
    let policy = policy.max_staleness(Duration::from_millis(1)).build().unwrap();
    let load = async || cache.get_or_load(&key, &policy, async || Ok::<_, ()>(1)).await.unwrap();
    let warned = || warnings(&["nothing follows the change log", &server.port().to_string()]);
    assert_eq!(warned(), 0);
    second.block_on(eventually("it is warned about", async || {
        load().await;
        warned() > 0
    }));
    second.block_on(load());
    assert_eq!(warned(), 1, "{}", all_warnings());
    let listener = second.block_on(follow()).unwrap();
    second.block_on(cache.invalidate(["page"])).unwrap();
    assert!(matches!(second.block_on(follow()), Err(DatabaseError::Attached)));
    listener.stop();
    second.block_on(eventually("stopped, it may be followed", async || follow().await.is_ok()));
    drop(second);
    lasting.block_on(async { drop(server) });
}
