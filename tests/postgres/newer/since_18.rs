//! What PostgreSQL 18 brought.

use tidegate::Triggers;
use tidegate_testing::Postgres;

use crate::common::with_causes;
use crate::schema::World;
use crate::world::{Node, connect, primary};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL 18: scripts/test --postgres 18"]
async fn an_update_that_returns_old_and_new_rows_is_a_write() {
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
#[ignore = "needs PostgreSQL 18: scripts/test --postgres 18"]
async fn a_result_follows_a_virtual_column_and_its_expression() {
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
#[ignore = "needs PostgreSQL 18: scripts/test --postgres 18"]
async fn a_virtual_column_cannot_be_tracked() {
    let server = Postgres::start().await.unwrap();
    let table = "create table t (id int primary key, v int generated always as (id + 1) virtual)";
    server.psql(table).await.unwrap();
    let tracked = Triggers::new().columns("t", &["v"]);
    let refused = tracked.install(&mut connect(&server).await).await.unwrap_err();
    assert!(with_causes(&refused).contains("virtual"), "{}", with_causes(&refused));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL 18: scripts/test --postgres 18"]
async fn rows_of_a_table_with_temporal_keys_are_followed() {
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
