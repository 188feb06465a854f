//! The layer over each of its stores.

use axum::Router;
use tidegate::{Cache, CacheLayer, Memory, Policy, Redis, Tiered};

use super::origin::{self, Runs};
use super::{BYTES, ITEM, TTL};
use crate::Failure;

pub(super) fn memory(runs: &Runs) -> Router {
    behind(runs, Cache::new(Memory::new(BYTES)))
}

pub(super) async fn redis(runs: &Runs, url: &str) -> Result<Router, Failure> {
    Ok(behind(runs, Cache::new(Redis::connect(url).await?)))
}

pub(super) async fn tiered(runs: &Runs, url: &str) -> Result<Router, Failure> {
    let store = Tiered::new(Memory::new(BYTES), Redis::connect(url).await?);
    Ok(behind(runs, Cache::new(store)))
}

fn behind(runs: &Runs, cache: Cache) -> Router {
    let policy = Policy::ttl(TTL).tag("items:id={id}").untracked();
    origin::app(runs).layer(CacheLayer::new(cache).route(ITEM, policy))
}
