//! Stored responses that are compared with those of the handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::common::{drains, eventually, fetch, send};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Request, StatusCode};
use axum::routing::get;
use sqlx::Connection;
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Event, Listener, Memory, Policy, Triggers,
};
use tidegate_testing::Postgres;

const TTL: Duration = Duration::from_mins(1);

fn policy() -> Policy {
    Policy::ttl(TTL).early_refresh(0.0)
}

/// A handler that returns a number outside of any database, and how often it ran.
struct Outside {
    app: Router,
    cache: Cache,
    number: Arc<AtomicU32>,
    runs: Arc<AtomicU32>,
}

fn outside(policy: Policy) -> Outside {
    let (number, runs) = (Arc::new(AtomicU32::new(7)), Arc::new(AtomicU32::new(0)));
    let handler = {
        let (number, runs) = (number.clone(), runs.clone());
        async move || {
            runs.fetch_add(1, Ordering::SeqCst);
            format!("the number is {}", number.load(Ordering::SeqCst))
        }
    };
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::new(cache.clone()).route("/number", policy);
    let app = Router::new().route("/number", get(handler)).layer(layer);
    Outside { app, cache, number, runs }
}

impl Outside {
    /// Compared and divergent.
    fn audited(&self) -> (u64, u64) {
        let all = self.cache.audits();
        all.get("/number").map_or((0, 0), |audited| (audited.compared, audited.divergent))
    }
}

#[tokio::test]
async fn an_audit_detects_a_hit_that_differs_from_the_handlers_response() {
    let outside = outside(policy().audit(1.0));
    fetch(&outside.app, "/number").await;
    assert_eq!(outside.audited(), (0, 0), "a miss is fresh");
    fetch(&outside.app, "/number").await;
    eventually("it is compared", async || outside.audited() == (1, 0)).await;
    outside.number.store(8, Ordering::SeqCst);
    let (body, status) = fetch(&outside.app, "/number").await;
    assert!(body == "the number is 7" && status.contains("; hit; "), "{status}");
    eventually("it is found out", async || outside.audited() == (2, 1)).await;
    // Of the same length, or longer, or with another status.
    for number in [17, 9] {
        outside.number.store(number, Ordering::SeqCst);
        fetch(&outside.app, "/number").await;
    }
    eventually("so are these", async || outside.audited() == (4, 3)).await;
    assert_eq!(outside.runs.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn the_configured_share_of_hits_is_audited() {
    for (share, few, many) in [(0.0, 0, 0), (0.2, 20, 400)] {
        let outside = outside(policy().audit(share));
        for _ in 0..1001 {
            fetch(&outside.app, "/number").await;
        }
        let runs = || u64::from(outside.runs.load(Ordering::SeqCst)) - 1;
        let through = async || runs() >= few && outside.audited().0 == runs();
        eventually("all are through", through).await;
        assert!((few..=many).contains(&runs()), "{} of 1000 at {share}", runs());
        assert_eq!(outside.audited().1, 0);
    }
}

#[tokio::test]
async fn a_shadow_route_serves_the_handlers_response_and_audits_the_entry() {
    let outside = outside(policy().shadow());
    let (_, status) = fetch(&outside.app, "/number").await;
    assert!(status.contains("stored"), "{status}");
    let (_, status) = fetch(&outside.app, "/number").await;
    assert_eq!(status, "tidegate; fwd=bypass; detail=\"shadow\"");
    assert_eq!(outside.audited(), (1, 0));
    outside.number.store(8, Ordering::SeqCst);
    assert_eq!(fetch(&outside.app, "/number").await.0, "the number is 8", "fresh in any case");
    eventually("it would have been wrong", async || outside.audited() == (2, 1)).await;
    assert_eq!(outside.cache.counters().event(Event::Stored), 1);
    // What can't be compared is passed on as it is.
    let only = Request::get("/number").header("cache-control", "only-if-cached");
    let only = send(&outside.app, only.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(only.status(), StatusCode::OK);
    let head = Request::head("/number").body(axum::body::Body::empty()).unwrap();
    assert_eq!(send(&outside.app, head).await.status(), StatusCode::OK);
    assert_eq!(outside.runs.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn an_invalid_audit_share_is_refused() {
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::new(cache).route("/", policy().audit(1.5));
    assert!(layer.validate().unwrap_err().to_string().contains("audited share"));
}

async fn read(State(db): State<Database>, Path(id): Path<i32>) -> String {
    let query = sqlx::query_scalar::<_, i32>("select n from t where id = $1").bind(id);
    query.fetch_one(db.reader()).await.unwrap().to_string()
}

#[tokio::test]
async fn a_change_between_a_hit_and_its_audit_is_not_a_divergence() {
    let server = Postgres::start().await.unwrap();
    server
        .psql("create table t (id int primary key, n int); insert into t values (1, 0)")
        .await
        .unwrap();
    let mut conn = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    Triggers::new().table("t").install(&mut conn).await.unwrap();
    let db = DatabaseOptions::new(server.url()).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache.clone()).route("/{id}", policy().audit(1.0));
    let running = Arc::new(AtomicU32::new(0));
    let read = {
        let running = running.clone();
        async move |db: State<Database>, id: Path<i32>| {
            running.fetch_add(1, Ordering::SeqCst);
            let response = read(db, id).await;
            running.fetch_sub(1, Ordering::SeqCst);
            response
        }
    };
    let app = Router::new().route("/{id}", get(read)).layer(layer).with_state(db.clone());
    for n in 1..=100 {
        fetch(&app, "/1").await;
        let write = sqlx::query("update t set n = $1").bind(n).execute(&mut conn);
        // Hits of just before and just after the write, which the node does not know yet.
        let (written, ..) = tokio::join!(write, fetch(&app, "/1"), fetch(&app, "/1"));
        written.unwrap();
        fetch(&app, "/1").await;
    }
    // On a busy machine each may have met with a write. What follows does not.
    eventually("one is compared", async || {
        fetch(&app, "/1").await;
        cache.audits().get("/{id}").is_some_and(|audited| audited.compared > 0)
    })
    .await;
    let audited = || cache.audits()["/{id}"].clone();
    assert!(audited().compared > 0 && audited().bound() < 1.0);
    // Tasks begin in the order in which they are spawned, so after a drain no comparison is still to begin. A difference is
    // judged after the next drain.
    drains(&cache, 1).await;
    eventually("no handler runs", async || running.load(Ordering::SeqCst) == 0).await;
    drains(&cache, 2).await;
    assert_eq!(audited().divergent, 0, "{:?}", audited());
}
