//! Requests that are cancelled while a transaction begins: no connection goes back to its pool inside one.
//!
//! sqlx counts a transaction from the response to its `BEGIN` on, so it rolls none back that is cancelled before
//! (<https://github.com/transact-rs/sqlx/issues/4393>).

use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use tidegate::{Database, DatabaseOptions, Policy};
use tidegate_testing::{FaultProxy, Postgres};
use tokio::task::JoinHandle;

use super::common::{eventually, send};
use super::world::{Node, TTL, connect, primary, proxy};

/// Longer than it takes to see that `BEGIN` has come to the server.
const DELAY: Duration = Duration::from_secs(3);

/// Whether the last that a session has run is `BEGIN`.
const BEGUN: &str = "select count(*) > 0 from pg_stat_activity
    where pid = $1 and state = 'idle in transaction' and query like 'BEGIN%'";

struct Bed {
    primary: Postgres,
    network: FaultProxy,
    db: Database,
    /// The session of the only connection in the pool.
    pid: i32,
}

/// A primary, and a database by one connection over a network that is slow on demand.
async fn bed() -> Bed {
    let primary = primary(&[]).await;
    let (network, url) = proxy(&primary).await;
    let options = DatabaseOptions::new(url).connections(1).wait(Duration::from_mins(1));
    let db = options.connect().await.unwrap();
    Bed { primary, network, db, pid: 0 }
}

/// Cancels what `begins` does, once the server has run its `BEGIN` and before its response is here.
async fn cancel<T: Send + 'static>(
    bed: &mut Bed,
    begins: impl Future<Output = T> + Send + 'static,
) {
    let pid = sqlx::query_scalar("select pg_backend_pid()").fetch_one(bed.db.writer());
    bed.pid = pid.await.unwrap();
    // It is pinged before it is idle, which would be slow as well.
    eventually("the connection is idle", async || bed.db.status()[0].idle_connections == 1).await;
    let mut conn = connect(&bed.primary).await;
    bed.network.delay(DELAY);
    let begins: JoinHandle<T> = tokio::spawn(begins);
    eventually("BEGIN has run", async || {
        sqlx::query_scalar(BEGUN).bind(bed.pid).fetch_one(&mut conn).await.unwrap()
    })
    .await;
    begins.abort();
    assert!(begins.await.is_err_and(|error| error.is_cancelled()), "it was cancelled too late");
    bed.network.heal().await.unwrap();
}

/// What is written next is committed, and the session's transaction has ended.
async fn assert_usable(bed: &Bed, id: i32) {
    let insert = sqlx::query("insert into users values ($1, 'eve')").bind(id);
    insert.execute(bed.db.writer()).await.unwrap();
    let name = format!("select name from users where id = {id}");
    assert_eq!(bed.primary.psql(&name).await.unwrap(), "eve", "the write was not committed");
    let open = "select count(*) from pg_stat_activity where state like 'idle in transaction%'";
    let open = format!("{open} and pid = {}", bed.pid);
    eventually("no transaction is open", async || bed.primary.psql(&open).await.unwrap() == "0")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_begin_is_rolled_back() {
    let mut bed = bed().await;
    let db = bed.db.clone();
    cancel(&mut bed, async move { db.begin().await.map(drop) }).await;
    assert_usable(&bed, 7).await;
    let db = bed.db.clone();
    cancel(&mut bed, async move { db.begin_read_only().await.map(drop) }).await;
    assert_usable(&bed, 8).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_catalog_lookup_leaves_no_open_transaction() {
    let mut bed = bed().await;
    let node = Node::start(&bed.db, &Policy::ttl(TTL)).await;
    let request = Request::get("/users/1").body(Body::empty()).unwrap();
    let app = node.app.clone();
    cancel(&mut bed, async move { send(&app, request).await }).await;
    assert_usable(&bed, 7).await;
}
