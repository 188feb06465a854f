//! The cache's metrics, for Prometheus to scrape. No server is needed.
//!
//! `cargo run -p tidegate-examples --example metrics --features metrics`, then
//! `curl localhost:8080/products/1` a few times, and `curl localhost:8080/metrics`.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tidegate::{Cache, CacheLayer, Memory, Metrics, Policy};
use tokio::net::TcpListener;

/// Bounds of the histograms, in seconds: from a call to a nearby Redis to a slow load in the background.
const BOUNDS: [f64; 11] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2.0];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prometheus = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BOUNDS)?
        .install_recorder()?;

    let cache = Cache::new(Memory::new(64 << 20));
    let metrics = Metrics::new(&cache); // with a database: .database(&db)
    let scrape = async move || {
        metrics.record();
        prometheus.run_upkeep();
        prometheus.render()
    };

    let policy = Policy::ttl(Duration::from_mins(1)).tag("products");
    let app = Router::new()
        .route("/products/{id}", get(async |Path(id): Path<u32>| format!("product {id}")))
        .layer(CacheLayer::new(cache).route("/products/{id}", policy))
        .route("/metrics", get(scrape));
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8080".into());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    axum::serve(listener, app).await?;
    Ok(())
}
