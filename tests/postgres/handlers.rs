//! A handler as people write it, which uses every kind of cached result: its future is `Send`.

use std::collections::HashMap;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use tidegate::{Cache, Cached, Database, Key, ValuePolicy};

use super::common::{eventually, fetch};
use super::world::{Node, TTL, primary};

#[derive(Clone)]
struct App {
    db: Database,
    cache: Cache,
    queries: Cached,
    policy: ValuePolicy,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "ids of any size are passed so")]
fn key(id: &i32) -> Key {
    Key::new("name").part(id.to_string()).finish()
}

#[expect(clippy::needless_pass_by_value, reason = "`map_err` passes it so")]
fn unavailable(error: sqlx::Error) -> StatusCode {
    tracing::warn!(%error, "a read failed");
    StatusCode::SERVICE_UNAVAILABLE
}

async fn page(State(app): State<App>, Path(id): Path<i32>) -> Result<String, StatusCode> {
    let all: Vec<(i32, String)> = app
        .queries
        .fetch_all(sqlx::query("select id, name from users order by id"))
        .await
        .map_err(unavailable)?;
    let one: String = app
        .cache
        .get_or_load(&key(&id), &app.policy.for_id(id), async || {
            let query = sqlx::query_scalar("select name from users where id = $1").bind(id);
            query.fetch_one(app.db.reader()).await.map_err(unavailable)
        })
        .await?;
    let ids = all.iter().map(|(id, _)| *id);
    let names = app
        .cache
        .get_many(ids, key, &app.policy, async |missing: Vec<i32>| {
            let query = sqlx::query_as("select id, name from users where id = any ($1)");
            let rows: Vec<(i32, String)> =
                query.bind(missing).fetch_all(app.db.reader()).await.map_err(unavailable)?;
            Ok::<HashMap<_, _>, StatusCode>(rows.into_iter().collect())
        })
        .await?;
    Ok(format!("{one}: {} of {}", names.len(), all.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_can_combine_cached_queries_values_and_batches() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    let policy = ValuePolicy::ttl(TTL).tag("users:id={id}").build().unwrap();
    let queries = node.db.cached(&node.cache, ValuePolicy::ttl(TTL).build().unwrap());
    let app = App { db: node.db.clone(), cache: node.cache.clone(), queries, policy };
    let app = Router::new().route("/{id}", get(page)).with_state(app);
    assert_eq!(fetch(&app, "/1").await.0, "ada: 2 of 2");
    primary.psql("update users set name = 'eve' where id = 1").await.unwrap();
    eventually("the change", async || fetch(&app, "/1").await.0 == "eve: 2 of 2").await;
}
