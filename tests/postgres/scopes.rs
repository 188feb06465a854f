//! What is computed of other things that are cached depends on all that they depend on, however they are put together.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use tidegate::{
    Cache, CacheLayer, Database, Key, Listener, Memory, Outcome, Policy, Position, Record,
    Triggers, ValuePolicy,
};
use tidegate_testing::Postgres;

use super::common::{eventually, fetch, values};
use super::world::{TTL, connect, options, primary};

const ITEMS: &str =
    "create table items (id int primary key, v int); insert into items values (1, 0)";

/// Ways to read an item.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Inner {
    Reader,
    Cached,
    One,
    Perhaps,
    Many,
    Router,
}

const INNER: [Inner; 6] =
    [Inner::Reader, Inner::Cached, Inner::One, Inner::Perhaps, Inner::Many, Inner::Router];

/// Ways to compute something of it.
#[derive(Clone, Copy, Debug)]
enum Outer {
    Route,
    One,
    Perhaps,
    Many,
}

const OUTER: [Outer; 4] = [Outer::Route, Outer::One, Outer::Perhaps, Outer::Many];

fn policy() -> Policy {
    Policy::ttl(TTL).jitter(0.0).early_refresh(0.0)
}

fn key(of: &str, name: &str) -> Key {
    Key::new(of).part(name).finish()
}

/// What there is to compute if it is not cached.
type Load = Box<dyn FnOnce() -> BoxFuture<'static, String> + Send>;

struct Bed {
    server: Postgres,
    db: Database,
    cache: Cache,
    /// How often something was computed of the item.
    computed: AtomicUsize,
}

impl Bed {
    async fn new() -> Arc<Self> {
        let server = primary(&[]).await;
        server.psql(ITEMS).await.unwrap();
        Triggers::new().table("items").install(&mut connect(&server).await).await.unwrap();
        let db = options(&server).connect().await.unwrap();
        let cache = Cache::new(Memory::new(16 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        Arc::new(Self { server, db, cache, computed: AtomicUsize::new(0) })
    }

    fn layer(&self) -> CacheLayer {
        CacheLayer::new(self.cache.clone())
            .route("/item/{name}", policy())
            .route("/outer/{way}/{name}", policy())
    }

    fn router(self: &Arc<Self>) -> Router {
        let item = async |State(bed): State<Arc<Self>>| bed.read().await;
        let outer = async |State(bed): State<Arc<Self>>,
                           Path((way, name)): Path<(usize, String)>| {
            bed.compute(INNER[way], &name).await
        };
        Router::new()
            .route("/item/{name}", get(item))
            .route("/outer/{way}/{name}", get(outer))
            .layer(self.layer())
            .with_state(self.clone())
    }

    async fn read(&self) -> String {
        let query = "select v::text from items where id = 1";
        sqlx::query_scalar(query).fetch_one(self.db.reader()).await.unwrap()
    }

    /// The item, by one of the ways, under a name of its own.
    fn item(self: &Arc<Self>, way: Inner, name: &str) -> BoxFuture<'static, String> {
        let (bed, cache, name) = (self.clone(), self.cache.clone(), name.to_owned());
        let load: Load = {
            let bed = self.clone();
            Box::new(move || Box::pin(async move { bed.read().await }))
        };
        match way {
            Inner::Reader => load(),
            Inner::Cached => cached(bed, name),
            Inner::Router => {
                Box::pin(async move { fetch(&bed.router(), &format!("/item/{name}")).await.0 })
            }
            Inner::One => value(cache, key("one", &name), load),
            Inner::Perhaps => perhaps(cache, key("perhaps", &name), load),
            Inner::Many => many(cache, key("many", &name), load),
        }
    }

    /// Something that holds the item and a name.
    async fn compute(self: &Arc<Self>, way: Inner, name: &str) -> String {
        self.computed.fetch_add(1, Ordering::SeqCst);
        let query = "select name from users where id = 1";
        let item = self.item(way, name).await;
        let user: String = sqlx::query_scalar(query).fetch_one(self.db.reader()).await.unwrap();
        format!("{user} {item}")
    }

    fn outer(self: &Arc<Self>, outer: Outer, way: Inner, name: &str) -> BoxFuture<'static, String> {
        let (bed, cache, name) = (self.clone(), self.cache.clone(), name.to_owned());
        let compute: Load = {
            let (bed, name) = (bed.clone(), name.clone());
            Box::new(move || Box::pin(async move { bed.compute(way, &name).await }))
        };
        match outer {
            Outer::Route => Box::pin(async move {
                let index = INNER.iter().position(|one| *one == way).unwrap();
                fetch(&bed.router(), &format!("/outer/{index}/{name}")).await.0
            }),
            Outer::One => value(cache, key("outer", &name), compute),
            Outer::Perhaps => perhaps(cache, key("outer perhaps", &name), compute),
            Outer::Many => many(cache, key("outers", &name), compute),
        }
    }

