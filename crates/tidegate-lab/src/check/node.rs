//! The service that is checked: one node of it, as a process of its own.

use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, put};
use tidegate::internals::put_clock_forward;
use tidegate::{
    Cache, CacheLayer, Database, Listener, Memory, Policy, RedisOptions, Sessions, Tiered,
};
use tokio::net::TcpListener;
use tokio::time::sleep;

use crate::Failure;

/// How long ago the node's last look at the log began, in microseconds, when the request came.
pub(crate) const AGE: &str = "check-age";
/// The epoch that the node was in then.
pub(crate) const EPOCH: &str = "check-epoch";

/// Gives rows a version and a group, unless they have a later version already.
pub(crate) const UPDATE: &str = "update rows set
    grp = case when version < $1 then $2 else grp end, version = greatest(version, $1)
    where id = any ($3)";

/// Serves until it is killed; prints its address.
pub(crate) async fn serve() -> Result<(), Failure> {
    // It may be started into the middle of a fault.
    let db = insist(async || Database::from_env().await).await;
    let cache = listen(&db).await?;
    let policy = Policy::ttl(Duration::from_secs(600))
        .max_staleness(Duration::from_secs(2))
        .wait(Duration::from_secs(1))
        .lease(Duration::from_secs(1));
    let layer = CacheLayer::new(cache.clone())
        .route("/rows/{id}", policy.clone().tag("rows:id={id}"))
        .route("/groups/{group}", policy.clone().tag("rows:grp={group}"))
        .route("/rows", policy)
        .sessions(Sessions::new("the same on every node")?)
        .validate()?;
    let app = Router::new()
        .route("/rows/{id}", get(row).put(write))
        .route("/groups/{group}", get(group))
        .route("/rows", get(rows))
        .layer(layer)
        .layer(from_fn_with_state(cache, note))
        .route("/clock", put(set_clock))
        .with_state(db);
    let socket = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", socket.local_addr()?);
    axum::serve(socket, app).await?;
    Ok(())
}

/// Tries until it works. The checker ends a node that never does.
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
    let age = cache.fences().age().map_or("none".into(), |age| age.as_micros().to_string());
    let epoch = cache.fences().epoch().to_string();
    let mut response = next.run(request).await;
    for (name, value) in [(AGE, age), (EPOCH, epoch)] {
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

type Answer = Result<String, (StatusCode, String)>;
type Rows = Result<Vec<(i32, i64, i32)>, sqlx::Error>;

async fn row(State(db): State<Database>, Path(id): Path<i32>) -> Answer {
    let query = sqlx::query_as("select id, version, grp from rows where id = $1").bind(id);
    lines(query.fetch_all(db.reader()).await).await
}

async fn group(State(db): State<Database>, Path(group): Path<i32>) -> Answer {
    let query = sqlx::query_as("select id, version, grp from rows where grp = $1").bind(group);
    lines(query.fetch_all(db.reader()).await).await
}

async fn rows(State(db): State<Database>) -> Answer {
    lines(sqlx::query_as("select id, version, grp from rows").fetch_all(db.reader()).await).await
}

async fn write(State(db): State<Database>, Path(id): Path<i32>, body: String) -> Answer {
    let wanted = body.split_once(' ').and_then(|(version, group)| {
        Some((version.parse::<i64>().ok()?, group.parse::<i32>().ok()?))
    });
    let (version, group) = wanted.ok_or((StatusCode::BAD_REQUEST, String::new()))?;
    let update = sqlx::query(UPDATE).bind(version).bind(group).bind([id]);
    let done = update.execute(db.writer()).await;
    done.map(|_| String::new()).map_err(|error| unavailable(&error))
}

/// Renders rows, for which some answers take as long as to be out of date when they are ready.
async fn lines(rows: Rows) -> Answer {
    let rows = rows.map_err(|error| unavailable(&error))?;
    if fastrand::u8(..4) == 0 {
        sleep(Duration::from_millis(fastrand::u64(..40))).await;
    }
    Ok(rows.iter().map(|(id, version, group)| format!("{id} {version} {group}\n")).collect())
}

fn unavailable(error: &sqlx::Error) -> (StatusCode, String) {
    (StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}
