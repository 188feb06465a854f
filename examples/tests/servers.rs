//! Each example does what it says, as its own program on real servers.

use crate::program;
use tidegate_testing::{Postgres, RedisServer};
use tokio::process::Command;

async fn run(name: &str, environment: &[(&str, String)]) -> String {
    let mut command = Command::new(program(name));
    for unset in ["POSTGRES_PRIMARY_URL", "POSTGRES_REPLICA_URL", "REDIS_URL"] {
        command.env_remove(unset);
    }
    let output = command.envs(environment.iter().cloned()).output().await.unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let failed = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name} failed:\n{said}\n{failed}");
    said
}

#[tokio::test]
async fn the_invalidation_example_recomputes_only_the_changed_user() {
    let primary = Postgres::start().await.unwrap();
    let said = run("invalidation", &[("POSTGRES_PRIMARY_URL", primary.url())]).await;
    assert!(said.contains("user 1 is eve"), "{said}");
    assert!(said.contains("user 2 is bob, from the cache"), "{said}");
}

#[tokio::test]
async fn the_replicas_example_reads_from_replicas_once_they_are_configured() {
    let primary = Postgres::start().await.unwrap();
    let replica = primary.standby().await.unwrap();
    let environment =
        [("POSTGRES_PRIMARY_URL", primary.url()), ("POSTGRES_REPLICA_URL", replica.url())];
    let said = run("replicas", &environment).await;
    assert!(said.contains("without replicas, a read goes to: the primary"), "{said}");
    assert_eq!(said.matches("a read goes to: a replica").count(), 2, "{said}");
}

#[tokio::test]
async fn the_redis_example_shares_values_between_nodes() {
    let primary = Postgres::start().await.unwrap();
    let redis = RedisServer::start().await.unwrap();
    let environment = [("POSTGRES_PRIMARY_URL", primary.url()), ("REDIS_URL", redis.url())];
    let said = run("redis", &environment).await;
    assert!(said.contains("the second node's value came from: shared"), "{said}");
}

/// What `scripts/demo` shows.
#[tokio::test]
async fn the_demo_shows_hits_invalidation_and_outages_without_a_failed_request() {
    let said = run("demo", &[]).await;
    for shown in [
        "stored; detail=\"absent, from replica-1\"",
        "hit; ttl=",
        "detail=\"memory\"",
        "detail=\"shared\"",
        "ms after psql committed",
        "the new price was seen",
        "store-failed",
        "from primary",
        "Both are back",
    ] {
        assert!(said.contains(shown), "no `{shown}` in:\n{said}");
    }
    assert_eq!(said.matches(", 0 failed").count(), 2, "{said}");
}
