//! The handlers whose runs are counted.

use std::convert::Infallible;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tidegate::{Database, Key, ValuePolicy};
use tokio::time::sleep;

use super::{Shared, TTL};

async fn sleep_in(db: &Database, seconds: f64) -> sqlx::Result<()> {
    sqlx::query("select pg_sleep($1)").bind(seconds).execute(db.reader()).await.map(|_| ())
}

fn unavailable<E>(_: E) -> StatusCode {
    StatusCode::SERVICE_UNAVAILABLE
}

/// Computed of two cached values.
pub(super) async fn page(
    State(shared): State<Shared>,
    Path(key): Path<u32>,
) -> std::result::Result<String, StatusCode> {
    shared.runs.fetch_add(1, Ordering::Relaxed);
    let policy = ValuePolicy::ttl(TTL).untracked().build().map_err(unavailable)?;
    let part = async |name: String| {
        let key = Key::new("part").part(&name).finish();
        let load = async || sleep_in(&shared.db, 0.02).await.map(|()| name);
        shared.cache.get_or_load(&key, &policy, load).await.map_err(unavailable)
    };
    Ok(part(key.to_string()).await? + &part("of all".to_owned()).await?)
}

/// Not counted: its requests are no row's.
pub(super) async fn hang() {
    std::future::pending::<()>().await;
}

pub(super) async fn query(
    State(shared): State<Shared>,
) -> std::result::Result<&'static str, StatusCode> {
    shared.runs.fetch_add(1, Ordering::Relaxed);
    sleep_in(&shared.db, 0.15).await.map_err(unavailable)?;
    Ok("done")
}

pub(super) async fn slowly(State(shared): State<Shared>) -> &'static str {
    shared.runs.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_secs(6)).await;
    "done"
}

pub(super) async fn fail(State(shared): State<Shared>) -> StatusCode {
    shared.runs.fetch_add(1, Ordering::Relaxed);
    sleep(Duration::from_millis(50)).await;
    StatusCode::INTERNAL_SERVER_ERROR
}

pub(super) async fn recover(State(shared): State<Shared>) -> StatusCode {
    let is_first = shared.runs.load(Ordering::Relaxed) == 0;
    let failed = fail(State(shared)).await;
    if is_first { failed } else { StatusCode::OK }
}

/// Seven parts, half a second apart.
pub(super) async fn stream_slowly(State(shared): State<Shared>) -> Response {
    shared.runs.fetch_add(1, Ordering::Relaxed);
    let parts = stream::unfold(0, async |sent| {
        if sent > 0 {
            sleep(Duration::from_millis(500)).await;
        }
        (sent < 7).then(|| (Ok::<_, Infallible>(Bytes::from_static(b"part\n")), sent + 1))
    });
    Body::from_stream(parts).into_response()
}