    fn computed(&self) -> usize {
        self.computed.load(Ordering::SeqCst)
    }

    /// It is in the cache, and a change of the item is seen in it.
    async fn falls_with_the_item(
        self: &Arc<Self>,
        conn: &mut PgConnection,
        what: &str,
        outer: impl AsyncFn() -> String,
    ) {
        // A change that the node received just now may keep the first from being stored.
        eventually(&format!("{what} is kept"), async || {
            outer().await;
            let before = self.computed();
            outer().await;
            self.computed() == before
        })
        .await;
        let update = "update items set v = v + 1 returning v::text";
        let new: String = sqlx::query_scalar(update).fetch_one(conn).await.unwrap();
        let sees = async || outer().await.ends_with(&format!(" {new}"));
        eventually(&format!("{what} shows the change"), sees).await;
    }
}

fn value(cache: Cache, key: Key, load: Load) -> BoxFuture<'static, String> {
    Box::pin(async move {
        let load = move || load().map(Ok::<_, ()>);
        cache.get_or_load(&key, &values(), load).await.unwrap()
    })
}

fn perhaps(cache: Cache, key: Key, load: Load) -> BoxFuture<'static, String> {
    Box::pin(async move {
        let load = move || load().map(|loaded| Ok::<_, ()>(Some(loaded)));
        cache.find_or_load(&key, &values(), load).await.unwrap().unwrap()
    })
}

fn many(cache: Cache, key: Key, load: Load) -> BoxFuture<'static, String> {
    // There is one load, of one id.
    let load = Arc::new(Mutex::new(Some(load)));
    let load = async move |ids: Vec<i32>| {
        let load = load.lock().unwrap().take().unwrap();
        let loaded = load().await;
        Ok::<_, ()>(ids.into_iter().map(|id| (id, loaded.clone())).collect::<HashMap<_, _>>())
    };
    let keys = move |_: &i32| key.clone();
    Box::pin(async move {
        let found = cache.get_many([1], keys, &values(), load).await;
        found.unwrap().remove(&1).unwrap()
    })
}

fn cached(bed: Arc<Bed>, name: String) -> BoxFuture<'static, String> {
    Box::pin(async move {
        let query = sqlx::query("select v::text, $1 from items where id = 1").bind(name);
        let cached = bed.db.cached(&bed.cache, values());
        cached.fetch_one::<(String, String)>(query).await.unwrap().0
    })
}

#[tokio::test]
async fn a_result_that_uses_a_cached_value_is_invalidated_with_it() {
    let bed = Bed::new().await;
    let mut conn = connect(&bed.server).await;
    for outer in OUTER {
        for inner in INNER {
            for warm in [false, true] {
                let what =
                    format!("{outer:?} of {inner:?}, {}", if warm { "found" } else { "loaded" });
                if warm {
                    bed.item(inner, &what.replace(' ', "-")).await;
                }
                let name = what.replace(' ', "-");
                let compute = async || bed.outer(outer, inner, &name).await;
                bed.falls_with_the_item(&mut conn, &what, compute).await;
            }
        }
    }
}

#[tokio::test]
async fn a_result_that_uses_a_value_loaded_by_another_request_is_invalidated_with_it() {
    let bed = Bed::new().await;
    let mut conn = connect(&bed.server).await;
    let mut lock = connect(&bed.server).await;
    for inner in INNER {
        // What its statements depend on is known from here on.
        bed.item(inner, "before").await;
        bed.outer(Outer::One, inner, "before").await;
    }
    for outer in OUTER {
        for inner in INNER.into_iter().filter(|inner| *inner != Inner::Reader) {
            let what = format!("{outer:?}-of-{inner:?}-that-another-loads");
            let begin = "begin; lock table items in access exclusive mode";
            sqlx::raw_sql(begin).execute(&mut lock).await.unwrap();
            let (before, collapsed) =
                (bed.computed(), bed.cache.counters().outcome(Outcome::Collapsed));
            let other = tokio::spawn({
                let (bed, name) = (bed.clone(), what.clone());
                async move { Record::detached(bed.item(inner, &name)).await }
            });
            let waits = "select count(*) from pg_locks where not granted";
            let mut look = connect(&bed.server).await;
            eventually("the other loads", async || {
                sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut look).await.unwrap() == 1
            })
            .await;
            let computed = tokio::spawn({
                let (bed, name) = (bed.clone(), what.clone());
                async move { Record::detached(bed.outer(outer, inner, &name)).await }
            });
            eventually("this one waits for it", async || bed.computed() > before).await;
            sqlx::raw_sql("commit").execute(&mut lock).await.unwrap();
            other.await.unwrap();
            computed.await.unwrap();
            assert_eq!(bed.cache.counters().outcome(Outcome::Collapsed), collapsed + 1, "{what}");
            let before = bed.computed();
            let compute = async || Record::detached(bed.outer(outer, inner, &what)).await;
            compute().await;
            assert_eq!(bed.computed(), before, "{what} is kept");
            bed.falls_with_the_item(&mut conn, &what, compute).await;
        }
    }
}

