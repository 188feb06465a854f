//! The same router behind API Gateway, as a Lambda function.
//!
//! Build it with `cargo lambda build -p tidegate-example-lambda`, or in any other way for the Rust runtime. A frozen
//! function keeps its memory, so its cached responses are still there when it is thawed. A REST API's stage is part of
//! the path unless `AWS_LAMBDA_HTTP_IGNORE_STAGE_IN_PATH` is `true`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Memory, Policy};

async fn price(Path(item): Path<String>, State(runs): State<Arc<AtomicU32>>) -> String {
    let run = runs.fetch_add(1, Ordering::Relaxed) + 1;
    format!("the price of {item}, looked up by run {run}")
}

#[tokio::main]
async fn main() -> Result<(), lambda_http::Error> {
    let cache = Cache::new(Memory::new(64 << 20));
    // API Gateway's authorizer puts the client's identity into the request's extensions, but prices are the same for all.
    let policy = Policy::ttl(Duration::from_secs(60)).tag("prices:item={item}").public();
    let app = Router::new()
        .route("/prices/{item}", get(price))
        .layer(CacheLayer::new(cache).route("/prices/{item}", policy).validate()?)
        .with_state(Arc::default());
    lambda_http::run(app).await
}
