//! A read in no scope may go into whatever is computed while it is under way.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;

use tidegate::{
    Cache, CacheLayer, Database, Entry, Event, Found, Key, Listener, Memory, Policy, Record, Store,
    StoreError, ValuePolicy,
};
use tidegate_testing::Postgres;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::common::ask;
use super::world::{TTL, options, primary};

const ITEMS: &str = "create table items (v int); insert into items values (1), (2)";

async fn bed(store: impl Store) -> (Postgres, Database, Cache) {
    let server = primary(&[]).await;
    server.psql(ITEMS).await.unwrap();
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(store);
    Listener::spawn(&db, &cache).await.unwrap();
    (server, db, cache)
}

fn memory() -> Memory {
    Memory::new(16 << 20)
}

fn key(name: &str) -> Key {
    Key::new("stray").part(name).finish()
}

fn values() -> ValuePolicy {
    ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).build().unwrap()
}

fn counted(cache: &Cache) -> (u64, u64) {
    (cache.counters().event(Event::Stored), cache.counters().event(Event::NotStored))
}

async fn user(db: &Database) -> String {
    let query = "select name from users where id = 1";
    sqlx::query_scalar(query).fetch_one(db.reader()).await.unwrap()
}

async fn items(db: &Database) -> i64 {
    sqlx::query_scalar("select sum(v) from items").fetch_one(db.reader()).await.unwrap()
}

/// A task that has begun to read the items, and goes on when it is told to.
async fn reading(db: &Database) -> (oneshot::Sender<()>, JoinHandle<i32>) {
    let (db, (go, wait), (begun, has_begun)) = (db.clone(), oneshot::channel(), oneshot::channel());
    let task = tokio::spawn(async move {
        let mut rows = sqlx::query_scalar::<_, i32>("select v from items").fetch(db.reader());
        let first = rows.next().await.unwrap().unwrap();
        begun.send(()).unwrap();
        wait.await.unwrap();
        first + rows.next().await.unwrap().unwrap()
    });
    has_begun.await.unwrap();
    (go, task)
}

#[tokio::test]
async fn a_read_outside_any_scope_that_ends_during_a_load_prevents_storing_the_value() {
    let (_server, db, cache) = bed(memory()).await;
    let (go, task) = reading(&db).await;
    let load = async || {
        go.send(()).unwrap();
        Ok::<_, ()>(format!("{} {}", user(&db).await, task.await.unwrap()))
    };
    assert_eq!(cache.get_or_load(&key("in flight"), &values(), load).await.unwrap(), "ada 3");
    assert_eq!(counted(&cache), (0, 1));
    // It is over, and of no concern to what is loaded from here on.
    let load = async || Ok::<_, ()>(user(&db).await);
    cache.get_or_load(&key("after"), &values(), load).await.unwrap();
    assert_eq!(counted(&cache), (1, 1));
}

type Taken = std::sync::Mutex<Option<(oneshot::Sender<()>, JoinHandle<String>)>>;

#[tokio::test]
async fn a_lookup_outside_any_scope_that_ends_during_a_request_prevents_storing_it() {
    let (_server, db, cache) = bed(memory()).await;
    let (go, wait) = oneshot::channel::<()>();
    let (begun, has_begun) = oneshot::channel();
    let lookup = tokio::spawn({
        let (db, cache) = (db.clone(), cache.clone());
        async move {
            let load = async || {
                begun.send(()).unwrap();
                wait.await.unwrap();
                Ok::<_, ()>(user(&db).await)
            };
            cache.get_or_load(&key("looked up"), &values(), load).await.unwrap()
        }
    });
    has_begun.await.unwrap();
    let handler = async |State((db, taken)): State<(Database, Arc<Taken>)>| {
        let name = user(&db).await;
        let (go, lookup) = taken.lock().unwrap().take().unwrap();
        go.send(()).unwrap();
        name + &lookup.await.unwrap()
    };
    let taken = Arc::new(Taken::new(Some((go, lookup))));
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL)))
        .with_state((db, taken));
    let (body, status) = ask(&app, "/").await;
    assert!(body == "adaada" && status.contains("stray-read"), "{body} {status}");
}

#[tokio::test]
async fn a_value_that_uses_a_task_spawned_before_its_load_is_not_stored() {
    let (_server, db, cache) = bed(memory()).await;
    let state = (db, cache.clone());
    let handler = async |State((db, cache)): State<(Database, Cache)>| {
        let task = tokio::spawn({
            let db = db.clone();
            async move { items(&db).await }
        });
        while !task.is_finished() {
            tokio::task::yield_now().await;
        }
        let load = async || Ok::<_, ()>(format!("{} {}", user(&db).await, task.await.unwrap()));
        cache.get_or_load(&key("spawned"), &values(), load).await.unwrap()
    };
    let layer = CacheLayer::new(cache.clone());
    let app = Router::new().route("/", get(handler)).layer(layer).with_state(state);
    assert_eq!(ask(&app, "/").await.0, "ada 3");
    assert_eq!(counted(&cache), (0, 1));
}

/// What is in it is found once it is said so.
#[derive(Debug)]
struct Slow {
    memory: Memory,
    asked: Arc<Notify>,
    responds: Arc<Notify>,
}

impl Store for Slow {
    fn peek(&self, key: &Key) -> Option<Found> {
        self.memory.peek(key)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async {
            self.asked.notify_one();
            self.responds.notified().await;
            self.memory.get(key).await
        })
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        self.memory.put(key, entry)
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.memory.remove(key)
    }
}

#[tokio::test]
async fn a_read_outside_any_scope_during_the_store_lookup_prevents_storing_the_value() {
    let (asked, responds) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let store = Slow { memory: memory(), asked: asked.clone(), responds: responds.clone() };
    let (_server, db, cache) = bed(store).await;
    let read = async {
        asked.notified().await;
        let read = items(&db).await;
        responds.notify_one();
        read
    };
    let (send, sent) = oneshot::channel();
    let load = async || Ok::<_, ()>(format!("{} {}", user(&db).await, sent.await.unwrap()));
    let (key, values) = (key("slow"), values());
    let lookup = cache.get_or_load(&key, &values, load);
    let (value, ()) = tokio::join!(lookup, async { send.send(read.await).unwrap() });
    assert_eq!(value.unwrap(), "ada 3");
    assert_eq!(counted(&cache), (0, 1));
}

#[tokio::test]
async fn a_lookup_outside_any_scope_does_not_prevent_storing_its_own_results() {
    let (_server, db, cache) = bed(memory()).await;
    let policy = Policy::ttl(TTL);
    let app = Router::new()
        .route("/", get(async |State(db): State<Database>| user(&db).await))
        .layer(CacheLayer::with_policy(cache.clone(), policy))
        .with_state(db.clone());
    let load = async || {
        let apart = Record::detached(async {
            let load = async || Ok::<_, ()>(user(&db).await);
            cache.get_or_load(&key("apart"), &values(), load).await
        });
        Ok::<_, ()>(format!("{} {}", ask(&app, "/").await.0, apart.await?))
    };
    assert_eq!(cache.get_or_load(&key("outer"), &values(), load).await.unwrap(), "ada ada");
    // The response, the value apart and the value of both.
    assert_eq!(counted(&cache), (3, 0));
}
