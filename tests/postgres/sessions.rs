//! A client sees what it has written, on every node, and nobody can require more.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Request, StatusCode};
use axum::routing::get;
use tidegate::internals::put_clock_forward;
use tidegate::{
    Cache, CacheLayer, Database, DatabaseOptions, Event, Key, Listener, Memory, Policy, Record,
    Sessions, ValuePolicy,
};

use super::common::{eventually, fetch, send};
use super::world::{Node, TTL, options, primary, proxy};

#[tokio::test(flavor = "multi_thread")]
async fn a_write_on_one_node_is_read_on_another_at_once() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let db = options(&primary).replica(replica.url()).connect().await.unwrap();
    let policy = Policy::ttl(TTL);
    let (here, there) = (Node::start(&db, &policy).await, Node::start(&db, &policy).await);
    for round in 0..100 {
        let name = format!("user {round}");
        let token = here.put(1, &name).await;
        assert_eq!(there.get_with("/users/1", &token).await.0, name);
        assert_eq!(here.get_with("/users", &token).await.0, format!("{name} bob"));
    }
    there.warm(&["/users/2"]).await;
    let token = here.put(1, "last").await;
    let (_, status) = there.get_with("/users/2", &token).await;
    assert!(
        status.contains("hit"),
        "what the session did not change is as good as before: {status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_session_is_carried_by_a_cookie() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    let request = Request::put("/users/1").body(Body::from("eve")).unwrap();
    let response = send(&node.app, request).await;
    let cookie = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite"), "{cookie}");
    assert!(cookie.starts_with("__Host-") && cookie.contains("Secure"), "{cookie}");
    let cookie = cookie.split(';').next().unwrap();
    let headers = HeaderMap::from_iter([("cookie".parse().unwrap(), cookie.parse().unwrap())]);
    assert_eq!(node.get_with("/users/1", &headers).await.0, "eve");
    assert!(node.get_with("/users/1", &headers).await.1.contains("hit"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_session_token_is_ignored_and_counted() {
    let primary = primary(&[]).await;
    let node = Node::alone(&primary).await;
    node.warm(&["/users/1"]).await;
    let forged = "f".repeat(80);
    let headers =
        HeaderMap::from_iter([("tidegate-position".parse().unwrap(), forged.parse().unwrap())]);
    assert!(node.get_with("/users/1", &headers).await.1.contains("hit"));
    assert_eq!(node.cache.counters().event(Event::BadToken), 1);
}

/// A node that can't follow the log to where a session has written leaves its entries alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_sees_its_write_on_a_node_that_cannot_follow_the_log() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(primary.url()).listen_url(url).connect().await.unwrap();
    let policy = Policy::ttl(TTL).max_staleness(Duration::from_secs(2));
    let blind = Node::start(&db, &policy).await;
    let other = Node::alone(&primary).await;
    blind.warm(&["/users/1"]).await;
    line.freeze();
    let token = other.put(1, "eve").await;
    let (body, status) = blind.get_with("/users/1", &token).await;
    assert_eq!(body, "eve", "{status}");
    assert!(status.contains("\"session\""), "{status}");
    line.heal().await.unwrap();
    eventually("it follows again", async || {
        blind.get_with("/users/1", &token).await.1.contains("hit")
    })
    .await;
}

/// A clock decides how long something is used, and never whether it is valid.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_token_counts_however_far_the_clocks_of_nodes_differ() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(primary.url()).listen_url(url).connect().await.unwrap();
    let policy = Policy::ttl(TTL).max_staleness(Duration::from_secs(5));
    let blind = Node::start(&db, &policy).await;
    let other = Node::alone(&primary).await;
    blind.warm(&["/users/1"]).await;
    line.freeze();
    put_clock_forward(-1_200_000);
    let token = other.put(1, "eve").await;
    put_clock_forward(0);
    let (body, status) = blind.get_with("/users/1", &token).await;
    assert_eq!(body, "eve", "{status}");
    assert!(status.contains("\"session\""), "{status}");
}

/// One that a client never replaces would otherwise send its reads to the primary for good.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_token_of_an_ended_history_keeps_no_read_from_replicas() {
    let before = primary(&[]).await;
    put_clock_forward(-1_200_000);
    let token = Node::alone(&before).await.put(1, "eve").await;
    put_clock_forward(0);
    let now = primary(&[]).await;
    let replica = now.standby().await.unwrap();
    let db = options(&now).replica(replica.url()).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    let of_replica = format!("ada from {}", replica.port());
    eventually("the replica serves it", async || {
        node.get_with("/plain/1", &token).await.0 == of_replica
    })
    .await;
}

/// Such as one of before a failover. What the node does by itself (a look each second) is far less than a look for each.
#[tokio::test(flavor = "multi_thread")]
async fn security_a_token_of_another_history_does_not_cause_a_poll_per_request() {
    const REQUESTS: u64 = 300;
    let (before, now) = (primary(&[]).await, primary(&[]).await);
    let token = Node::alone(&before).await.put(1, "eve").await;
    let node = Node::alone(&now).await;
    node.warm(&["/users/1"]).await;
    let polls = node.listener.polls();
    for _ in 0..REQUESTS {
        let (body, status) = node.get_with("/users/1", &token).await;
        assert!(body == "ada" && status.contains("hit"), "{body} {status}");
    }
    let polls = node.listener.polls() - polls;
    assert!(polls > 0, "none has shown that the history is over");
    assert!(polls < REQUESTS / 5, "{polls} polls for {REQUESTS} requests");
    // A session of the present history still needs its look.
    let token = node.put(1, "eve").await;
    assert_eq!(node.get_with("/users/1", &token).await.0, "eve");
}

