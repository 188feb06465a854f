//! Leases whose reply is lost: released long before they expire.

use std::time::Duration;

use redis::cmd;
use tidegate::{Guard, Key, Lease, Redis, Store, StoreError};
use tidegate_testing::{FaultProxy, RedisServer};

use crate::common::{calls, eventually};

/// Longer than any test waits.
const LONG: Duration = Duration::from_secs(600);

/// A server whose replies come late, after the store has connected to it.
struct World {
    server: RedisServer,
    proxy: FaultProxy,
    redis: Redis,
}

impl World {
    async fn new() -> Self {
        let server = RedisServer::start().await.unwrap();
        let proxy = FaultProxy::start(server.addr()).await.unwrap();
        let redis = Redis::connect(format!("redis://{}/", proxy.addr())).await.unwrap();
        proxy.delay(LONG);
        Self { server, proxy, redis }
    }

    /// Asks for a lease, and returns when the server has granted it.
    async fn ask(&self) -> tokio::task::JoinHandle<Result<Lease, StoreError>> {
        let redis = self.redis.clone();
        let asked = tokio::spawn(async move { redis.lease(&key(), LONG).await });
        eventually("the server takes the lease", async || calls(&self.server, "set").await == 1)
            .await;
        asked
    }

    async fn is_released(&self) {
        eventually("the lease is released", async || {
            let leases = self.server.run::<Vec<String>>(cmd("KEYS").arg("*:lease:*")).await;
            leases.unwrap().is_empty()
        })
        .await;
        assert_eq!(calls(&self.server, "set").await, 1);
    }
}

fn key() -> Key {
    Key::new("leases").finish()
}

#[tokio::test]
async fn a_lease_is_released_if_the_request_for_it_is_cancelled() {
    let world = World::new().await;
    world.ask().await.abort();
    world.is_released().await;
}

#[tokio::test]
async fn a_lease_is_released_if_the_reply_comes_too_late() {
    let world = World::new().await;
    let guard = Guard::new(world.redis.clone()).read_within(Duration::from_millis(50));
    let lease = guard.lease(&key(), LONG).await;
    assert!(matches!(lease, Err(StoreError::Timeout(_))), "{lease:?}");
    eventually("the server takes the lease", async || calls(&world.server, "set").await == 1).await;
    world.is_released().await;
}

#[tokio::test]
async fn a_lease_is_released_if_the_connection_is_lost_before_the_reply() {
    let world = World::new().await;
    let asked = world.ask().await;
    world.proxy.cut();
    assert!(asked.await.unwrap().is_err());
    world.proxy.heal().await.unwrap();
    world.is_released().await;
}
