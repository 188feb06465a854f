//! What PostgreSQL 17 brought.

use tidegate::{Policy, Triggers, ValuePolicy};

use crate::common::eventually;
use crate::failover::Pair;
use crate::schema::World;
use crate::world::{Node, TTL, primary};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL 17: scripts/test --postgres 17"]
async fn a_merge_that_returns_rows_is_a_write() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1", "/users"]).await;
    let merge = "merge into users u using (values (1, 'eve')) v (id, name) on u.id = v.id
        when matched then update set name = v.name || length(u.name) returning u.name";
    let returned: String = sqlx::query_scalar(merge).fetch_one(node.db.writer()).await.unwrap();
    assert_eq!(returned, "eve3");
    node.sees("/users/1", "eve3").await;
    node.sees("/users", "eve3 bob").await;
    // As a part of what looks like a read, too: run each time, and nothing of it kept.
    let part = format!("with merged as ({merge}) select name from merged");
    let cached = node.db.cached(&node.cache, ValuePolicy::ttl(TTL).build().unwrap());
    for name in ["eve4", "eve4"] {
        let query = sqlx::query(sqlx::AssertSqlSafe(part.clone()));
        assert_eq!(cached.fetch_one::<(String,)>(query).await.unwrap().0, name);
        node.sees("/users/1", name).await;
        primary.psql("update users set name = 'ida4' where id = 1").await.unwrap();
        node.sees("/users/1", "ida4").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL 17: scripts/test --postgres 17"]
async fn a_result_follows_a_stored_column_whose_expression_changes() {
    let setup = "create table items (id int primary key, n int, twice int generated always as (n * 2) stored);
        insert into items values (1, 2)";
    for noted in [false, true] {
        let tracked = Triggers::new().columns("items", &["twice"]);
        let queries = [
            "select twice::text from items where id = 1",
            "select id::text from items where twice = 6",
        ];
        let world = World::new(noted, setup, tracked, &queries).await;
        assert_eq!((world.warm(0).await, world.warm(1).await), ("4".into(), String::new()));
        world.psql("alter table items alter twice set expression as (n * 3)").await;
        world.becomes(0, "6", "another expression").await;
        world.becomes(1, "1", "another expression").await;
    }
}

/// A standby that keeps copies of the primary's logical slots takes over.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL 17: scripts/test --postgres 17"]
async fn a_standby_with_failover_slots_takes_over() {
    let mut pair = Pair::with(&[("wal_level", "logical")], &Policy::ttl(TTL)).await;
    let slots = "select pg_create_logical_replication_slot('feed', 'pgoutput', failover => true);
        select pg_create_physical_replication_slot('standby')";
    pair.primary.psql(slots).await.unwrap();
    let conninfo =
        "select setting || ' dbname=postgres' from pg_settings where name = 'primary_conninfo'";
    let conninfo = pair.standby.psql(conninfo).await.unwrap().replace('\'', "''");
    for setting in [
        &format!("alter system set primary_conninfo = '{conninfo}'"),
        "alter system set primary_slot_name = 'standby'",
        "alter system set hot_standby_feedback = on",
        "alter system set sync_replication_slots = on",
        "select pg_reload_conf()",
    ] {
        pair.standby.psql(setting).await.unwrap();
    }
    let synced = "select count(*) from pg_replication_slots where synced and not temporary";
    eventually("the slot is on the standby", async || {
        pair.primary.psql("select pg_log_standby_snapshot()").await.unwrap();
        pair.standby.psql(synced).await.unwrap() == "1"
    })
    .await;
    pair.node.warm(&["/users/1", "/users/2"]).await;
    pair.fail_over().await;
    assert!(pair.node.get("/users/1").await.1.contains("old-epoch"));
    pair.node.warm(&["/users/1"]).await;
    pair.standby.psql("update users set name = 'eve' where id = 1").await.unwrap();
    pair.node.sees("/users/1", "eve").await;
}
