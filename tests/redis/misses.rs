//! What a miss costs Redis, and what becomes of it where scripts are refused.

use std::convert::Infallible;
use std::time::Duration;

use redis::cmd;
use tidegate::{Cache, Key, Redis, ValuePolicy};
use tidegate_testing::RedisServer;

use crate::common::{calls, eventually};
use crate::entries;
use crate::world::tiered;

const TTL: Duration = Duration::from_mins(1);

fn policy() -> ValuePolicy {
    ValuePolicy::ttl(TTL).jitter(0.0).early_refresh(0.0).tag("t").build().unwrap()
}

fn key(name: &str) -> Key {
    Key::new("misses").part(name).finish()
}

/// A server, and a node that nothing is known of yet.
struct World {
    server: RedisServer,
    cache: Cache,
    policy: ValuePolicy,
}

impl World {
    async fn new() -> Self {
        let server = RedisServer::start().await.unwrap();
        let redis = Redis::connect(server.url()).await.unwrap();
        Self { server, cache: tiered(redis), policy: policy() }
    }

    /// How often Redis ran GET, MGET, EVAL and EVALSHA before a value was computed. A script's own commands count too.
    async fn commands(&self, name: &str) -> [usize; 4] {
        let counts = async || {
            let mut counts = [0; 4];
            for (count, command) in counts.iter_mut().zip(["get", "mget", "eval", "evalsha"]) {
                *count = calls(&self.server, command).await;
            }
            counts
        };
        let (before, mut after) = (counts().await, None);
        let load = async || {
            after = Some(counts().await);
            Ok::<_, Infallible>(1)
        };
        self.cache.get_or_load(&key(name), &self.policy, load).await.unwrap();
        let after = after.expect("the value was computed");
        std::array::from_fn(|at| after[at] - before[at])
    }

    /// Waits until so many entries are stored, and their leases are released.
    async fn stored(&self, count: usize) {
        eventually("it is stored", async || entries(&self.server).await.len() == count).await;
        eventually("its lease is released", async || {
            let leases = self.server.run::<Vec<String>>(cmd("KEYS").arg("*:lease:*")).await;
            leases.unwrap().is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn a_miss_takes_one_round_trip_before_the_value_is_computed() {
    let world = World::new().await;
    // The policy has no history, so it reads first, and the server does not know the script.
    assert_eq!(world.commands("first").await, [2, 0, 1, 1]);
    world.stored(1).await;
    assert_eq!(world.commands("absent").await, [1, 0, 0, 1]);
    world.stored(2).await;
    // Each miss runs one script to look up, and one to store and release. The first of each kind is sent twice.
    assert_eq!(calls(&world.server, "evalsha").await + calls(&world.server, "eval").await, 6);
    // This one is in memory, and outdated.
    world.cache.invalidate(["t"]).await.unwrap();
    assert_eq!(world.commands("absent").await, [1, 0, 0, 1]);
}

#[tokio::test]
async fn where_scripts_are_refused_a_miss_takes_separate_commands() {
    let world = World::new().await;
    let mut acl = cmd("ACL");
    let acl = acl.arg("SETUSER").arg("default").arg("-eval").arg("-evalsha");
    world.server.run::<()>(acl).await.unwrap();
    assert_eq!(world.commands("first").await, [3, 0, 0, 0]);
    assert_eq!(world.commands("second").await, [2, 0, 0, 0]);
    // A release that fails is none of the breaker for writes.
    for number in 0..20 {
        world.commands(&format!("another {number}")).await;
    }
    eventually("all are stored", async || entries(&world.server).await.len() == 22).await;
    let leases = world.server.run::<Vec<String>>(cmd("KEYS").arg("*:lease:*")).await.unwrap();
    assert_eq!(leases.len(), 22, "a lease needs a script to be released, and expires");
}
