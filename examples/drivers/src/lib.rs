//! Services that read by another driver than sqlx, with a cache: each response is proven fresh as if its handler read
//! through `Database::reader`.
//!
//! To do the same, copy [`declare`] and the file of your driver. Each file has a `Service` with the pools, a method
//! that reads, and a router as an example.

pub mod by_diesel;
pub mod by_sea_orm;
pub mod by_tokio_postgres;
pub mod declare;

use std::time::Duration;

use axum::http::StatusCode;
use tidegate::{Cache, CacheLayer, Policy, PolicyError};

/// What a read or a write failed with.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The layer of each example.
fn layer(cache: Cache) -> Result<CacheLayer, PolicyError> {
    CacheLayer::new(cache).route("/users/{id}", Policy::ttl(Duration::from_mins(5))).validate()
}

fn unavailable(error: impl Into<Failure>) -> StatusCode {
    tracing::warn!(error = error.into(), "the database failed");
    StatusCode::SERVICE_UNAVAILABLE
}
