//! Leases whose reply is lost: released long before they expire.

use std::time::Duration;

use redis::cmd;
use tidegate::{Guard, Key, Redis, Store, StoreError};
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
        // The server knows the script by then: otherwise the first reply would only say that it does not.
        redis.get_or_lease(&Key::new("other").finish(), LONG, None).await.unwrap();
        server.run::<()>(&cmd("FLUSHALL")).await.unwrap();
        server.run::<()>(cmd("CONFIG").arg("RESETSTAT")).await.unwrap();
        proxy.delay(LONG);
        Self { server, proxy, redis }
    }

    /// Requests a lease, and returns when the server has granted it.
    async fn request_lease(
        &self,
        with_entry: bool,
    ) -> tokio::task::JoinHandle<Result<(), StoreError>> {
        let redis = self.redis.clone();
        let request = tokio::spawn(async move {
            match with_entry {
                true => redis.get_or_lease(&key(), LONG, None).await.map(drop),
                false => redis.lease(&key(), LONG).await.map(drop),
            }
        });
        eventually("the server takes the lease", async || calls(&self.server, "set").await == 1)
            .await;
        request
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
    for with_entry in [false, true] {
        let world = World::new().await;
        world.request_lease(with_entry).await.abort();
        world.is_released().await;
    }
}

#[tokio::test]
async fn a_lease_is_released_if_the_reply_comes_too_late() {
    for with_entry in [false, true] {
        let world = World::new().await;
        let guard = Guard::new(world.redis.clone()).read_within(Duration::from_millis(50));
        let lease = match with_entry {
            true => guard.get_or_lease(&key(), LONG, None).await.map(drop),
            false => guard.lease(&key(), LONG).await.map(drop),
        };
        assert!(matches!(lease, Err(StoreError::Timeout(_))), "{lease:?}");
        let is_taken = async || calls(&world.server, "set").await == 1;
        eventually("the server takes the lease", is_taken).await;
        world.is_released().await;
    }
}

#[tokio::test]
async fn a_lease_is_released_if_the_connection_is_lost_before_the_reply() {
    for with_entry in [false, true] {
        let world = World::new().await;
        let request = world.request_lease(with_entry).await;
        world.proxy.cut();
        assert!(request.await.unwrap().is_err());
        world.proxy.heal().await.unwrap();
        world.is_released().await;
    }
}
