//! Values of a Rust type, many at a time, and values that there are none of.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::eventually;
use sqlx::Connection;
use tidegate::{
    Cache, Database, DatabaseOptions, Event, Key, Listener, Memory, MissReason, Outcome, Triggers,
    ValuePolicy, ValuePolicyBuilder,
};
use tidegate_testing::Postgres;
use tokio::sync::Semaphore;

const TTL: Duration = Duration::from_mins(1);

#[expect(clippy::trivially_copy_pass_by_ref, reason = "ids of any size are passed so")]
fn key(id: &i32) -> Key {
    Key::new("user").part(id.to_string()).finish()
}

fn by_row() -> ValuePolicy {
    by_row_builder().build().unwrap()
}

fn by_row_builder() -> ValuePolicyBuilder {
    ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).tag("users:id={id}")
}

/// The requested ids, call by call.
type Calls = Arc<Mutex<Vec<Vec<i32>>>>;

/// All there are below 100, each by its number.
fn numbered(
    calls: &Calls,
) -> impl AsyncFnOnce(Vec<i32>) -> Result<HashMap<i32, String>, &'static str> + Clone {
    let calls = calls.clone();
    async move |mut ids: Vec<i32>| {
        ids.sort_unstable();
        calls.lock().unwrap().push(ids.clone());
        Ok(ids.into_iter().filter(|id| *id < 100).map(|id| (id, format!("user {id}"))).collect())
    }
}

#[tokio::test]
async fn missing_values_are_loaded_in_one_batch_and_each_once() {
    let (cache, calls) = (Cache::new(Memory::new(1 << 20)), Calls::default());
    let get = async |ids: &[i32]| {
        cache.get_many(ids.iter().copied(), key, &by_row(), numbered(&calls)).await.unwrap()
    };
    assert_eq!(get(&[1, 2, 2, 1]).await.len(), 2);
    let found = get(&[1, 2, 3, 200]).await;
    assert_eq!((found.len(), found[&3].as_str()), (3, "user 3"));
    assert_eq!(*calls.lock().unwrap(), [vec![1, 2], vec![3, 200]]);
    // One at a time they are the same values.
    let policy = by_row().for_id(1);
    let one = cache.get_or_load(&key(&1), &policy, async || Ok::<_, ()>("other".to_owned())).await;
    assert_eq!(one.unwrap(), "user 1");
    cache.invalidate(["users:id=2"]).await.unwrap();
    get(&[1, 2, 3]).await;
    assert_eq!(calls.lock().unwrap()[2], [2], "the others do not depend on its row");
    cache.invalidate(["users"]).await.unwrap();
    get(&[1, 2, 3]).await;
    assert_eq!(calls.lock().unwrap()[3], [1, 2, 3], "a table covers its rows");
}

#[tokio::test(start_paused = true)]
async fn an_absent_value_is_stored_only_if_the_policy_sets_a_negative_ttl() {
    let cache = Cache::new(Memory::new(1 << 20));
    for (policy, loads) in
        [(by_row(), 3), (by_row_builder().negative_ttl(Duration::from_secs(5)).build().unwrap(), 2)]
    {
        let calls = Calls::default();
        let none = Key::new("none").part(loads.to_string()).finish();
        for wait in [0, 0, 6] {
            tokio::time::advance(Duration::from_secs(wait)).await;
            let found = cache
                .find_or_load(&none, &policy.for_id(0), async || {
                    calls.lock().unwrap().push(vec![]);
                    Ok::<Option<String>, ()>(None)
                })
                .await;
            assert_eq!(found, Ok(None));
        }
        assert_eq!(calls.lock().unwrap().len(), loads);
        // Many at a time as well.
        let calls = Calls::default();
        for _ in 0..2 {
            let found = cache.get_many([500, 501], key, &policy, numbered(&calls)).await.unwrap();
            assert!(found.is_empty());
        }
        assert_eq!(calls.lock().unwrap().len(), if loads == 3 { 2 } else { 1 });
    }
    // A call without such an entry loads.
    let policy = by_row_builder().negative_ttl(TTL).build().unwrap().for_id(7);
    let none = async || Ok::<Option<u32>, ()>(None);
    assert_eq!(cache.find_or_load(&key(&7), &policy, none).await, Ok(None));
    assert_eq!(cache.get_or_load(&key(&7), &policy, async || Ok::<u32, ()>(7)).await, Ok(7));
}

