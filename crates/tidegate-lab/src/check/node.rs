//! One node of the service under check, in a process of its own.

mod batch;
mod handlers;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post, put};
use tidegate::internals::put_clock_forward;
use tidegate::{
    Cache, CacheLayer, Cached, Database, Listener, Memory, Policy, RedisOptions, Sessions, Tiered,
    ValuePolicy,
};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::batch::PATH;
use super::clock::monotonic_nanos;
use crate::Failure;

/// When the request arrived, in nanoseconds of `CLOCK_MONOTONIC`.
pub(crate) const ASKED: &str = "check-asked";
/// How long before the request's arrival the node's last read of the log began, in nanoseconds.
pub(crate) const AGE: &str = "check-age";
/// The epoch that the node was in then.
pub(crate) const EPOCH: &str = "check-epoch";

/// Gives rows a version and a group, unless they have a later version already.
pub(crate) const UPDATE: &str = "update rows set
    grp = case when version < $1 then $2 else grp end, version = greatest(version, $1)
    where id = any ($3)";

const TTL: Duration = Duration::from_secs(600);
const STALENESS: Duration = Duration::from_secs(2);
const WAIT: Duration = Duration::from_secs(1);

/// What handlers use.
#[derive(Clone)]
struct App {
    db: Database,
    cache: Cache,
    queries: Cached,
    /// The policy of rows, by their number.
    rows: ValuePolicy,
    /// The policy of values without declared tags.
    values: ValuePolicy,
    /// A second router with the same routes, which handlers call.
    routes: Arc<OnceLock<Router>>,
}

/// Serves until it is killed; prints its address.
pub(crate) async fn serve() -> Result<(), Failure> {
    // The node may start during a fault.
    let db = insist(async || Database::from_env().await).await;
    let cache = listen(&db).await?;
    let layer = layer(&cache)?;
    let app = App::new(db, cache.clone())?;
    let routes = routes().layer(layer).with_state(app.clone());
    app.routes.get_or_init(|| routes.clone());
    let service = routes.layer(from_fn_with_state(cache, note));
    let batches = post(batch::serve).with_state(service.clone());
    let service = service.route("/clock", put(set_clock)).route(PATH, batches);
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    axum::serve(socket, service).await?;
    Ok(())
}

impl App {
    fn new(db: Database, cache: Cache) -> Result<Self, Failure> {
        let policy = ValuePolicy::ttl(TTL).max_staleness(STALENESS).wait(WAIT).lease(WAIT);
        let rows = policy.clone().tag("rows:id={id}").build()?;
        let values = policy.build()?;
        let queries = db.cached(&cache, values.clone());
        Ok(Self { db, cache, queries, rows, values, routes: Arc::default() })
    }
}

fn layer(cache: &Cache) -> Result<CacheLayer, Failure> {
    let policy = Policy::ttl(TTL).max_staleness(STALENESS).wait(WAIT).lease(WAIT);
    let layer = CacheLayer::new(cache.clone())
        .route("/rows/{id}", policy.clone().tag("rows:id={id}"))
        .route("/groups/{group}", policy.clone().tag("rows:grp={group}"))
        .route("/rows", policy.clone())
        .route("/pages/{page}", policy.clone())
        .route("/schema", policy)
        .sessions(Sessions::new("the same on every node")?);
    Ok(layer.validate()?)
}

/// The routes. `/schema/values` and those under `/values` have no policy: only the results that handlers use are cached.
fn routes() -> Router<App> {
    Router::new()
        .route("/rows/{id}", get(handlers::row).put(handlers::write))
        .route("/groups/{group}", get(handlers::group))
        .route("/rows", get(handlers::rows))
        .route("/pages/{page}", get(handlers::page))
        .route("/values/{way}/{number}", get(handlers::value))
        .route("/schema", get(handlers::schema))
        .route("/schema/values", get(handlers::schema_values))
}

/// Retries until it succeeds. The checker kills a node that never does.
async fn insist<T, E: std::fmt::Display>(mut attempt: impl AsyncFnMut() -> Result<T, E>) -> T {
    loop {
        match attempt().await {
            Ok(done) => return done,
            Err(error) => eprintln!("not yet: {error}"),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// A cache can be attached only once, so each attempt has one of its own.
async fn listen(db: &Database) -> Result<Cache, Failure> {
    let redis = std::env::var("REDIS_URL")?;
    Ok(insist(async || {
        let redis = RedisOptions::new(redis.clone()).lazy(true).connect().await;
        let redis = redis.map_err(|error| error.to_string())?;
        let cache = Cache::new(Tiered::new(Memory::new(16 << 20), redis));
        Listener::spawn(db, &cache).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(cache)
    })
    .await)
}

async fn note(State(cache): State<Cache>, request: Request, next: Next) -> Response {
    // Read this before the age: if a read of the log begins in between, the response is newer than the checker demands.
    let asked = monotonic_nanos().to_string();
    let age = cache.fences().age().map_or("none".into(), |age| age.as_nanos().to_string());
    let epoch = cache.fences().epoch().to_string();
    let mut response = next.run(request).await;
    for (name, value) in [(ASKED, asked), (AGE, age), (EPOCH, epoch)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

async fn set_clock(forward: String) -> StatusCode {
    match forward.parse() {
        Ok(millis) => {
            put_clock_forward(millis);
            StatusCode::NO_CONTENT
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}
