//! A cold start at full load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::future::join_all;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy};

use super::common::ask;
use super::world::{TTL, options, primary};

/// How many handlers run, and how many ran at once at most.
#[derive(Clone, Default)]
struct Load(Arc<[AtomicUsize; 2]>);

async fn slow(State(Load(load)): State<Load>) -> &'static str {
    let running = load[0].fetch_add(1, Ordering::SeqCst) + 1;
    load[1].fetch_max(running, Ordering::SeqCst);
    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    load[0].fetch_sub(1, Ordering::SeqCst);
    "made"
}

#[tokio::test(start_paused = true)]
async fn no_more_fills_run_at_once_than_the_limit_for_any_number_of_requests() {
    const LIMIT: usize = 8;
    let (cache, load) =
        (Cache::with_limits(Memory::new(64 << 20), 1 << 20, LIMIT), Load::default());
    let app = Router::new()
        .route("/{key}", get(slow))
        .layer(CacheLayer::new(cache).route("/{key}", Policy::ttl(TTL).fills(LIMIT)))
        .with_state(load.clone());
    let uris: Vec<String> = (0..1000).map(|key| format!("/{key}")).collect();
    let answers = join_all(uris.iter().map(|uri| ask(&app, uri))).await;
    assert!(answers.iter().all(|(body, _)| body == "made"));
    assert_eq!(load.0[1].load(Ordering::SeqCst), LIMIT);
    let again = join_all(uris.iter().map(|uri| ask(&app, uri))).await;
    assert!(again.iter().all(|(_, status)| status.contains("hit")));
}

async fn query(
    State((db, Load(load))): State<(Database, Load)>,
) -> Result<&'static str, StatusCode> {
    let running = load[0].fetch_add(1, Ordering::SeqCst) + 1;
    load[1].fetch_max(running, Ordering::SeqCst);
    let slow = sqlx::query("select pg_sleep(0.05)").execute(db.reader()).await;
    load[0].fetch_sub(1, Ordering::SeqCst);
    slow.map(|_| "made").map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

/// All of them take twice as long as a read waits for a connection.
#[tokio::test]
async fn a_cold_start_queues_for_permits_and_not_for_connections() {
    let primary = primary(&[]).await;
    let patience = std::time::Duration::from_secs(1);
    let db = options(&primary).wait(patience).connect().await.unwrap();
    let (cache, load) = (Cache::new(Memory::new(64 << 20)), Load::default());
    Listener::spawn(&db, &cache).await.unwrap();
    let app = Router::new()
        .route("/{key}", get(query))
        .layer(CacheLayer::new(cache.clone()).route("/{key}", Policy::ttl(TTL).untracked()))
        .with_state((db, load.clone()));
    let uris: Vec<String> = (0..400).map(|key| format!("/{key}")).collect();
    let answers = join_all(uris.iter().map(|uri| ask(&app, uri))).await;
    let failed = answers.iter().filter(|(body, _)| body != "made").count();
    // Of four fills for each of ten connections one route has three quarters.
    assert_eq!((failed, load.0[1].load(Ordering::SeqCst)), (0, 30));
}
