//! What Redis' other users can and can't do to a service that signs.

use redis::{Cmd, cmd};
use tidegate::{Redis, RedisError, RedisOptions, Store, StoreError};
use tidegate_testing::{RedisServer, eventually};

use super::common::entries::{self, LONG, body, entry_of, key};
use super::common::with_causes;

const SECRET: &str = "the secret of this service";

fn options(server: &RedisServer) -> RedisOptions {
    RedisOptions::new(server.url()).prefix("shop").connections(1)
}

async fn signing(server: &RedisServer, secrets: &[&str]) -> Redis {
    options(server).secrets(secrets).connect().await.unwrap()
}

async fn put(store: &Redis, name: &str, body: &str) {
    entries::put(store, name, &entry_of(name, body)).await.unwrap();
}

/// Runs a command as somebody else who may use the server.
async fn run<T: redis::FromRedisValue>(server: &RedisServer, command: &mut Cmd) -> T {
    server.run(command).await.unwrap()
}

fn is_refused(result: &Result<Option<String>, StoreError>) -> bool {
    result.as_ref().is_err_and(|error| with_causes(error).contains("not signed"))
}

/// Where neither of them signs, so that nothing but the name separates them.
#[tokio::test]
async fn security_services_with_different_names_share_no_entries() {
    let server = RedisServer::start().await.unwrap();
    let service = async |name: Option<&str>| {
        let options = RedisOptions::new(server.url());
        let options = name.into_iter().fold(options, RedisOptions::prefix);
        options.connect().await.unwrap()
    };
    let names = [Some("shop"), Some("shop:5"), Some("blog"), None];
    for name in names {
        put(&service(name).await, "/", &format!("of {name:?}")).await;
    }
    for name in names {
        let of_another_node = body(&service(name).await, "/").await.unwrap();
        assert_eq!(of_another_node, Some(format!("of {name:?}")));
    }
}

#[tokio::test]
async fn security_an_entry_signed_with_another_secret_is_refused() {
    let server = RedisServer::start().await.unwrap();
    let (store, stranger) =
        (signing(&server, &[SECRET]).await, signing(&server, &["another secret than ours"]).await);
    put(&store, "a", "ours").await;
    assert_eq!(body(&store, "a").await.unwrap().as_deref(), Some("ours"));
    put(&stranger, "a", "forged").await;
    assert!(is_refused(&body(&store, "a").await));
    assert_eq!(store.status().refused, 1);
    put(&store, "a", "ours again").await;
    assert_eq!(body(&store, "a").await.unwrap().as_deref(), Some("ours again"));
}

#[tokio::test]
async fn security_an_entry_copied_to_another_key_is_refused() {
    let server = RedisServer::start().await.unwrap();
    let store = signing(&server, &[SECRET]).await;
    put(&store, "a", "for a").await;
    let name = |service: &str, entry: &str| format!("{service}:5s:{{{}}}", key(entry));
    let (from, to) = (name("shop", "a"), name("shop", "b"));
    run::<i64>(&server, cmd("COPY").arg(&from).arg(&to)).await;
    assert!(is_refused(&body(&store, "b").await));
    let other = options(&server).prefix("office").secrets([SECRET]).connect().await.unwrap();
    run::<i64>(&server, cmd("COPY").arg(&from).arg(name("office", "a"))).await;
    assert!(is_refused(&body(&other, "a").await), "of a service with the same secret");
}

#[tokio::test]
async fn security_redis_secrets_can_be_rotated_while_nodes_run() {
    let server = RedisServer::start().await.unwrap();
    let (old, both) = (
        signing(&server, &[SECRET]).await,
        signing(&server, &["a newer secret than that", SECRET]).await,
    );
    put(&old, "a", "by the old secret").await;
    assert_eq!(body(&both, "a").await.unwrap().as_deref(), Some("by the old secret"));
    put(&both, "a", "by the new secret").await;
    assert!(is_refused(&body(&old, "a").await));
}

