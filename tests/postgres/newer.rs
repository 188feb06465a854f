//! What PostgreSQL 17 and 18 brought. On a server that is older, a test says that it was not tried.

use tidegate::{Policy, Triggers, ValuePolicy};
use tidegate_testing::Postgres;

use super::common::{eventually, told};
use super::failover::Pair;
use super::schema::World;
use super::world::{Node, TTL, connect, primary};

async fn is_older_than(wanted: u32) -> bool {
    let server = Postgres::start().await.unwrap();
    let version = server.psql("show server_version_num").await.unwrap();
    let older = version.parse::<u32>().unwrap() / 10_000 < wanted;
    if older {
        eprintln!("not tried: the installed server is older than PostgreSQL {wanted}");
    }
    older
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_that_returns_rows_is_a_write() {
    if is_older_than(17).await {
        return;
    }
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
async fn an_update_that_returns_old_and_new_rows_is_a_write() {
    if is_older_than(18).await {
        return;
    }
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    let update = "update users set name = 'eve' where id = 1 returning old.name || new.name";
    let returned: String = sqlx::query_scalar(update).fetch_one(node.db.writer()).await.unwrap();
    assert_eq!(returned, "adaeve");
    node.sees("/users/1", "eve").await;
}

/// Triggers do not see values of virtual columns: their rows are found by the columns they are computed from.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_follows_a_virtual_column_and_its_expression() {
    if is_older_than(18).await {
        return;
    }
    let setup = "create table items (id int primary key, price int, n int,
            total int generated always as (price * n));
        insert into items values (1, 2, 3), (2, 3, 4)";
    for noted in [false, true] {
        let tracked = Triggers::new().columns("items", &["price"]);
        let queries = [
            "select total::text from items where id = 1",
            "select id::text from items where total = 12 order by id",
        ];
        let world = World::new(noted, setup, tracked, &queries).await;
        assert_eq!((world.warm(0).await, world.warm(1).await), ("6".into(), "2".into()));
        world.psql("update items set price = 4 where id = 1").await;
        world.becomes(0, "12", "another price").await;
        world.becomes(1, "1 2", "another price").await;
        world.warm(0).await;
        world.psql("alter table items alter total set expression as (price + n)").await;
        world.becomes(0, "7", "another expression").await;
        world.becomes(1, "", "another expression").await;
    }
}

#[tokio::test]
async fn a_virtual_column_cannot_be_tracked() {
    if is_older_than(18).await {
        return;
    }
    let server = Postgres::start().await.unwrap();
    let table = "create table t (id int primary key, v int generated always as (id + 1) virtual)";
    server.psql(table).await.unwrap();
    let tracked = Triggers::new().columns("t", &["v"]);
    let refused = tracked.install(&mut connect(&server).await).await.unwrap_err();
    assert!(told(&refused).contains("virtual"), "{}", told(&refused));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_follows_a_stored_column_whose_expression_changes() {
    if is_older_than(17).await {
        return;
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_a_table_with_temporal_keys_are_followed() {
    if is_older_than(18).await {
        return;
    }
    let setup = "create extension btree_gist;
        create table rooms (id int, during daterange, price int, primary key (id, during without overlaps));
        create table bookings (id int primary key, room int, during daterange,
            foreign key (room, period during) references rooms (id, period during));
        insert into rooms values (1, '[2026-01-01,2027-01-01)', 10), (2, '[2026-01-01,2027-01-01)', 20);
        insert into bookings values (1, 1, '[2026-02-01,2026-02-03)')";
    let tracked = Triggers::new().table("rooms").columns("bookings", &["room"]);
    let queries = [
        "select price::text from rooms where id = 1 order by during",
        "select b.id::text from bookings b join rooms r on r.id = b.room and b.during <@ r.during",
    ];
    let world = World::new(true, setup, tracked, &queries).await;
    assert_eq!((world.warm(0).await, world.warm(1).await), ("10".into(), "1".into()));
    world.psql("insert into rooms values (1, '[2027-01-01,)', 30)").await;
    world.becomes(0, "10 30", "another period").await;
    world.warm(0).await;
    world.psql("update rooms set price = 11 where id = 1 and during @> date '2026-05-01'").await;
    world.becomes(0, "11 30", "another price").await;
    world.psql("insert into bookings values (2, 1, '[2026-03-01,2026-03-02)')").await;
    world.becomes(1, "1 2", "another booking").await;
}

/// A standby that keeps copies of the primary's logical slots takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_with_failover_slots_takes_over() {
    if is_older_than(17).await {
        return;
    }
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
