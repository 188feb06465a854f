//! A handler that reads a row by its key.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use bytes::Bytes;
use sqlx::PgExecutor;
use sqlx::postgres::PgPoolOptions;
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Triggers};

use super::origin::{Runs, answer};
use super::{BYTES, ITEM, TTL};
use crate::Failure;

/// As many as a pool of Tidegate has by default.
const CONNECTIONS: u32 = 10;

#[derive(Clone)]
struct Shop {
    db: Database,
    runs: Runs,
}

impl Shop {
    async fn new(runs: &Runs, url: &str) -> Result<Self, Failure> {
        Ok(Self { db: DatabaseOptions::new(url).connect().await?, runs: runs.clone() })
    }
}

/// By sqlx alone: a pool of its own, without what Tidegate does to the connections of its pools, and without sqlx's own
/// ping of each connection before it is used.
pub(super) async fn read(runs: &Runs, url: &str) -> Result<Router, Failure> {
    let pool = PgPoolOptions::new().max_connections(CONNECTIONS).test_before_acquire(false);
    let pool = pool.connect(url).await?;
    let shop = Shop::new(runs, url).await?;
    let handler = move |Path(id): Path<i32>| async move { row(&shop, &pool, id).await.map(answer) };
    Ok(Router::new().route(ITEM, get(handler)))
}

/// By what chooses a server.
pub(super) async fn routed(runs: &Runs, url: &str) -> Result<Router, Failure> {
    Ok(through_reader(Shop::new(runs, url).await?))
}

/// The same behind the layer, which keeps each answer until its row changes.
pub(super) async fn cached(runs: &Runs, url: &str) -> Result<Router, Failure> {
    let shop = Shop::new(runs, url).await?;
    let mut conn = shop.db.primary().acquire().await?;
    Triggers::new().table("items").install(&mut conn).await?;
    drop(conn);
    let cache = Cache::new(Memory::new(BYTES));
    Listener::spawn(&shop.db, &cache).await?;
    let policy = Policy::ttl(TTL).tag("items:id={id}");
    Ok(through_reader(shop).layer(CacheLayer::new(cache).route(ITEM, policy)))
}

fn through_reader(shop: Shop) -> Router {
    let handler = async |State(shop): State<Shop>, Path(id): Path<i32>| {
        row(&shop, shop.db.reader(), id).await.map(answer)
    };
    Router::new().route(ITEM, get(handler)).with_state(shop)
}

async fn row<'e, E: PgExecutor<'e>>(shop: &Shop, by: E, id: i32) -> Result<Bytes, StatusCode> {
    shop.runs.note();
    let query = sqlx::query_scalar::<_, String>("select body from items where id = $1").bind(id);
    query.fetch_one(by).await.map(Bytes::from).map_err(|_| StatusCode::BAD_GATEWAY)
}