#[tokio::test]
async fn security_signing_and_unsigned_nodes_do_not_read_each_others_entries() {
    let server = RedisServer::start().await.unwrap();
    let (open, store) =
        (options(&server).connect().await.unwrap(), signing(&server, &[SECRET]).await);
    put(&open, "a", "open").await;
    put(&store, "b", "signed").await;
    assert_eq!(body(&store, "a").await.unwrap(), None);
    assert_eq!(body(&open, "b").await.unwrap(), None);
    assert_eq!(store.status().refused, 0);
}

#[tokio::test]
async fn security_a_short_or_missing_redis_secret_is_an_error() {
    let short =
        RedisOptions::new("redis://localhost").secrets(["short"]).connect().await.unwrap_err();
    assert!(
        matches!(short, RedisError::Secret(_)) && with_causes(&short).contains("16 or more"),
        "{short}"
    );
    let none = RedisOptions::new("redis://localhost").secrets([] as [&str; 0]).connect().await;
    assert!(matches!(none, Err(RedisError::Secret(_))));
}

#[tokio::test]
async fn security_unsigned_messages_are_ignored() {
    use futures_util::StreamExt;

    let server = RedisServer::start().await.unwrap();
    let store = signing(&server, &[SECRET]).await;
    let bus = store.bus().unwrap();
    let mut messages = bus.subscribe("news").await.unwrap();
    run::<i64>(
        &server,
        cmd("PUBLISH").arg("shop:5s:channel:news").arg("TGR\x02forged, and long enough for a code"),
    )
    .await;
    bus.publish("news", b"true").await.unwrap();
    assert_eq!(messages.next().await.as_deref(), Some(&b"true"[..]));
    assert_eq!(store.status().refused, 1);
}

/// The recipe of `docs/security.md`.
#[tokio::test]
async fn security_the_documented_redis_rights_are_enough() {
    let server = RedisServer::start().await.unwrap();
    let recipe = include_str!("../../docs/security.md");
    let line = recipe.lines().find(|line| line.starts_with("ACL SETUSER shop ")).unwrap();
    let mut words = line.split_whitespace();
    let mut command = cmd(words.next().unwrap());
    for word in words {
        command.arg(word);
    }
    run::<()>(&server, &mut command).await;
    let url = server.url().replace("redis://", "redis://shop:PASSWORD@");
    let store = RedisOptions::new(url).prefix("shop").lazy(false).secrets([SECRET]);
    let store = store.connect().await.unwrap();
    every_command_runs(&store).await;
    let denied = store.info().await;
    assert!(denied.is_err(), "it has no other rights: {denied:?}");
    run::<()>(&server, cmd("ACL").arg("SETUSER").arg("shop").arg("+info")).await;
    store.info().await.unwrap();
}

async fn every_command_runs(store: &Redis) {
    use futures_util::StreamExt;

    put(store, "a", "ours").await;
    put(store, "large", &"x".repeat(100_000)).await;
    assert_eq!(body(store, "a").await.unwrap().as_deref(), Some("ours"));
    assert!(body(store, "large").await.unwrap().is_some(), "STRLEN");
    let (a, b) = tokio::join!(body(store, "a"), body(store, "b"));
    assert!(a.unwrap().is_some() && b.unwrap().is_none(), "MGET");
    store.remove(&key("a")).await.unwrap();
    let tidegate::Lease::Granted(Some(token)) = store.lease(&key("a"), LONG).await.unwrap() else {
        panic!("no lease")
    };
    store.release(&key("a"), token).await.unwrap();
    let leased = store.get_or_lease(&key("a"), LONG, None).await.unwrap();
    assert!(matches!(leased, tidegate::FoundOrLease::Lease(tidegate::Lease::Granted(Some(_)))));
    let leased = store.get_or_lease(&key("a"), LONG, None).await.unwrap();
    assert!(matches!(leased, tidegate::FoundOrLease::Lease(tidegate::Lease::Held)));
    let bus = store.bus().unwrap();
    assert!(bus.acquire_leadership("relay", 1, LONG).await.unwrap());
    bus.release_leadership("relay", 1).await.unwrap();
    let mut messages = bus.subscribe("news").await.unwrap();
    bus.publish("news", b"true").await.unwrap();
    assert_eq!(messages.next().await.as_deref(), Some(&b"true"[..]));
    eventually("connected", async || store.is_connected()).await.unwrap();
}
