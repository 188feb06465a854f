//! Responses to writes leave, whatever has become of the connection to the log or to the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, Response, StatusCode};
use axum::routing::{get, put};
use futures_util::FutureExt;
use tidegate::{Cache, CacheLayer, Database, DatabaseOptions, Listener, Memory, Policy, Sessions};
use tidegate_testing::FaultProxy;
use tokio::time::timeout;

use super::common::{eventually, fetch, send};
use super::world::{primary, proxy};

/// Far longer than a response waits for what follows from its write.
const FAR_TOO_LONG: Duration = Duration::from_secs(40);

async fn put_to(app: &Router, uri: &str) -> Response<Body> {
    let request = Request::put(uri).body(Body::empty()).unwrap();
    let sent = timeout(FAR_TOO_LONG, send(app, request)).await;
    sent.expect("the response waits for what can't come")
}

/// The row is in the log all the same, and counts as soon as the log is followed again.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_gets_its_response_while_the_log_cannot_be_followed() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(primary.url()).listen_url(url).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache).route("/run", Policy::standard()).validate().unwrap();
    let runs = Arc::new(AtomicU32::new(0));
    let run = async move || {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        ([("cache-control", "max-age=600")], format!("run {run}"))
    };
    let app = Router::new().route("/run", get(run).put(async || ())).layer(layer);
    for breaks in [FaultProxy::cut, FaultProxy::freeze] {
        eventually("stored", async || fetch(&app, "/run").await.1.contains("hit")).await;
        let stored = fetch(&app, "/run").await.0;
        breaks(&line);
        assert_eq!(put_to(&app, "/run").await.status(), StatusCode::OK);
        line.heal().await.unwrap();
        eventually("invalid", async || {
            let (body, status) = fetch(&app, "/run").await;
            body != stored && status.contains("hit")
        })
        .await;
    }
}

/// The handler is done when its request is polled first, and the client is gone right after that. With one thread, nothing
/// else runs meanwhile.
#[tokio::test]
async fn a_client_that_disconnects_after_its_write_does_not_stop_the_invalidation() {
    let primary = primary(&[]).await;
    let db = DatabaseOptions::new(primary.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache).route("/run", Policy::standard()).validate().unwrap();
    let (runs, writes) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let run = async move || {
        let run = runs.fetch_add(1, Ordering::SeqCst);
        let headers = [("cache-control", "max-age=600"), ("cache-groups", "\"runs\"")];
        (headers, format!("run {run}"))
    };
    let write = {
        let writes = writes.clone();
        async move || {
            writes.fetch_add(1, Ordering::SeqCst);
            [("cache-group-invalidation", "\"runs\"")]
        }
    };
    let app = Router::new().route("/run", get(run).put(write.clone())).route("/other", put(write));
    let app = app.layer(layer);
    for (at, path) in ["/run", "/other"].into_iter().enumerate() {
        eventually("stored", async || fetch(&app, "/run").await.1.contains("hit")).await;
        let stored = fetch(&app, "/run").await.0;
        let request = Request::put(path).body(Body::empty()).unwrap();
        assert!(send(&app, request).now_or_never().is_none(), "it waits for the log");
        assert_eq!(writes.load(Ordering::SeqCst), u32::try_from(at).unwrap() + 1);
        eventually("invalid", async || fetch(&app, "/run").await.0 != stored).await;
    }
}

/// The session gets no token then.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_gets_its_response_if_the_primary_hangs_after_it() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(url).listen_url(primary.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache).sessions(Sessions::new("0123456789abcdef").unwrap());
    let rename = async |State((db, line)): State<(Database, Arc<FaultProxy>)>| {
        // A second connection, for the question that follows from the write.
        let sleep = async || sqlx::query("select pg_sleep(0.2)").execute(db.primary()).await;
        let (one, other) = tokio::join!(sleep(), sleep());
        one.and(other).unwrap();
        while db.primary().num_idle() < 2 {
            tokio::task::yield_now().await;
        }
        let update = "update users set name = 'eve' where id = 1";
        sqlx::query(update).execute(db.writer()).await.unwrap();
        line.freeze();
    };
    let app = Router::new().route("/rename", put(rename)).layer(layer.validate().unwrap());
    let response = put_to(&app.with_state((db, Arc::new(line))), "/rename").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("tidegate-position"));
    let name = primary.psql("select name from users where id = 1").await.unwrap();
    assert_eq!(name.trim(), "eve");
}