#[tokio::test]
async fn a_change_is_seen_through_several_nested_caches() {
    let bed = Bed::new().await;
    let mut conn = connect(&bed.server).await;
    for inner in INNER {
        let name = format!("deep-{inner:?}");
        let deep = async || {
            let (bed, name) = (bed.clone(), name.clone());
            let (cache, keys) = (bed.cache.clone(), [key("first", &name), key("second", &name)]);
            let [first, second] = keys;
            let third: Load = Box::new(move || {
                Box::pin(async move {
                    let router = bed.outer(Outer::Route, inner, &name).await;
                    bed.outer(Outer::Many, inner, &name).await;
                    router
                })
            });
            let within: Load = {
                let cache = cache.clone();
                Box::new(move || perhaps(cache, second, third))
            };
            value(cache, first, within).await
        };
        bed.falls_with_the_item(&mut conn, &name, deep).await;
    }
}

/// `now()` is taken as it is, and only the TTL bounds how old it gets: the shortest of all that hold it.
#[tokio::test]
async fn a_response_that_contains_the_time_lasts_no_longer_than_its_cached_query() {
    let bed = Bed::new().await;
    bed.server
        .psql("create view clocked as select id, now()::text as at from items")
        .await
        .unwrap();
    let short = ValuePolicy::ttl(std::time::Duration::from_secs(60)).jitter(0.0).early_refresh(0.0);
    let short = short.build().unwrap();
    for (sql, bound, is_timed) in [
        ("select now()::text from items", None, true),
        ("select at from clocked", None, true),
        ("select v::text from items", None, false),
        ("select $1::text::date::text from items where v >= 0", Some("today"), true),
        ("select $1::text::date::text from items", Some("2026-11-29"), false),
    ] {
        let (db, cache, short) = (bed.db.clone(), bed.cache.clone(), short.clone());
        let handler = async move || {
            let cached = db.cached(&cache, short.clone());
            let row: (String,) = match bound {
                Some(bound) => cached.fetch_one(sqlx::query(sql).bind(bound)).await,
                None => cached.fetch_one(sql).await,
            }
            .unwrap();
            row.0
        };
        let layer = CacheLayer::with_policy(bed.cache.clone(), policy()).namespace(sql);
        let app = Router::new().route("/", get(handler)).layer(layer);
        for found in ["loaded", "found"] {
            // The value stays, what holds it is another each time.
            let uri = format!("/?{found}");
            eventually("it is kept", async || fetch(&app, &uri).await.1.contains("hit")).await;
            let status = fetch(&app, &uri).await.1;
            let ttl = status.split("ttl=").nth(1).unwrap().split(';').next().unwrap();
            let ttl: u64 = ttl.parse().unwrap();
            let is_bounded = ttl <= 60;
            assert_eq!(is_bounded, is_timed, "{sql}, {found}: {status}");
        }
    }
}

#[tokio::test]
async fn a_read_in_a_spawned_task_is_distinguished_from_no_read() {
    let bed = Bed::new().await;
    let spawned = |State(bed): State<Arc<Bed>>| async move {
        tokio::spawn(async move { bed.read().await }).await.unwrap()
    };
    let transaction = |State(bed): State<Arc<Bed>>| async move {
        bed.read().await;
        tokio::spawn(async move {
            let mut transaction = bed.db.begin_read_only().await.unwrap();
            let query = sqlx::query_scalar::<_, String>("select 'spawned'");
            query.fetch_one(&mut *transaction).await.unwrap()
        })
        .await
        .unwrap()
    };
    let pool = |State(bed): State<Arc<Bed>>| async move {
        bed.read().await;
        tokio::spawn(async move {
            let query = sqlx::query_scalar::<_, String>("select 'spawned'");
            query.fetch_one(bed.db.primary()).await.unwrap()
        })
        .await
        .unwrap()
    };
    let looked_up = |State(bed): State<Arc<Bed>>| async move {
        bed.read().await;
        tokio::spawn(async move { bed.item(Inner::One, "spawned").await }).await.unwrap()
    };
    let app = Router::new()
        .route("/spawned", get(spawned))
        .route("/transaction", get(transaction))
        .route("/pool", get(pool))
        .route("/looked-up", get(looked_up))
        .route("/none", get(async || "nothing"))
        .layer(CacheLayer::with_policy(bed.cache.clone(), policy()))
        .with_state(bed.clone());
    for (uri, why) in [
        ("/spawned", "unscoped-read"),
        ("/transaction", "unscoped-read"),
        ("/pool", "unscoped-read"),
        ("/looked-up", "unscoped-read"),
        ("/none", "no-reads"),
    ] {
        for _ in 0..2 {
            let status = fetch(&app, uri).await.1;
            assert!(status.contains(why) && !status.contains("stored"), "{uri}: {status}");
        }
    }
}

