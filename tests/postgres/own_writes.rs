//! Who writes and then reads finds what it wrote, by whatever means, with a replica that has stopped.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::routing::any;
use futures_util::future::join_all;
use futures_util::poll;
use sqlx::PgPool;
use tidegate::{
    Cache, CacheLayer, Database, Key, Listener, Memory, Policy, Record, Sessions, ValuePolicy,
};
use tidegate_testing::Postgres;
use tokio::sync::Semaphore;

use super::common::{eventually, fetch, read, send, standing_still, values};
use super::world::{TTL, options, primary};

/// Ways to write a name.
const WRITES: [&str; 8] =
    ["writer", "returning", "reader", "function", "transaction", "primary", "pool", "nested"];

/// Ways to read it.
const READS: [&str; 6] = ["reader", "cached", "value", "found", "many", "router"];

/// A node on a primary and a replica.
struct Bed {
    db: Database,
    cache: Cache,
    pool: PgPool,
}

fn policy() -> Policy {
    Policy::ttl(TTL).early_refresh(0.0)
}

fn sessions() -> Sessions {
    Sessions::new([7; 32]).unwrap()
}

impl Bed {
    async fn on(primary: &Postgres, replica: &Postgres) -> Arc<Self> {
        let db = options(primary).replica(replica.url()).connect().await.unwrap();
        let up = async || db.replicas().iter().all(|replica| replica.reached.is_some());
        eventually("the replica is up", up).await;
        let cache = Cache::new(Memory::new(16 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        let pool = PgPool::connect(&primary.url()).await.unwrap();
        Arc::new(Self { db, cache, pool })
    }

    async fn write(&self, how: &str, name: &str) {
        let update = "update users set name = $1 where id = 1";
        let query = || sqlx::query(update).bind(name.to_owned());
        let returning = || {
            let sql = "update users set name = $1 where id = 1 returning name";
            sqlx::query_scalar::<_, String>(sql).bind(name.to_owned())
        };
        match how {
            "writer" => drop(query().execute(self.db.writer()).await.unwrap()),
            "returning" => drop(returning().fetch_one(self.db.writer()).await.unwrap()),
            "reader" => drop(returning().fetch_one(self.db.reader()).await.unwrap()),
            "function" => {
                let query = sqlx::query("select rename($1)").bind(name.to_owned());
                drop(query.fetch_one(self.db.reader()).await.unwrap());
            }
            "transaction" => {
                let mut transaction = self.db.begin().await.unwrap();
                // Nothing is read too early for having been observed before the commit.
                self.read("cached").await;
                query().execute(&mut *transaction).await.unwrap();
                transaction.commit().await.unwrap();
            }
            "primary" => drop(query().execute(self.db.primary()).await.unwrap()),
            "pool" => drop(query().execute(&self.pool).await.unwrap()),
            _ => {
                let (query, db) = (query(), self.db.clone());
                let load = move || async move {
                    query.execute(db.writer()).await.unwrap();
                    Ok::<_, ()>(())
                };
                let key = Key::new("nested write").part(name).finish();
                self.cache.get_or_load(&key, &values(), load).await.unwrap();
            }
        }
    }

    async fn read(&self, how: &str) -> String {
        let sql = "select name from users where id = 1";
        let db = self.db.clone();
        let fresh = move || async move {
            sqlx::query_scalar::<_, String>(sql).fetch_one(db.reader()).await
        };
        match how {
            "reader" => fresh().await.unwrap(),
            "cached" => {
                let cached = self.db.cached(&self.cache, values());
                cached.fetch_one::<(String,)>(sql).await.unwrap().0
            }
            "value" => {
                let key = Key::new("name").finish();
                self.cache.get_or_load(&key, &values(), fresh).await.unwrap()
            }
            "found" => {
                let (key, load) = (Key::new("found").finish(), async || fresh().await.map(Some));
                self.cache.find_or_load(&key, &values(), load).await.unwrap().unwrap()
            }
            "many" => {
                let key = |id: &i32| Key::new("many").part(id.to_string()).finish();
                let load = async |ids: Vec<i32>| {
                    let sql = "select id, name from users where id = any ($1)";
                    let rows = sqlx::query_as::<_, (i32, String)>(sql).bind(ids);
                    let rows = rows.fetch_all(self.db.reader()).await?;
                    Ok::<HashMap<_, _>, sqlx::Error>(rows.into_iter().collect())
                };
                let mut found = self.cache.get_many([1, 2], key, &values(), load).await.unwrap();
                found.remove(&1).unwrap()
            }
            _ => fetch(&self.router(), "/cached/reader").await.0,
        }
    }

    fn router(&self) -> Router {
        let db = self.db.clone();
        let name = async move || {
            let sql = "select name from users where id = 1";
            sqlx::query_scalar::<_, String>(sql).fetch_one(db.reader()).await.unwrap()
        };
        let layer = CacheLayer::new(self.cache.clone()).route("/cached/reader", policy());
        Router::new().route("/cached/reader", any(name)).layer(layer)
    }

    /// Entries of before are there.
    async fn warm(&self) {
        for how in READS {
            Record::detached(self.read(how)).await;
        }
    }
}

/// A function that writes, which the text of a call does not show.
const RENAME: &str = "create function rename(text) returns void language sql
    as 'update users set name = $1 where id = 1'";

/// Commits wake no node. So a node learns of a change by itself a while later, and a read that does not require the change
/// lacks it.
async fn servers() -> (Postgres, Postgres) {
    let primary = primary(&[]).await;
    primary.psql(RENAME).await.unwrap();
    primary.psql("alter database postgres set tidegate.notify = off").await.unwrap();
    let replica = primary.standby().await.unwrap();
    (primary, replica)
}

/// `/{write}/{read}/{name}`: writes, and responds with what it then reads.
fn app(bed: &Arc<Bed>, layer: CacheLayer) -> Router {
    let handler =
        async |State(bed): State<Arc<Bed>>,
               Path((write, how, name)): Path<(String, String, String)>| {
            bed.write(&write, &name).await;
            bed.read(&how).await
        };
    let name = async |State(bed): State<Arc<Bed>>, Path(how): Path<String>| bed.read(&how).await;
    Router::new()
        .route("/{write}/{read}/{name}", any(handler))
        .route("/plain/{how}", any(name))
        .route("/policy/{how}", any(name))
        .layer(layer)
        .with_state(bed.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_reads_its_own_writes() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    bed.warm().await;
    replica.pause_replay().await.unwrap();
    let layers = [
        ("no policy", CacheLayer::new(bed.cache.clone())),
        ("a policy", CacheLayer::with_policy(bed.cache.clone(), policy())),
        ("sessions", CacheLayer::new(bed.cache.clone()).sessions(sessions())),
        (
            "a policy and sessions",
            CacheLayer::with_policy(bed.cache.clone(), policy()).sessions(sessions()),
        ),
    ];
    for (with, layer) in layers {
        let app = app(&bed, layer);
        for method in [Method::GET, Method::POST] {
            for write in WRITES {
                for how in READS {
                    // Nobody sees what another pool does in a GET; it has to be said.
                    // And nothing follows for caches from what another pool does.
                    if write == "pool" && (method == Method::GET || how != "reader") {
                        continue;
                    }
                    let name = format!("{with}, {method}, {write}, {how}")
                        .replace(", ", "-")
                        .replace(' ', "-");
                    let uri = format!("/{write}/{how}/{name}");
                    // So that an entry without this write is stored.
                    Record::detached(bed.read(how)).await;
                    let request = Request::builder().method(&method).uri(uri);
                    let response = send(&app, request.body(Body::empty()).unwrap()).await;
                    // Nor is it known whether a GET writes through a pool.
                    if write != "primary" || method == Method::POST {
                        let has_token = response.headers().contains_key("tidegate-position");
                        assert_eq!(has_token, with.contains("sessions"), "{name}");
                    }
                    assert_eq!(read(response).await.0, name);
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn code_outside_any_request_reads_its_own_writes() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    bed.warm().await;
    replica.pause_replay().await.unwrap();
    let ports = "select inet_server_port()";
    let of_replica = i32::from(replica.port());
    let port =
        async || sqlx::query_scalar::<_, i32>(ports).fetch_one(bed.db.reader()).await.unwrap();
    assert_eq!(port().await, of_replica, "nothing was written");
    for write in ["function", "writer", "returning", "reader", "transaction"] {
        for how in READS {
            if how == "router" {
                // A request of its own.
                continue;
            }
            let name = format!("{write} {how}");
            // So that an entry without this write is stored.
            Record::detached(bed.read(how)).await;
            bed.write(write, &name).await;
            assert_eq!(bed.read(how).await, name);
        }
    }
    bed.write("pool", "by a pool").await;
    bed.db.wrote();
    assert_eq!(bed.read("reader").await, "by a pool");
    // Once the replica has it, it serves.
    replica.resume_replay().await.unwrap();
    eventually("the replica serves again", async || port().await == of_replica).await;
    assert_eq!(bed.read("reader").await, "by a pool");
    // What is in a scope of its own is none of theirs.
    replica.pause_replay().await.unwrap();
    Record::detached(async {
        bed.write("writer", "in a job").await;
        assert_eq!(bed.read("reader").await, "in a job");
    })
    .await;
    assert_eq!(port().await, of_replica);
    // A transaction that may commit at any time.
    bed.write("transaction", "in a transaction").await;
    assert_eq!(bed.read("reader").await, "in a transaction");
    replica.resume_replay().await.unwrap();
    eventually("once it is over, the replica serves again", async || port().await == of_replica)
        .await;
    assert_eq!(bed.read("reader").await, "in a transaction");
}

/// The row comes before the commit: a call that returned at the row would report writes that were never committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_returns_a_row_fails_if_its_commit_fails() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    let table = "create table slots (n int unique deferrable initially deferred);
        insert into slots values (1)";
    primary.psql(table).await.unwrap();
    let taken = "insert into slots values (1) returning n";
    let write = sqlx::query_scalar::<_, i32>(taken).fetch_one(bed.db.writer()).await;
    assert!(write.unwrap_err().to_string().contains("slots"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_only_reads_route_is_served_by_replicas_whatever_the_method() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    let port = async |State(bed): State<Arc<Bed>>| {
        let sql = "select inet_server_port()::text";
        sqlx::query_scalar::<_, String>(sql).fetch_one(bed.db.reader()).await.unwrap()
    };
    let layer = CacheLayer::new(bed.cache.clone()).only_reads("/graphql").sessions(sessions());
    let app = Router::new().route("/graphql", any(port)).route("/form", any(port));
    let app = app.layer(layer).with_state(bed.clone());
    let of_replica = replica.port().to_string();
    for (method, uri, is_replica) in
        [("POST", "/graphql", true), ("GET", "/form", true), ("POST", "/form", false)]
    {
        let request = Request::builder().method(method).uri(uri).body(Body::empty()).unwrap();
        let response = send(&app, request).await;
        let has_token = response.headers().contains_key("tidegate-position");
        assert_eq!(has_token, !is_replica, "{method} {uri}: a token for what may write");
        assert_eq!(read(response).await.0 == of_replica, is_replica, "{method} {uri}");
    }
}

/// A route whose POST requests read, unless the content begins with `write`. One that begins with `also` writes too.
fn searching(bed: &Arc<Bed>) -> Router {
    let port = async |State(bed): State<Arc<Bed>>| {
        let sql = "select inet_server_port()::text";
        sqlx::query_scalar::<_, String>(sql).fetch_one(bed.db.reader()).await.unwrap()
    };
    let name = async |State(bed): State<Arc<Bed>>, content: String| {
        if let Some((_, name)) = content.split_once("write ") {
            bed.write("writer", name).await;
        }
        bed.read("reader").await
    };
    let reads = || policy().post_reads(64, |_, content| !content.starts_with(b"write"));
    let layer = CacheLayer::new(bed.cache.clone()).route("/port", reads()).route("/name", reads());
    let app = Router::new().route("/port", any(port)).route("/name", any(name));
    app.layer(layer.sessions(sessions())).with_state(bed.clone())
}

fn post(uri: &str, content: &str, (name, value): (&str, &str)) -> Request<Body> {
    Request::post(uri).header(name, value).body(Body::from(content.to_owned())).unwrap()
}

const NO_FIELD: (&str, &str) = ("x-other", "x");

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_only_reads_is_served_by_replicas_and_gets_no_token() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    let app = searching(&bed);
    let of_replica = replica.port().to_string();
    // With a cookie, it bypasses the cache.
    for (content, field, is_replica) in [
        ("read", NO_FIELD, true),
        ("read", ("cookie", "sid=1"), true),
        ("write", NO_FIELD, false),
        ("read", ("idempotency-key", "1"), false),
    ] {
        let mut sent = 0;
        let mut by_replica = async || {
            // Another entry each time.
            sent += 1;
            let response = send(&app, post("/port", &format!("{content} {sent}"), field)).await;
            let has_token = response.headers().contains_key("tidegate-position");
            assert_eq!(has_token, !is_replica, "{content} {field:?}");
            read(response).await.0 == of_replica
        };
        if is_replica {
            // It may not have replayed yet what the node knows of.
            eventually("the replica serves", by_replica).await;
        } else {
            assert!(!by_replica().await, "{content} {field:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_only_reads_sees_its_sessions_writes_and_stores_none_of_its_own() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    let app = searching(&bed);
    let post_as = async |content: &str, token: Option<&str>| {
        let field = token.map_or(NO_FIELD, |token| ("tidegate-position", token));
        let response = send(&app, post("/name", content, field)).await;
        let token = response.headers().get("tidegate-position").cloned();
        let (name, status) = read(response).await;
        (name, status, token.map(|token| token.to_str().unwrap().to_owned()))
    };
    assert!(post_as("read", None).await.1.contains("stored"));
    assert!(post_as("read", None).await.1.contains("; hit;"));
    replica.pause_replay().await.unwrap();
    for content in ["write ada", "also write eve"] {
        for run in 0..2 {
            let name = format!("{}{run}", content.rsplit(' ').next().unwrap());
            let (got, status, token) = post_as(&format!("{content}{run}"), None).await;
            assert!(got == name && !status.contains("stored"), "{got}: {status}");
            let token = token.expect("it wrote");
            let (got, status, none) = post_as("read", Some(&token)).await;
            assert!(got == name && none.is_none(), "{got}, not {name}: {status}");
        }
        // The same content once more: nothing was stored for it.
        let (_, status, token) = post_as(&format!("{content}1"), None).await;
        assert!(token.is_some() && !status.contains("hit"), "{status}");
    }
}

/// Two nodes, a write through one, and a read with its token through the other at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_write_in_every_kind_of_read() {
    let (primary, replica) = servers().await;
    let (here, there) = (Bed::on(&primary, &replica).await, Bed::on(&primary, &replica).await);
    let layer = |bed: &Bed| {
        CacheLayer::new(bed.cache.clone()).route("/policy/{how}", policy()).sessions(sessions())
    };
    let (here, there) = (app(&here, layer(&here)), app(&there, layer(&there)));
    replica.pause_replay().await.unwrap();
    for round in 0..20 {
        for how in READS {
            for route in ["plain", "policy"] {
                let name = format!("{route}-{how}-{round}");
                let uri = format!("/{route}/{how}");
                // So that an entry without this write is stored.
                fetch(&there, &uri).await;
                let write = Request::post(format!("/writer/reader/{name}")).body(Body::empty());
                let response = send(&here, write.unwrap()).await;
                let token = response.headers()["tidegate-position"].clone();
                let token = HeaderMap::from_iter([("tidegate-position".parse().unwrap(), token)]);
                let mut request = Request::get(uri).body(Body::empty()).unwrap();
                request.headers_mut().extend(token);
                let (found, status) = read(send(&there, request).await).await;
                assert_eq!(found, name, "{status}");
            }
        }
    }
}

/// Behind a proxy that pools transactions, a read of a session's shares one with the position, which refuses writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_writes_can_be_called_for_a_session_behind_a_proxy() {
    let primary = primary(&[]).await;
    primary.psql(RENAME).await.unwrap();
    let db = options(&primary).pooled().connect().await.unwrap();
    let cache = Cache::new(Memory::new(16 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let pool = PgPool::connect(&primary.url()).await.unwrap();
    let bed = Arc::new(Bed { db, cache, pool });
    let layer = CacheLayer::new(bed.cache.clone()).sessions(sessions());
    let app = app(&bed, layer);
    let mut token = HeaderMap::new();
    for name in ["first", "second"] {
        let mut request = Request::get(format!("/function/reader/{name}"));
        request.headers_mut().unwrap().extend(token.clone());
        let response = send(&app, request.body(Body::empty()).unwrap()).await;
        let given = response.headers().get("tidegate-position").cloned();
        assert_eq!(read(response).await.0, name);
        if let Some(given) = given {
            token.insert("tidegate-position", given);
        }
        let write = Request::post("/writer/reader/between").body(Body::empty()).unwrap();
        let response = send(&app, write).await;
        token.insert("tidegate-position", response.headers()["tidegate-position"].clone());
    }
}

/// Users in memory, in a cache that follows a server which logs each statement.
struct Users {
    server: Postgres,
    db: Database,
    cache: Cache,
    loaded: AtomicUsize,
}

const USERS: i32 = 500;

impl Users {
    async fn start() -> Arc<Self> {
        let server = primary(&[("log_statement", "all")]).await;
        let more = "insert into users select i, 'user ' || i from generate_series(3, 500) i";
        server.psql(more).await.unwrap();
        let db = options(&server).connections(2).connect().await.unwrap();
        let cache = Cache::new(Memory::new(16 << 20));
        Listener::spawn(&db, &cache).await.unwrap();
        Arc::new(Self { server, db, cache, loaded: AtomicUsize::new(0) })
    }

    /// The names of these users, and how many were loaded.
    async fn names(&self, ids: impl IntoIterator<Item = i32>) -> (HashMap<i32, String>, usize) {
        let before = self.loaded.load(Ordering::SeqCst);
        let load = async |ids: Vec<i32>| {
            self.loaded.fetch_add(ids.len(), Ordering::SeqCst);
            let query = sqlx::query_as("select id, name from users where id = any ($1)").bind(ids);
            let rows: Vec<(i32, String)> = query.fetch_all(self.db.reader()).await?;
            Ok::<_, sqlx::Error>(rows.into_iter().collect())
        };
        let names = self.cache.get_many(ids, user, &by_row(), load).await.unwrap();
        (names, self.loaded.load(Ordering::SeqCst) - before)
    }

    async fn rename(&self, name: &str) {
        let update = sqlx::query("update users set name = $1 where id = 1").bind(name.to_owned());
        update.execute(self.db.writer()).await.unwrap();
    }

    /// How often the position of the server was queried.
    fn position_queries(&self) -> usize {
        let identity = "from pg_catalog.pg_control_system()) as system_identifier";
        self.server.log().matches(identity).count()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "ids of any size are passed so")]
fn user(id: &i32) -> Key {
    Key::new("user").part(id.to_string()).finish()
}

fn by_row() -> ValuePolicy {
    let policy = ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).wait(TTL);
    policy.tag("users:id={id}").build().unwrap()
}

/// Far from one query for each of 500 users: there is one on each new connection as well, and so are those that the pool
/// opens in place of one that a transaction has left behind.
const FEW: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_after_a_write_observes_few_positions() {
    let users = Users::start().await;
    let all = async || users.names(1..=USERS).await;
    Record::detached(all()).await;
    for how in ["written", "open", "no scope"] {
        let before = users.position_queries();
        let work = async {
            let mut transaction = None;
            if how == "open" {
                transaction = Some(users.db.begin().await.unwrap());
            }
            users.rename(how).await;
            let (names, loaded) = all().await;
            assert_eq!((names.len(), loaded), (500, 1), "{how}");
            assert_eq!(names[&1], how);
            drop(transaction);
        };
        match how {
            "no scope" => work.await,
            _ => Record::detached(work).await,
        }
        let queries = users.position_queries() - before;
        assert!((1..=FEW).contains(&queries), "{how}: {queries} queries for the position");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_values_after_a_write_share_positions() {
    let users = Users::start().await;
    Record::detached(users.names(1..=USERS)).await;
    let before = users.position_queries();
    Record::detached(async {
        let _transaction = users.db.begin().await.unwrap();
        let policy = by_row();
        let one = async |id: i32| {
            let load = async || Err::<String, _>("it is in memory");
            users.cache.get_or_load(&user(&id), &policy.for_id(id), load).await.unwrap()
        };
        let all = join_all((1..=USERS).map(one)).await;
        assert_eq!(all[6], "user 7");
    })
    .await;
    let queries = users.position_queries() - before;
    assert!(queries <= FEW, "{queries} queries for the position");
}

/// Each of them is looked up again once it is there.
#[tokio::test(flavor = "multi_thread")]
async fn values_loaded_by_another_request_do_not_need_a_position_each() {
    let users = Users::start().await;
    let (gate, begun) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let computing = tokio::spawn(Record::detached({
        let (users, gate, begun) = (users.clone(), gate.clone(), begun.clone());
        async move {
            let load = async |ids: Vec<i32>| {
                begun.add_permits(1);
                gate.acquire().await.unwrap().forget();
                let query = sqlx::query_as("select id, name from users where id = any ($1)");
                let rows: Vec<(i32, String)> = query.bind(ids).fetch_all(users.db.reader()).await?;
                Ok::<_, sqlx::Error>(rows.into_iter().collect::<HashMap<_, _>>())
            };
            users.cache.get_many(1..=USERS, user, &by_row(), load).await.unwrap().len()
        }
    }));
    begun.acquire().await.unwrap().forget();
    let before = users.position_queries();
    Record::detached(async {
        let _transaction = users.db.begin().await.unwrap();
        let opened = async {
            eventually("a position is queried", async || users.position_queries() > before).await;
            gate.add_permits(1);
        };
        let ((names, loaded), ()) = tokio::join!(users.names(1..=USERS), opened);
        assert_eq!((names.len(), loaded), (500, 0));
    })
    .await;
    assert_eq!(computing.await.unwrap(), 500);
    let queries = users.position_queries() - before;
    assert!(queries <= FEW, "{queries} queries for the position");
}

/// Settings are often read, and jobs are often run, by a runtime of their own.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_serve_again_even_if_the_observing_runtime_has_stalled() {
    let (primary, replica) = servers().await;
    let bed = Bed::on(&primary, &replica).await;
    bed.write("writer", "in no scope").await;
    let read = async { poll!(Box::pin(bed.read("reader"))).is_pending() };
    let (waits, _runtime) = standing_still(read);
    assert!(waits, "for a connection");
    let ports = "select inet_server_port()";
    let of_replica = i32::from(replica.port());
    let port =
        async || sqlx::query_scalar::<_, i32>(ports).fetch_one(bed.db.reader()).await.unwrap();
    eventually("the replica serves again", async || port().await == of_replica).await;
}

/// A handler or a load that writes and then fails.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_stale_replaces_the_error_of_work_that_has_written() {
    let server = primary(&[]).await;
    let db = options(&server).connect().await.unwrap();
    let cache = Cache::new(Memory::new(16 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let (fails, runs) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let read = {
        let (db, fails, runs) = (db.clone(), fails.clone(), runs.clone());
        async move || {
            runs.fetch_add(1, Ordering::SeqCst);
            if fails.load(Ordering::SeqCst) == 2 {
                let rename = sqlx::query("update users set name = name || '!' where id = 1");
                rename.execute(db.writer()).await.unwrap();
            }
            let query = sqlx::query_scalar::<_, String>("select name from users where id = 1");
            let name = query.fetch_one(db.reader()).await.unwrap();
            if fails.load(Ordering::SeqCst) > 0 { Err(StatusCode::BAD_GATEWAY) } else { Ok(name) }
        }
    };
    let policy = policy().stale_if_error(TTL);
    let layer = CacheLayer::with_policy(cache.clone(), policy);
    let app = Router::new().route("/", any(read.clone())).layer(layer);
    let values = ValuePolicy::ttl(TTL).early_refresh(0.0).stale_if_error(TTL);
    let values = values.build().unwrap();
    let key = |name: &str| Key::new("stale").part(name).finish();
    let ways = async |way: &str| {
        let read = read.clone();
        match way {
            "route" => Ok(fetch(&app, "/").await.0).and_then(|body| {
                if body.is_empty() { Err(StatusCode::BAD_GATEWAY) } else { Ok(body) }
            }),
            "value" => Record::detached(cache.get_or_load(&key(way), &values, read)).await,
            "found" => {
                let load = async || read().await.map(Some);
                let found = Record::detached(cache.find_or_load(&key(way), &values, load)).await;
                found.map(Option::unwrap)
            }
            _ => {
                let load = async move |ids: Vec<i32>| {
                    let name = read().await?;
                    Ok(ids.into_iter().map(|id| (id, name.clone())).collect::<HashMap<_, _>>())
                };
                let many = cache.get_many([1], |_| key("many"), &values, load);
                Record::detached(many).await.map(|mut found| found.remove(&1).unwrap())
            }
        }
    };
    for way in ["route", "value", "found", "many"] {
        fails.store(0, Ordering::SeqCst);
        let runs = || runs.load(Ordering::SeqCst);
        eventually("it is stored", async || {
            ways(way).await.unwrap();
            let before = runs();
            ways(way).await.unwrap();
            runs() == before
        })
        .await;
        let before = ways(way).await;
        server.psql("update users set name = name where id = 1").await.unwrap();
        fails.store(1, Ordering::SeqCst);
        let stored = runs();
        eventually("the error of work that only reads is replaced", async || {
            assert_eq!(ways(way).await, before, "{way}");
            runs() > stored
        })
        .await;
        fails.store(2, Ordering::SeqCst);
        assert_eq!(ways(way).await, Err(StatusCode::BAD_GATEWAY), "{way}");
    }
}
