//! A read in no scope may go into whatever is computed while it is under way.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::get;
use futures_util::StreamExt;

use tidegate::{
    Cache, CacheLayer, Database, Event, Key, Listener, Memory, Policy, Record, ScopeLayer, Store,
};
use tidegate_testing::Postgres;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::common::hooked::{HookedStore, StoreCall};
use super::common::warnings::{all_warnings, keep_warnings, warnings};
use super::common::{fetch, values};
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
    Key::new("unscoped").part(name).finish()
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

/// A task that has begun to read the items, and continues after a message.
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
    let (body, status) = fetch(&app, "/").await;
    assert!(body == "adaada" && status.contains("unscoped-read"), "{body} {status}");
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
    assert_eq!(fetch(&app, "/").await.0, "ada 3");
    assert_eq!(counted(&cache), (0, 1));
}

#[tokio::test]
async fn a_read_outside_any_scope_during_the_store_lookup_prevents_storing_the_value() {
    let (requested, responds) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let store = HookedStore::new({
        let (requested, responds) = (requested.clone(), responds.clone());
        move |call| {
            let (requested, responds) = (requested.clone(), responds.clone());
            Box::pin(async move {
                if call == StoreCall::Get {
                    requested.notify_one();
                    responds.notified().await;
                }
                Ok(())
            })
        }
    });
    let (_server, db, cache) = bed(store).await;
    let read = async {
        requested.notified().await;
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
        Ok::<_, ()>(format!("{} {}", fetch(&app, "/").await.0, apart.await?))
    };
    assert_eq!(cache.get_or_load(&key("outer"), &values(), load).await.unwrap(), "ada ada");
    // The response, the value apart and the value of both.
    assert_eq!(counted(&cache), (3, 0));
}

/// What a handler waits for after its own read.
#[derive(Clone, Default)]
struct Pause {
    reached: Arc<Notify>,
    ends: Arc<Notify>,
}

/// A router whose layer around the cache reads the items, and whose handler of `/slow` waits after its read.
fn guarded(db: &Database, cache: &Cache, pause: &Pause) -> Router {
    let authenticate =
        async |State(db): State<Database>, request: Request, next: Next| -> Response {
            items(&db).await;
            next.run(request).await
        };
    let slow = async |State((db, pause)): State<(Database, Pause)>| {
        let name = user(&db).await;
        pause.reached.notify_one();
        pause.ends.notified().await;
        name
    };
    Router::new()
        .route("/slow", get(slow))
        .route("/", get(async |State((db, _)): State<(Database, Pause)>| user(&db).await))
        .layer(CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL)))
        .layer(from_fn_with_state(db.clone(), authenticate))
        .with_state((db.clone(), pause.clone()))
}

/// The status of a response that is computed while another request passes through the layers.
async fn status_beside_another_request(app: &Router, pause: &Pause) -> String {
    let other = async {
        pause.reached.notified().await;
        fetch(app, "/").await;
        pause.ends.notify_one();
    };
    tokio::join!(fetch(app, "/slow"), other).0.1
}

#[tokio::test]
async fn reads_of_a_layer_around_the_cache_prevent_storing_only_outside_a_scope() {
    let (_server, db, cache) = bed(memory()).await;
    let pause = Pause::default();
    let app = guarded(&db, &cache, &pause);
    let status = status_beside_another_request(&app, &pause).await;
    assert!(status.contains("unscoped-read"), "{status}");
    assert_eq!(cache.counters().event(Event::UnscopedRead), 1);
    let status = status_beside_another_request(&app.layer(ScopeLayer), &pause).await;
    assert!(status.contains("stored"), "{status}");
    assert_eq!(cache.counters().event(Event::UnscopedRead), 1);
}