/// How a result can depend on a tag that none of its reads adds.
const NAMED: [&str; 5] = ["policy", "field", "value", "nested", "nested with a read"];

/// A document that the database does not hold, whose author invalidates a custom tag.
struct Document {
    bed: Arc<Bed>,
    text: Mutex<&'static str>,
    fetched: tokio::sync::Semaphore,
    go: tokio::sync::Semaphore,
}

impl Document {
    /// Fetches the document, and returns it later.
    async fn fetch(&self) -> &'static str {
        let text = *self.text.lock().unwrap();
        self.fetched.add_permits(1);
        self.go.acquire().await.unwrap().forget();
        text
    }

    async fn page(&self, way: &str) -> String {
        let cache = &self.bed.cache;
        let tagged = values_with(|policy| policy.tag("document"));
        let text = match way {
            "policy" | "field" => self.fetch().await,
            "value" => {
                let load = async || {
                    let text = self.fetch().await;
                    self.bed.read().await;
                    Ok::<_, ()>(text.to_owned())
                };
                return cache.get_or_load(&key(way, ""), &tagged, load).await.unwrap();
            }
            _ => {
                // The author's update changes `items` too, for a read that adds the policy's tag.
                let tag = if way == "nested" { "document" } else { "items:id=1" };
                let untracked = values_with(|policy| policy.untracked().tag(tag));
                let load = async || {
                    let text = self.fetch().await;
                    if way != "nested" {
                        self.bed.read().await;
                    }
                    Ok::<_, ()>(text.to_owned())
                };
                let text = cache.get_or_load(&key(way, ""), &untracked, load).await.unwrap();
                return text + &self.bed.read().await[..0];
            }
        };
        self.bed.read().await;
        text.to_owned()
    }
}

fn values_with(
    set: impl FnOnce(tidegate::ValuePolicyBuilder) -> tidegate::ValuePolicyBuilder,
) -> ValuePolicy {
    set(ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0)).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_no_read_adds_counts_from_when_the_work_begins() {
    let bed = Bed::new().await;
    for way in NAMED {
        let (text, fetched) = (Mutex::new("old"), tokio::sync::Semaphore::new(0));
        let go = tokio::sync::Semaphore::new(0);
        let document = Arc::new(Document { bed: bed.clone(), text, fetched, go });
        let page = move |State(document): State<Arc<Document>>| async move {
            ([("cache-tag", "document")], document.page(way).await)
        };
        let policy = match way {
            "policy" => policy().tag("document"),
            "field" => policy().tag_fields(["cache-tag"]),
            _ => policy(),
        };
        let layer = CacheLayer::with_policy(bed.cache.clone(), policy).namespace(way);
        let app = Router::new().route("/", get(page)).layer(layer).with_state(document.clone());

        let first = tokio::spawn({
            let app = app.clone();
            async move { fetch(&app, "/").await }
        });
        document.fetched.acquire().await.unwrap().forget();
        *document.text.lock().unwrap() = "new";
        let sql = "select tidegate.invalidate('{document}'); update items set v = v";
        bed.server.psql(sql).await.unwrap();
        let end = bed.server.psql("select pg_current_wal_insert_lsn()").await.unwrap();
        let end: Position = end.parse().unwrap();
        bed.server.psql("select pg_logical_emit_message(false, 'test', 'go on')").await.unwrap();
        let followed = || bed.cache.fences().seen().is_some_and(|seen| seen.position > end);
        eventually("the node knows that it was invalidated", async || followed()).await;
        document.go.add_permits(100);
        let first = first.await.unwrap();
        assert_eq!(first.0, "old", "{way}: it was fetched before");
        let (text, status) = fetch(&app, "/").await;
        assert_eq!(text, "new", "{way}: {status}");
    }
}