/// Reads a name; marks another one first, which invalidates nothing that is stored, or fails then, if the request says so.
async fn visit(State(db): State<Database>, headers: HeaderMap) -> Result<String, StatusCode> {
    if headers.contains_key("x-mark") {
        let mark = sqlx::query("update users set name = name where id = 2");
        mark.execute(db.writer()).await.unwrap();
    }
    let query = sqlx::query_scalar("select name from users where id = 1");
    let name = query.fetch_one(db.reader()).await.unwrap();
    if headers.contains_key("x-fail") { Err(StatusCode::SERVICE_UNAVAILABLE) } else { Ok(name) }
}

/// A GET that marks something as read: the session's next request, on another node, has to see that.
#[tokio::test(flavor = "multi_thread")]
async fn a_get_that_writes_returns_a_session_token_on_every_path() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(primary.url()).listen_url(url).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = Policy::ttl(TTL).max_staleness(Duration::from_millis(1500));
    let layer = CacheLayer::new(cache.clone())
        .route("/plain", policy.clone())
        .route("/shadow", policy.clone().shadow())
        .route("/fail", policy.stale_if_error(TTL))
        .sessions(Sessions::new("the same on every node").unwrap())
        .validate()
        .unwrap();
    let app = ["/plain", "/shadow", "/fail"].into_iter();
    let app = app.fold(Router::new(), |app, uri| app.route(uri, get(visit)));
    let app = app.layer(layer).with_state(db);
    let marks = async |method: Method, uri: &str, header: &'static str, way: &str| {
        let request = Request::builder().method(method).uri(uri).header("x-mark", "1");
        let request = request.header(header, "bytes=0-1").body(Body::empty()).unwrap();
        let response = send(&app, request).await;
        let status = response.headers()["cache-status"].to_str().unwrap();
        assert!(status.contains(way), "{way}: {status}");
        assert!(response.headers().contains_key("tidegate-position"), "{uri}: {status}");
    };
    marks(Method::GET, "/plain", "x", "wrote").await;
    marks(Method::HEAD, "/plain", "x", "method").await;
    marks(Method::GET, "/plain", "range", "range").await;
    eventually("stored", async || fetch(&app, "/shadow").await.1.contains("shadow")).await;
    marks(Method::HEAD, "/shadow", "x", "shadow").await;
    eventually("stored", async || fetch(&app, "/shadow").await.1.contains("shadow")).await;
    marks(Method::GET, "/shadow", "x", "shadow").await;
    eventually("stored", async || fetch(&app, "/fail").await.1.contains("hit")).await;
    cache.invalidate(["users"]).await.unwrap();
    // The stored response would lack what was written.
    marks(Method::GET, "/fail", "x-fail", "fwd-status=503").await;
    cache.set_off(true);
    marks(Method::GET, "/plain", "x", "off").await;
    cache.set_off(false);
    line.freeze();
    let is_unconfirmed = async || fetch(&app, "/plain").await.1.contains("unconfirmed");
    eventually("it trusts its entries no more", is_unconfirmed).await;
    marks(Method::GET, "/plain", "x", "unconfirmed").await;
}

/// A node that can't follow the log to the scope's write can't prove that what is stored has the write.
#[tokio::test(flavor = "multi_thread")]
async fn a_stale_value_without_the_scopes_write_is_not_served_in_place_of_an_error() {
    let primary = primary(&[]).await;
    let (line, url) = proxy(&primary).await;
    let db = DatabaseOptions::new(primary.url()).listen_url(url).connect().await.unwrap();
    let cache = Cache::new(Memory::new(1 << 20));
    Listener::spawn(&db, &cache).await.unwrap();
    let policy = ValuePolicy::ttl(TTL).stale_if_error(TTL).max_staleness(Duration::from_secs(2));
    let (policy, key) = (policy.build().unwrap(), Key::new("name").finish());
    let query = || sqlx::query_scalar::<_, String>("select name from users where id = 1");
    let stored = async || {
        cache.get_or_load(&key, &policy, async || query().fetch_one(db.reader()).await).await
    };
    let in_place_of_an_error =
        async || cache.get_or_load(&key, &policy, async || Err::<String, ()>(())).await;
    assert_eq!(Record::detached(stored()).await.unwrap(), "ada");
    line.freeze();
    let write = async {
        let update = sqlx::query("update users set name = 'eve' where id = 1");
        update.execute(db.writer()).await.unwrap();
        in_place_of_an_error().await
    };
    assert_eq!(Record::detached(write).await, Err(()));
    let other = Record::detached(in_place_of_an_error()).await;
    assert_eq!(other, Ok("ada".to_owned()), "another scope needs no more than there is");
}