#[tokio::test]
async fn reads_in_the_background_prevent_storing_only_by_an_ordinary_database() {
    let (_server, db, cache) = bed(memory()).await;
    let stored_beside = async |name, other: Database| {
        let load = async || {
            let work = async move {
                items(&other).await;
                other.begin_read_only().await.unwrap().rollback().await.unwrap();
                other.primary();
            };
            tokio::spawn(work).await.unwrap();
            Ok::<_, ()>(user(&db).await)
        };
        let before = counted(&cache).0;
        cache.get_or_load(&key(name), &values(), load).await.unwrap();
        counted(&cache).0 > before
    };
    assert!(!stored_beside("ordinary", db.clone()).await);
    assert!(stored_beside("background", db.background()).await);
}

#[tokio::test]
async fn a_read_by_a_background_database_in_a_handler_counts() {
    let (server, db, cache) = bed(memory()).await;
    let handler = async |State(db): State<Database>| items(&db).await.to_string();
    let app = Router::new()
        .route("/", get(handler))
        .layer(CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL)))
        .with_state(db.background());
    tidegate::Triggers::new()
        .table("items")
        .install(&mut super::world::connect(&server).await)
        .await
        .unwrap();
    super::common::eventually("a hit", async || fetch(&app, "/").await.1.contains("hit")).await;
    server.psql("update items set v = v + 10").await.unwrap();
    super::common::eventually("the new sum", async || fetch(&app, "/").await.0 == "23").await;
}

#[tokio::test]
async fn a_statement_outside_any_scope_is_named_once_and_without_its_constants() {
    keep_warnings();
    let (_server, db, cache) = bed(memory()).await;
    for name in ["first", "second"] {
        let load = async || {
            let other = db.clone();
            let read = tokio::spawn(async move {
                let query = r#"select "name" from users where name = 'secret' and id = any ($1)"#;
                sqlx::query(query).bind([1]).execute(other.reader()).await.unwrap();
            });
            read.await.unwrap();
            Ok::<_, ()>(user(&db).await)
        };
        cache.get_or_load(&key(name), &values(), load).await.unwrap();
    }
    let outline = r#"select "name" from users where name = ? and id = any (?)"#;
    assert_eq!(warnings(&[outline, "ScopeLayer", "Record::carry"]), 1, "{}", all_warnings());
    assert_eq!(warnings(&["secret"]), 0, "{}", all_warnings());
}

#[tokio::test]
async fn a_service_with_a_scope_of_its_own_counts_for_the_handler_that_calls_it() {
    let (server, db, cache) = bed(memory()).await;
    tidegate::Triggers::new()
        .table("items")
        .install(&mut super::world::connect(&server).await)
        .await
        .unwrap();
    let inner = Router::new()
        .route("/items", get(async |State(db): State<Database>| items(&db).await.to_string()))
        .layer(CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL)))
        .layer(ScopeLayer)
        .with_state(db.clone());
    let page = async |State((db, inner)): State<(Database, Router)>| {
        format!("{} {}", user(&db).await, fetch(&inner, "/items").await.0)
    };
    let app = Router::new()
        .route("/page", get(page))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .with_state((db, inner));
    super::common::eventually("a hit", async || fetch(&app, "/page").await.1.contains("hit")).await;
    server.psql("update items set v = v + 10").await.unwrap();
    super::common::eventually("the new sum", async || fetch(&app, "/page").await.0 == "ada 23")
        .await;
}

#[tokio::test]
async fn a_handler_sees_the_writes_of_a_layer_around_the_cache() {
    let (server, db, cache) = bed(memory()).await;
    let standby = server.standby().await.unwrap();
    db.add_replica(standby.url()).await.unwrap();
    standby.pause_replay().await.unwrap();
    let log = async |State(db): State<Database>, request: Request, next: Next| -> Response {
        let update = sqlx::query("update users set name = 'eve' where id = 1");
        update.execute(db.writer()).await.unwrap();
        next.run(request).await
    };
    let app = Router::new()
        .route("/", get(async |State(db): State<Database>| user(&db).await))
        .layer(CacheLayer::with_policy(cache, Policy::ttl(TTL)))
        .layer(from_fn_with_state(db.clone(), log))
        .layer(ScopeLayer)
        .with_state(db);
    assert_eq!(fetch(&app, "/").await.0, "eve");
}
