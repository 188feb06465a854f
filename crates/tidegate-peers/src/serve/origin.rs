//! The handler that has the answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};
use bytes::Bytes;

use super::ITEM;

/// How often a handler made an answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Runs(Arc<AtomicU64>);

impl Runs {
    pub(super) fn note(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// 1 KiB of JSON.
pub(crate) fn body() -> String {
    format!("{{\"text\":\"{}\"}}", "x".repeat(1024 - 11))
}

/// What every variant answers with.
pub(super) fn answer(body: Bytes) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], body)
}

pub(super) fn handler(runs: &Runs) -> MethodRouter {
    let (runs, body) = (runs.clone(), Bytes::from(body()));
    get(move || async move {
        runs.note();
        answer(body)
    })
}

pub(super) fn app(runs: &Runs) -> Router {
    Router::new().route(ITEM, handler(runs))
}
