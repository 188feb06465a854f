//! Cached routes with a description for clients: by utoipa-axum, and by aide.

pub mod by_aide;
pub mod by_utoipa;

use std::time::Duration;

use tidegate::{Cache, CacheLayer, Policy, PolicyError};

/// Caches the route of both services.
fn layer(cache: Cache) -> Result<CacheLayer, PolicyError> {
    CacheLayer::new(cache)
        .route("/shop/products/{id}", Policy::ttl(Duration::from_secs(60)))
        .validate()
}
