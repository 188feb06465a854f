//! hitbox: its layer on the route, with a key of method and path, as its documentation shows.

use axum::Router;
use axum::body::Body;
use axum::http::{Method, StatusCode};
use hitbox::Config;
use hitbox::backend::CacheBackend;
use hitbox::policy::PolicyConfig;
use hitbox_backend::format::BincodeFormat;
use hitbox_http::extractors::Method as MethodOf;
use hitbox_http::extractors::path::PathExtractor;
use hitbox_http::predicates::{NeutralRequestPredicate, request, response};
use hitbox_moka::MokaBackend;
use hitbox_redis::{ConnectionMode, RedisBackend};
use hitbox_tower::Cache;

use super::origin::{self, Runs};
use super::{ENTRIES, ITEM, TTL};
use crate::Failure;

/// With the format that its documentation recommends instead of the default, which is JSON.
pub(super) fn memory(runs: &Runs) -> Router {
    let backend = MokaBackend::builder().max_entries(ENTRIES).value_format(BincodeFormat).build();
    behind(runs, backend)
}

pub(super) fn redis(runs: &Runs, url: &str) -> Result<Router, Failure> {
    let backend = RedisBackend::builder().connection(ConnectionMode::single(url)).build()?;
    Ok(behind(runs, backend))
}

fn behind<B: CacheBackend + Clone + Send + Sync + 'static>(runs: &Runs, backend: B) -> Router {
    let any = NeutralRequestPredicate::<Body>::new();
    let request = request::Method::new_in(any, vec![Method::GET]);
    let config = Config::builder()
        .request_predicate(request)
        .response_predicate(response::StatusCode::new(StatusCode::OK))
        .extractor(MethodOf::new().path(ITEM))
        .policy(PolicyConfig::builder().ttl(TTL).build())
        .build();
    let layer = Cache::builder().backend(backend).config(config).build();
    Router::new().route(ITEM, origin::handler(runs).layer(layer))
}
