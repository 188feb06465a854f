//! A client sees what it has written, on every node, and nobody can ask for more.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, Request};
use tidegate::{DatabaseOptions, Event, Policy};

use super::common::{eventually, send};
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
async fn browsers_are_served_by_cookie() {
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
async fn a_forged_token_is_worth_nothing_and_is_counted() {
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
async fn a_session_gets_its_write_from_a_node_that_lost_sight_of_the_log() {
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

/// Such as one of before a failover. What the node does by itself (a look each second) is far less than a look for each.
#[tokio::test(flavor = "multi_thread")]
async fn security_a_token_of_another_history_does_not_cost_a_look_for_each_request() {
    const REQUESTS: u64 = 300;
    let (before, now) = (primary(&[]).await, primary(&[]).await);
    let token = Node::alone(&before).await.put(1, "eve").await;
    let node = Node::alone(&now).await;
    node.warm(&["/users/1"]).await;
    let looks = node.listener.looks();
    for _ in 0..REQUESTS {
        let (body, status) = node.get_with("/users/1", &token).await;
        assert!(body == "ada" && status.contains("hit"), "{body} {status}");
    }
    let looks = node.listener.looks() - looks;
    assert!(looks > 0, "none has shown that the history is over");
    assert!(looks < REQUESTS / 5, "{looks} looks for {REQUESTS} requests");
    // A session of the present history still needs its look.
    let token = node.put(1, "eve").await;
    assert_eq!(node.get_with("/users/1", &token).await.0, "eve");
}
