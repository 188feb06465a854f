//! The Redis commands of the store.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::{Cmd, Value, cmd};
use futures_util::future::{BoxFuture, try_join_all};

use super::large::{self, LargeKeys, LargeRead};
use super::link::RedisLink;
use super::mget::MgetBatcher;
use super::seal::Seal;
use super::topology::{RedisPool, Subscriber};
use super::{RedisError, RedisOptions, names};
use crate::clock::{millis, now};
use crate::entry::{Entry, Key};
use crate::redact::redacted;
use crate::store::{Bus, Found, Lease, LeaseToken, Store, StoreError, StoreStatus, Tier};

/// A store in Redis, shared by all nodes.
///
/// It survives the loss of its server: without a connection, each call fails at once, and the store reconnects in the
/// background. A call without a reply fails after one second. Put a [`Guard`](crate::Guard) around the store to shorten
/// this, and to make calls fail at once while the server does not respond.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<RedisInner>,
}

struct RedisInner {
    url: String,
    prefix: String,
    links: Box<[Arc<RedisLink>]>,
    turn: AtomicUsize,
    reads: MgetBatcher,
    /// Opens connections for messages from other nodes.
    subscriber: Subscriber,
    relay: bool,
    /// The connection for large values.
    bulk: Arc<RedisLink>,
    large: LargeKeys,
    /// The largest body, in bytes.
    body_limit: usize,
    seal: Arc<Seal>,
}

impl Redis {
    /// Connects to the server or servers at `url`; see [`RedisOptions::new`] for its forms.
    ///
    /// # Errors
    ///
    /// If the address is invalid, or the server rejects the connection. A server that can't be reached is no error; see
    /// [`RedisOptions::lazy`].
    pub async fn connect(url: impl Into<String>) -> Result<Self, RedisError> {
        RedisOptions::new(url).connect().await
    }

    /// Connects to the address in the environment variable `REDIS_URL`.
    ///
    /// # Errors
    ///
    /// If the variable is not set, and as for [`connect`](Self::connect).
    pub async fn from_env() -> Result<Self, RedisError> {
        let url = std::env::var("REDIS_URL").map_err(|_| RedisError::NotSet)?;
        Self::connect(url).await
    }

    pub(super) async fn with(options: &RedisOptions) -> Result<Self, RedisError> {
        let secrets = options.secrets.clone().transpose()?;
        // Twice as many as are in use: a new connection is opened before the old one is closed.
        let pool = Arc::new(RedisPool::new(&options.url, 2 * options.connections.get() + 2)?);
        let bulk = RedisLink::new(pool.clone());
        let links: Box<[_]> =
            (0..options.connections.get()).map(|_| RedisLink::new(pool.clone())).collect();
        let subscriber = Subscriber::new(&options.url)?;
        let url = redacted(&options.url);
        let connected = try_join_all(links.iter().chain([&bulk]).map(|link| link.connect())).await;
        match connected.map_err(|error| RedisError::connecting(&url, error)) {
            Err(error @ RedisError::Unreachable { .. }) if options.lazy => {
                tracing::warn!(%error, "can't reach Redis; continuing without the shared tier until it is reachable");
                links
                    .iter()
                    .chain([&bulk])
                    .filter(|link| !link.is_connected())
                    .for_each(RedisLink::replace);
            }
            connected => drop(connected?),
        }
        let prefix = names::prefix(options);
        let seal = Arc::new(Seal::new(secrets));
        let (turn, relay) = (AtomicUsize::new(0), options.relay);
        let reads = MgetBatcher::new(pool.is_of_one_server());
        let (large, body_limit) = (LargeKeys::new(), options.body_limit);
        let shared = RedisInner {
            url,
            prefix,
            links,
            turn,
            reads,
            subscriber,
            relay,
            bulk,
            large,
            body_limit,
            seal,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Whether there is a connection to the server, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.shared.links.iter().any(|link| link.is_connected())
    }

    pub(super) fn prefix(&self) -> &str {
        &self.shared.prefix
    }

    pub(super) fn seal(&self) -> &Arc<Seal> {
        &self.shared.seal
    }

    pub(super) fn subscriber(&self) -> &Subscriber {
        &self.shared.subscriber
    }

    pub(super) fn reads(&self) -> &MgetBatcher {
        &self.shared.reads
    }

    /// A working connection if there is one, otherwise a broken one.
    pub(super) fn link(&self) -> &Arc<RedisLink> {
        self.shared.link()
    }

    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.run_for(command, 1).await
    }

    /// Runs a command that counts as `count` commands when the connection's health is judged.
    pub(super) async fn run_for(&self, command: &Cmd, count: u32) -> Result<Value, StoreError> {
        self.shared.link().run(command, count).await
    }

