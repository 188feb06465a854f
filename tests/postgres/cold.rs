//! A cold start at full load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use futures_util::future::join_all;
use sqlx::Connection;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy};

use super::common::{eventually, fetch};
use super::world::{TTL, connect, options, primary};

/// How many handlers run, and how many ran at once at most.
#[derive(Clone, Default)]
struct Load(Arc<[AtomicUsize; 2]>);

async fn slow(State(Load(load)): State<Load>) -> &'static str {
    let running = load[0].fetch_add(1, Ordering::SeqCst) + 1;
    load[1].fetch_max(running, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(10)).await;
    load[0].fetch_sub(1, Ordering::SeqCst);
    "computed"
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
    let responses = join_all(uris.iter().map(|uri| fetch(&app, uri))).await;
    assert!(responses.iter().all(|(body, _)| body == "computed"));
    assert_eq!(load.0[1].load(Ordering::SeqCst), LIMIT);
    let again = join_all(uris.iter().map(|uri| fetch(&app, uri))).await;
    assert!(again.iter().all(|(_, status)| status.contains("hit")));
}

async fn query(
    State((db, Load(load))): State<(Database, Load)>,
) -> Result<&'static str, StatusCode> {
    let running = load[0].fetch_add(1, Ordering::SeqCst) + 1;
    load[1].fetch_max(running, Ordering::SeqCst);
    let read = sqlx::query("select 1 from gate").execute(db.reader()).await;
    load[0].fetch_sub(1, Ordering::SeqCst);
    read.map(|_| "computed").map_err(|_| StatusCode::SERVICE_UNAVAILABLE)
}

/// Many requests at once, which wait for a permit for as long as it takes. Reads wait at a locked table until `limit`
/// handlers run and `hold` has passed, and ten reads hold all connections. Returns how many requests failed, and how many
/// handlers ran at once at most.
async fn cold_start(
    policy: Policy,
    limit: usize,
    patience: Duration,
    hold: Duration,
) -> (usize, usize) {
    let primary = primary(&[]).await;
    primary.psql("create table gate ()").await.unwrap();
    let db = options(&primary).connections(10).wait(patience).connect().await.unwrap();
    let (cache, load) = (Cache::new(Memory::new(64 << 20)), Load::default());
    Listener::spawn(&db, &cache).await.unwrap();
    let app = Router::new()
        .route("/{key}", get(query))
        .layer(CacheLayer::new(cache.clone()).route("/{key}", policy.wait(TTL).untracked()))
        .with_state((db, load.clone()));
    let mut locker = connect(&primary).await;
    let mut gate = locker.begin().await.unwrap();
    sqlx::query("lock table gate").execute(&mut *gate).await.unwrap();
    let uris: Vec<String> = (0..400).map(|key| format!("/{key}")).collect();
    let requests = join_all(uris.iter().map(|uri| fetch(&app, uri)));
    let open = async {
        let waiting = "select count(*) from pg_locks where not granted";
        eventually("ten reads hold the connections", async || {
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut *gate).await.unwrap();
            waiting == 10 && load.0[0].load(Ordering::SeqCst) >= limit
        })
        .await;
        tokio::time::sleep(hold).await;
        gate.commit().await.unwrap();
    };
    let (responses, ()) = tokio::join!(requests, open);
    let failed = responses.iter().filter(|(body, _)| body != "computed").count();
    (failed, load.0[1].load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_cold_start_runs_no_more_handlers_than_its_permits() {
    // Of four fills for each of ten connections one route has three quarters.
    assert_eq!(cold_start(Policy::ttl(TTL), 30, TTL, Duration::ZERO).await, (0, 30));
}

/// All but ten wait longer than a read waits for a connection.
#[tokio::test]
async fn a_cold_start_queues_for_permits_and_not_for_connections() {
    let patience = Duration::from_secs(3);
    let hold = patience + Duration::from_secs(1);
    assert_eq!(cold_start(Policy::ttl(TTL).fills(10), 10, patience, hold).await, (0, 10));
}
