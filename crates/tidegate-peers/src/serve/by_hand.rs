//! What one writes without a layer: the handler looks, and keeps the body alone.

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use deadpool_redis::{Config, Pool, PoolConfig, Runtime};
use moka::future::Cache;
use redis::AsyncCommands;
use redis::aio::{ConnectionLike, ConnectionManager};

use super::origin::{Runs, answer, body};
use super::{ENTRIES, ITEM, TTL};
use crate::Failure;

/// As many as there are requests at a time, so that none waits for one.
const CONNECTIONS: usize = 64;

pub(super) fn moka(runs: &Runs) -> Router {
    let cache: Cache<String, Bytes> =
        Cache::builder().max_capacity(ENTRIES).time_to_live(TTL).build();
    let (runs, made) = (runs.clone(), Bytes::from(body()));
    let handler = move |Path(id): Path<String>| async move {
        let make = async {
            runs.note();
            made
        };
        answer(cache.get_with(id, make).await)
    };
    Router::new().route(ITEM, get(handler))
}

pub(super) async fn redis(runs: &Runs, url: &str) -> Result<Router, Failure> {
    let connection = ConnectionManager::new(redis::Client::open(url)?).await?;
    let (runs, made) = (runs.clone(), Bytes::from(body()));
    let handler = move |Path(id): Path<String>| async move {
        let mut connection = connection;
        let found = get_or_make(&mut connection, &id, &runs, made).await;
        found.map(answer).map_err(|_| StatusCode::BAD_GATEWAY)
    };
    Ok(Router::new().route(ITEM, get(handler)))
}

pub(super) fn pooled(runs: &Runs, url: &str) -> Result<Router, Failure> {
    let mut config = Config::from_url(url);
    config.pool = Some(PoolConfig::new(CONNECTIONS));
    let pool: Pool = config.create_pool(Some(Runtime::Tokio1))?;
    let (runs, made) = (runs.clone(), Bytes::from(body()));
    let handler = move |Path(id): Path<String>| async move {
        let mut connection = pool.get().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
        let found = get_or_make(&mut connection, &id, &runs, made).await;
        found.map(answer).map_err(|_| StatusCode::BAD_GATEWAY)
    };
    Ok(Router::new().route(ITEM, get(handler)))
}

async fn get_or_make<C: ConnectionLike + Send + Sync>(
    connection: &mut C,
    id: &str,
    runs: &Runs,
    made: Bytes,
) -> redis::RedisResult<Bytes> {
    let key = format!("items:{id}");
    if let Some(found) = connection.get::<_, Option<Bytes>>(&key).await? {
        return Ok(found);
    }
    runs.note();
    let () = connection.set_ex(&key, &made[..], TTL.as_secs()).await?;
    Ok(made)
}