    async fn find(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let value = match self.shared.large.suspects(key.short()) {
            true => self.read_suspect(key).await?,
            false => self.read_small(key).await?,
        };
        let bytes = match value {
            Value::Nil => return Ok(None),
            Value::BulkString(bytes) => Bytes::from(bytes),
            other => return Err(unexpected("GET", &other)),
        };
        let is_large = self.shared.large.note(key.short(), bytes.len());
        if is_large && bytes.len() > self.longest() {
            return Ok(None);
        }
        let entry = Arc::new(self.seal().decode(&self.name(key), &bytes)?);
        Ok(entry.answers(key).then_some(Found { entry, tier: Tier::Shared }))
    }

    /// Reads a value that is expected to be small.
    async fn read_small(&self, key: &Key) -> Result<Value, StoreError> {
        let mut waiting = LargeRead { large: Some(&self.shared.large), key, since: now() };
        let value = self.read(self.name(key)).await;
        waiting.large = None;
        value
    }

    /// Reads a value that may be large, unless it exceeds the limit.
    async fn read_suspect(&self, key: &Key) -> Result<Value, StoreError> {
        let name = self.name(key);
        let length = match self.run(cmd("STRLEN").arg(&name)).await? {
            Value::Int(length) => usize::try_from(length).unwrap_or_default(),
            other => return Err(unexpected("STRLEN", &other)),
        };
        if !self.shared.large.note(key.short(), length) {
            self.read_small(key).await
        } else if length > self.longest() {
            Ok(Value::Nil)
        } else {
            self.shared.bulk.run(cmd("GET").arg(&name), 1).await
        }
    }

    /// The largest entry, in bytes.
    fn longest(&self) -> usize {
        self.shared.body_limit.saturating_add(large::AROUND)
    }

    async fn keep(self, name: String, entry: Arc<Entry>) -> Result<(), StoreError> {
        let left = millis(entry.life.keep.saturating_sub(entry.age()));
        if left == 0 {
            return Ok(());
        }
        let encoded = self.seal().encode(&name, &entry);
        let mut command = Cmd::with_capacity(5, encoded.len() + 128);
        command.arg("SET").arg(name).arg(&encoded[..]).arg("PX").arg(left);
        let is_large = encoded.len() >= large::LARGE;
        let link = if is_large { &self.shared.bulk } else { self.shared.link() };
        link.run(&command, 1).await.map(drop)
    }
}

impl RedisInner {
    /// The next connection in turn, skipping those that are down.
    fn link(&self) -> &Arc<RedisLink> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.links.len();
        let (before, from) = self.links.split_at(turn);
        let connected = from.iter().chain(before).find(|link| link.is_connected());
        connected.unwrap_or(&self.links[turn])
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("url", &self.shared.url)
            .field("prefix", &self.shared.prefix)
            .field("connections", &self.shared.links.len())
            .field("signed", &self.seal().signs())
            .field("connected", &self.is_connected())
            .finish()
    }
}

impl Store for Redis {
    fn peek(&self, _: &Key) -> Option<Found> {
        None
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(self.find(key))
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        if entry.body().len() > self.shared.body_limit {
            tracing::debug!(%key, "the body exceeds RedisOptions::body_limit and is not stored in Redis");
            // An older entry may not stay there in its place.
            let (store, key) = (self.clone(), key.clone());
            return Some(Box::pin(async move { store.remove(&key).await }));
        }
        self.shared.large.note(key.short(), entry.body().len());
        Some(Box::pin(self.clone().keep(self.name(key), entry.clone())))
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { self.run(cmd("DEL").arg(self.name(key))).await.map(drop) })
    }

    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(super::lease::take(self, key, ttl))
    }

    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(super::lease::give_back(self.clone(), self.lease_name(key), token))
    }

    fn status(&self) -> StoreStatus {
        let (connected, refused) = (Some(self.is_connected()), self.seal().refused());
        StoreStatus { connected, refused, ..StoreStatus::default() }
    }

    fn is_large(&self, key: &Key) -> bool {
        self.shared.large.knows(key.short())
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        self.shared.relay.then(|| Arc::new(self.clone()) as Arc<dyn Bus>)
    }
}

/// The error for a reply of the wrong type. Only its type may be shown, not its contents.
pub(super) fn unexpected(command: &str, value: &Value) -> StoreError {
    let kind = match value {
        Value::Nil => "nothing",
        Value::Int(_) => "a number",
        Value::BulkString(_) | Value::SimpleString(_) => "a string",
        Value::Okay => "OK",
        _ => "something else",
    };
    StoreError::Backend(format!("Redis replied to {command} with {kind}").into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Epoch, Lifetime, LogPosition, Position, codec};
    use crate::store::redis::names::FORMAT;

    #[tokio::test]
    async fn the_format_in_key_names_is_the_version_of_the_encoding() {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let key = Key::new("k").finish();
        let parts = (Bytes::new(), Bytes::new());
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        let entry = Entry::new(&key, basis, [].into(), life, parts);
        assert_eq!(codec::encode(&entry)[3].to_string(), FORMAT);
    }
}
