//! Transactions on the primary, whose statements the cache does not see.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::Request;
use axum::routing::get;
use tidegate::{Cache, CacheLayer, Database, Listener, Memory, Policy, Sessions};

use super::common::send;
use super::world::{TTL, options, primary};

const NAME: &str = "select name from users where id = 1";

async fn read(State(db): State<Database>, Path(how): Path<String>) -> String {
    let begun = if how == "any" { db.begin().await } else { db.begin_read_only().await };
    sqlx::query_scalar(NAME).fetch_one(&mut *begun.unwrap()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_transaction_does_not_count_as_a_write() {
    let primary = primary(&[]).await;
    let db = options(&primary).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let layer = CacheLayer::new(cache)
        .route("/cached/{how}", Policy::ttl(TTL))
        .sessions(Sessions::new("the same on every node").unwrap())
        .validate()
        .unwrap();
    let app = Router::new().route("/cached/{how}", get(read)).route("/plain/{how}", get(read));
    let app = app.layer(layer).with_state(db.clone());
    for (how, has_written, detail) in [("any", true, "wrote"), ("only", false, "unnoted-reads")] {
        let get = |uri: String| Request::get(uri).body(Body::empty()).unwrap();
        let plain = send(&app, get(format!("/plain/{how}"))).await;
        assert_eq!(plain.headers().contains_key("tidegate-position"), has_written, "{how}");
        let cached = send(&app, get(format!("/cached/{how}"))).await;
        let status = cached.headers()["cache-status"].to_str().unwrap();
        assert!(status.contains(detail), "{how}: {status}");
    }
    let mut transaction = db.begin_read_only().await.unwrap();
    let update = sqlx::query("update users set name = 'eve'").execute(&mut *transaction).await;
    assert!(update.unwrap_err().to_string().contains("read-only"));
}
