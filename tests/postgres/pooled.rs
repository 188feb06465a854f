//! Proxies that share sessions out among clients.

use tidegate::{DatabaseError, Policy};
use tidegate_testing::PgBouncer;

use super::common::eventually;
use super::pooler;
use super::world::{Node, TTL, options, primary};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_switches_servers_between_transactions_causes_no_stale_response() {
    let primary = primary(&[]).await;
    let replicas = [primary.standby().await.unwrap(), primary.standby().await.unwrap()];
    let [late, good] = &replicas;
    let url = pooler::start(&[late.addr(), good.addr()]).await;
    let db = options(&primary).replica(url).connect().await.unwrap();
    assert!(db.replicas()[0].several, "it was found out");
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    let up = async || node.db.replicas()[0].reached.is_some();
    eventually("a replica is up", up).await;
    late.pause_replay().await.unwrap();
    for round in 0..20 {
        let name = format!("eve {round}");
        let token = node.put(1, &name).await;
        node.sees("/users/1", &name).await;
        for _ in 0..10 {
            node.cache.invalidate(["users:id=2"]).await.unwrap();
            node.get("/users").await;
            assert_eq!(node.get("/users/1").await.0, name, "round {round}");
            let (own, _) = node.get_with("/plain/1", &token).await;
            assert!(own.starts_with(&name), "round {round}: {own}");
            let (all, status) = node.get("/users").await;
            assert!(all.starts_with(&name), "round {round}: {all}, {status}");
        }
    }
}

/// Each query for the position of the replica reaches another process, and the replica stays up.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_behind_a_proxy_with_alternating_sessions_stays_up() {
    let primary = primary(&[]).await;
    let replica = primary.standby().await.unwrap();
    let url = pooler::start_by_turns(&[replica.addr(), replica.addr()]).await;
    let db = options(&primary).replica(url).connect().await.unwrap();
    let is_up = || db.replicas()[0].reached.is_some();
    eventually("the replica is up", async || is_up()).await;
    let mut served = 0;
    for _ in 0..20 {
        // Some time, in which its position is queried.
        replica.psql("select 1").await.unwrap();
        let port = sqlx::query_scalar::<_, i32>("select inet_server_port()");
        let port = port.fetch_one(db.reader()).await.unwrap();
        served += usize::from(is_up() && port == i32::from(replica.port()));
    }
    // On a busy machine a reply may come too late.
    assert!(served > 15, "it was up {served} times of 20");
}

/// As after a failover that went wrong: some transactions reach a standby.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_behind_the_primarys_name_is_never_read() {
    let primary = primary(&[]).await;
    let standby = primary.standby().await.unwrap();
    let url = pooler::start(&[standby.addr(), primary.addr()]).await;
    let options = tidegate::DatabaseOptions::new(url).listen_url(primary.url());
    let node = Node::start(&options.connect().await.unwrap(), &Policy::ttl(TTL)).await;
    node.warm(&["/users/1", "/users"]).await;
    standby.pause_replay().await.unwrap();
    let mut fresh = 0;
    for round in 0..10 {
        let name = format!("eve {round}");
        let token = node.put(1, &name).await;
        for uri in ["/plain/1", "/users/1", "/plain/1", "/users/1"] {
            // Which server it is, is up to the proxy; two standbys in a row are an error.
            let (body, _) = node.get_with(uri, &token).await;
            assert!(body.is_empty() || body.starts_with(&name), "round {round}: {body}");
            fresh += usize::from(!body.is_empty());
        }
        node.sees("/users", &format!("{name} bob")).await;
    }
    assert!(fresh > 20, "{fresh} of 40 succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn pgbouncer_is_refused_unless_it_keeps_prepared_statements_apart() {
    let primary = primary(&[]).await;
    let server = [("shop", primary.addr())];
    let session = PgBouncer::start("session", &server).await.unwrap();
    let options = |proxy: &PgBouncer| {
        tidegate::DatabaseOptions::new(proxy.url("shop")).listen_url(primary.url())
    };
    let db = options(&session).connect().await.unwrap();
    let node = Node::start(&db, &Policy::ttl(TTL)).await;
    node.warm(&["/users/1"]).await;
    let shared = PgBouncer::start("transaction", &server).await.unwrap();
    let connected = options(&shared).connect().await;
    if PgBouncer::keeps_statements_apart().await.unwrap() {
        let node = Node::start(&connected.unwrap(), &Policy::ttl(TTL)).await;
        node.warm(&["/users/1"]).await;
    } else {
        let error = connected.unwrap_err();
        assert!(matches!(error, DatabaseError::MixedStatements(_)), "{error}");
        assert!(error.to_string().contains("max_prepared_statements"), "{error}");
    }
}