#[tokio::test]
async fn two_batches_in_opposite_order_wait_for_each_other_without_a_deadlock() {
    let (cache, calls) = (Cache::new(Memory::new(1 << 20)), Calls::default());
    let gate = Arc::new(Semaphore::new(0));
    let load = |ids: Vec<i32>| {
        let (calls, gate) = (calls.clone(), gate.clone());
        async move {
            calls.lock().unwrap().push(ids.clone());
            gate.acquire().await.unwrap().forget();
            Ok::<_, ()>(ids.into_iter().map(|id| (id, id)).collect::<HashMap<_, _>>())
        }
    };
    let policy = by_row_builder().wait(TTL).build().unwrap();
    let get = |ids: [i32; 3]| cache.get_many(ids, key, &policy, load);
    let opened = async {
        eventually("both load", async || calls.lock().unwrap().len() == 2).await;
        gate.add_permits(9);
    };
    // The first takes 1, 2 and 3; the second takes 4 and waits for 2 and 3.
    let (one, other, ()) = tokio::join!(get([1, 2, 3]), get([4, 3, 2]), opened);
    assert_eq!((one.unwrap().len(), other.unwrap().len()), (3, 3));
    assert_eq!(*calls.lock().unwrap(), [vec![1, 2, 3], vec![4]]);
}

#[tokio::test(start_paused = true)]
async fn a_failed_load_is_an_error_unless_every_missing_value_has_a_stale_one() {
    let cache = Cache::new(Memory::new(1 << 20));
    let policy = by_row_builder().stale_if_error(TTL).build().unwrap();
    let calls = Calls::default();
    cache.get_many([1, 2], key, &policy, numbered(&calls)).await.unwrap();
    tokio::time::advance(TTL + Duration::from_secs(1)).await;
    let failing = async |_: Vec<i32>| Err::<HashMap<i32, String>, _>("down");
    let found = cache.get_many([1, 2], key, &policy, failing).await.unwrap();
    assert_eq!(found[&2], "user 2");
    assert_eq!(cache.get_many([1, 3], key, &policy, failing).await, Err("down"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_may_be_larger_than_the_number_of_permits() {
    let cache = Cache::with_limits(Memory::new(1 << 20), 1 << 16, 1);
    let calls = Calls::default();
    let found = cache.get_many(0..100, key, &by_row(), numbered(&calls)).await.unwrap();
    assert_eq!((found.len(), calls.lock().unwrap().len()), (100, 1));
    assert_eq!(cache.loads(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_recomputes_the_stale_values_that_it_finds() {
    let cache = Cache::new(Memory::new(1 << 20));
    let policy = by_row_builder().stale_while_revalidate(TTL).build().unwrap();
    let calls = Calls::default();
    for after in [0, 61, 1] {
        tokio::time::advance(Duration::from_secs(after)).await;
        cache.get_many([1, 2], key, &policy, numbered(&calls)).await.unwrap();
    }
    assert_eq!(calls.lock().unwrap().len(), 2);
}

async fn names(db: &Database, ids: Vec<i32>) -> Result<HashMap<i32, String>, sqlx::Error> {
    let query = sqlx::query_as("select id, name from users where id = any ($1)").bind(ids);
    Ok(query.fetch_all(db.reader()).await?.into_iter().collect())
}

#[tokio::test]
async fn a_changed_row_invalidates_its_own_value_and_no_other() {
    let server = Postgres::start().await.unwrap();
    let table = "create table users (id int primary key, name text);
                 insert into users select i, 'user ' || i from generate_series(1, 50) i";
    server.psql(table).await.unwrap();
    let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    Triggers::new().table("users").install(&mut conn).await.unwrap();
    let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = by_row_builder().negative_ttl(TTL).build().unwrap();
    let get = async || {
        cache.get_many(1..=51, key, &policy, async |ids| names(&db, ids).await).await.unwrap()
    };
    assert_eq!(get().await.len(), 50);
    assert_eq!(cache.counters().event(Event::Stored), 51);
    server
        .psql("update users set name = 'new' where id = 7; insert into users values (51, 'late')")
        .await
        .unwrap();
    let seen = async || {
        let found = get().await;
        found[&7] == "new" && found.get(&51).is_some_and(|name| name == "late")
    };
    eventually("both changes are seen", seen).await;
    let changed = cache.counters().outcome(Outcome::Miss(MissReason::Changed));
    assert_eq!(changed, 2, "and 49 others are as they were");
    // A change of every row is one of each.
    server.psql("update users set name = 'all'").await.unwrap();
    eventually("all are seen", async || get().await.values().all(|name| name == "all")).await;
}
