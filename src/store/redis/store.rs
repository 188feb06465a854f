//! The Redis commands of the store.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use deadpool_redis::redis::{Cmd, Value, cmd};
use futures_util::future::{BoxFuture, join_all};

use super::large::{self, LargeKeys, LargeRead, ValueSize};
use super::lease::{self, EntryOrLease};
use super::link::RedisLink;
use super::links::RedisLinks;
use super::mget::{MgetBatcher, is_refused};
use super::names::RedisNames;
use super::reply::unexpected;
use super::script::ScriptSupport;
use super::seal::Seal;
use super::topology::Subscriber;
use crate::clock::millis;
use crate::entry::{Entry, EntryVersion, Key};
use crate::store::contract::{get_then_lease, put_then_release};
use crate::store::split::{MOST_TOGETHER, get_split};
use crate::store::{
    Bus, Found, FoundOrLease, Lease, LeaseToken, Store, StoreError, StoreStatus, Tier,
};

/// A store in Redis, shared by all nodes.
///
/// It survives the loss of its server: without a connection, each call fails at once, and the store reconnects in the
/// background. A call without a reply fails after one second. Put a [`Guard`](crate::Guard) around the store to shorten
/// this, and to make calls fail at once while the server does not respond.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tidegate::{Cache, Memory, Redis, Tiered};
///
/// let redis = Redis::connect("rediss://cache.example:6379").await?;
/// let cache = Cache::new(Tiered::new(Memory::new(64 << 20), redis));
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Redis {
    pub(super) shared: Arc<RedisInner>,
}

/// What the clones of a [`Redis`] share.
pub(super) struct RedisInner {
    pub(super) url: String,
    pub(super) names: RedisNames,
    pub(super) links: Arc<RedisLinks>,
    pub(super) reads: Arc<MgetBatcher>,
    /// Opens connections for messages from other nodes.
    pub(super) subscriber: Subscriber,
    pub(super) relay: bool,
    /// The connection for large values.
    pub(super) bulk: Arc<RedisLink>,
    pub(super) large: LargeKeys,
    /// The largest body, in bytes.
    pub(super) body_limit: usize,
    pub(super) seal: Arc<Seal>,
    pub(super) scripts: ScriptSupport,
}

impl Redis {
    /// Whether there is a connection to the server, as far as is known.
    pub fn is_connected(&self) -> bool {
        self.shared.links.is_connected()
    }

    pub(super) fn names(&self) -> &RedisNames {
        &self.shared.names
    }

    pub(super) fn seal(&self) -> &Arc<Seal> {
        &self.shared.seal
    }

    pub(super) fn subscriber(&self) -> &Subscriber {
        &self.shared.subscriber
    }

    pub(super) async fn run(&self, command: &Cmd) -> Result<Value, StoreError> {
        self.shared.links.run(command).await
    }

    async fn find(&self, key: &Key) -> Result<Option<Found>, StoreError> {
        let value = match self.shared.large.size(key.short()) {
            ValueSize::Small => self.read_expected(key, self.read_small(key)).await?,
            ValueSize::Large => self.read_expected(key, self.read_large(key)).await?,
            ValueSize::Unknown | ValueSize::Excessive => match self.read_measured(key).await? {
                Some(value) => value,
                None => return Ok(None),
            },
        };
        self.read(key, value)
    }

    /// Finds several entries, by MGET if possible.
    async fn find_many(&self, keys: &[&Key]) -> Vec<Result<Option<Found>, StoreError>> {
        let together = async |keys: Vec<&Key>| {
            let parts = keys.chunks(MOST_TOGETHER).map(|keys| self.find_together(keys));
            join_all(parts).await.into_iter().flatten().collect()
        };
        get_split(keys, |key| self.is_read_together(key), together, |key| self.find(key)).await
    }

    async fn find_together(&self, keys: &[&Key]) -> Vec<Result<Option<Found>, StoreError>> {
        let waiting = LargeRead::new(&self.shared.large, keys);
        let names = keys.iter().map(|key| self.names().entry(key)).collect();
        let values = self.shared.reads.read_many(names).await;
        waiting.end(&values);
        keys.iter().zip(values).map(|(key, value)| self.read(key, value?)).collect()
    }

    /// Whether the value of a key is expected to be small.
    fn is_small(&self, key: &Key) -> bool {
        self.shared.large.size(key.short()) == ValueSize::Small
    }

    /// The entry in a reply to GET.
    fn read(&self, key: &Key, value: Value) -> Result<Option<Found>, StoreError> {
        match value {
            Value::Nil => {
                self.shared.large.note(key.short(), 0);
                Ok(None)
            }
            Value::BulkString(bytes) => self.decode(key, &bytes.into()),
            other => Err(unexpected("GET", &other)),
        }
    }

    /// The entry in a value, unless it is too large or is that of another key.
    fn decode(&self, key: &Key, bytes: &Bytes) -> Result<Option<Found>, StoreError> {
        if self.shared.large.note(key.short(), bytes.len()) == ValueSize::Excessive {
            return Ok(None);
        }
        let entry = Arc::new(self.seal().decode(|| self.names().entry(key), bytes)?);
        Ok(entry.is_for(key).then_some(Found { entry, tier: Tier::Shared }))
    }

    async fn find_or_lease(
        &self,
        key: &Key,
        ttl: Duration,
        unusable: Option<EntryVersion>,
    ) -> Result<FoundOrLease, StoreError> {
        if !self.is_one_step(key) {
            return get_then_lease(self, key, ttl, unusable).await;
        }
        let RedisInner { links, large, .. } = &*self.shared;
        let waiting = LargeRead::new(large, std::slice::from_ref(&key));
        let (entry, lease) = (self.names().entry(key), self.names().lease(key));
        let longest = large.longest();
        let reply = lease::get_or_acquire(links, &entry, lease, ttl, unusable, longest).await;
        waiting.end(std::slice::from_ref(&reply));
        match reply {
            Ok(EntryOrLease::Lease(lease)) => Ok(FoundOrLease::Lease(lease)),
            Ok(EntryOrLease::Entry(bytes)) => match self.decode(key, &bytes.into())? {
                Some(found) => Ok(FoundOrLease::Found(found)),
                None => self.lease(key, ttl).await.map(FoundOrLease::Lease),
            },
            Err(error) if is_refused(&error) => {
                self.note_refused_scripts(&error);
                get_then_lease(self, key, ttl, unusable).await
            }
            Err(error) => Err(error),
        }
    }

    /// Reads a value of the expected size. If that takes too long, it may have another one.
    async fn read_expected(
        &self,
        key: &Key,
        read: impl Future<Output = Result<Value, StoreError>>,
    ) -> Result<Value, StoreError> {
        let waiting = LargeRead::new(&self.shared.large, std::slice::from_ref(&key));
        let value = read.await;
        waiting.end(std::slice::from_ref(&value));
        value
    }

    async fn read_small(&self, key: &Key) -> Result<Value, StoreError> {
        self.shared.reads.read(self.names().entry(key)).await
    }

    /// Reads a large value, over a connection that no small value waits for.
    async fn read_large(&self, key: &Key) -> Result<Value, StoreError> {
        self.shared.bulk.run(cmd("GET").arg(self.names().entry(key)), 1).await
    }

    /// Reads a value of unknown size; `None` if it exceeds the limit.
    async fn read_measured(&self, key: &Key) -> Result<Option<Value>, StoreError> {
        let length = match self.run(cmd("STRLEN").arg(self.names().entry(key))).await? {
            Value::Int(length) => usize::try_from(length).unwrap_or_default(),
            other => return Err(unexpected("STRLEN", &other)),
        };
        match self.shared.large.note(key.short(), length) {
            ValueSize::Small | ValueSize::Unknown => self.read_small(key).await.map(Some),
            ValueSize::Large => self.read_large(key).await.map(Some),
            ValueSize::Excessive => Ok(None),
        }
    }

    /// Stores an entry and releases its lease: in one step, unless it is large or scripts are refused.
    async fn keep_and_release(
        self,
        key: Key,
        entry: Arc<Entry>,
        token: LeaseToken,
    ) -> Result<(), StoreError> {
        let (name, lease) = (self.names().entry(&key), self.names().lease(&key));
        let left = millis(entry.life.keep.saturating_sub(entry.age()));
        let encoded = self.encode(&key, &name, &entry);
        let RedisInner { links, scripts, .. } = &*self.shared;
        if left > 0 && encoded.len() < large::LARGE && scripts.are_accepted() {
            match lease::put_and_release(links, &name, &lease, &encoded, left, token).await {
                Err(error) if is_refused(&error) => self.note_refused_scripts(&error),
                Ok(()) => return Ok(()),
                Err(error) => {
                    // A server that is full refuses to store, and still deletes.
                    drop(lease::release(links.clone(), lease, token).await);
                    return Err(error);
                }
            }
        }
        let stored = self.set(name, &encoded, left).await;
        // If this fails, the lease expires.
        let _ = lease::release(links.clone(), lease, token).await;
        stored
    }

    fn note_refused_scripts(&self, error: &StoreError) {
        tracing::info!(%error, "Redis rejects a script: for the next minute, separate commands are used for each miss");
        self.shared.scripts.refuse();
    }

    async fn keep(self, key: Key, entry: Arc<Entry>) -> Result<(), StoreError> {
        let name = self.names().entry(&key);
        let left = millis(entry.life.keep.saturating_sub(entry.age()));
        let encoded = self.encode(&key, &name, &entry);
        self.set(name, &encoded, left).await
    }

    /// Encodes an entry, and records how large it is then.
    fn encode(&self, key: &Key, name: &str, entry: &Entry) -> Bytes {
        let encoded = self.seal().encode(name, entry);
        self.shared.large.note(key.short(), encoded.len());
        encoded
    }

    /// Stores an encoded entry for `left` milliseconds.
    async fn set(&self, name: String, encoded: &[u8], left: u64) -> Result<(), StoreError> {
        if left == 0 {
            return Ok(());
        }
        let mut command = Cmd::with_capacity(5, encoded.len() + 128);
        command.arg("SET").arg(name).arg(encoded).arg("PX").arg(left);
        let is_large = encoded.len() >= large::LARGE;
        let link = if is_large { &self.shared.bulk } else { self.shared.links.next() };
        link.run(&command, 1).await.map(drop)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis")
            .field("url", &self.shared.url)
            .field("prefix", &self.shared.names.prefix())
            .field("connections", &self.shared.links.count())
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

    fn get_many<'a>(
        &'a self,
        keys: &'a [&'a Key],
    ) -> BoxFuture<'a, Vec<Result<Option<Found>, StoreError>>> {
        Box::pin(self.find_many(keys))
    }

    fn is_read_together(&self, key: &Key) -> bool {
        self.shared.reads.are_together() && self.is_small(key)
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
        Some(Box::pin(self.clone().keep(key.clone(), entry.clone())))
    }

    fn put_and_release(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
        token: LeaseToken,
    ) -> BoxFuture<'static, Result<(), StoreError>> {
        if entry.body().len() > self.shared.body_limit {
            return put_then_release(self, key, entry, token);
        }
        self.shared.large.note(key.short(), entry.body().len());
        Box::pin(self.clone().keep_and_release(key.clone(), entry.clone(), token))
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { self.run(cmd("DEL").arg(self.names().entry(key))).await.map(drop) })
    }

    fn lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(lease::acquire(&self.shared.links, self.names().lease(key), ttl))
    }

    fn get_or_lease<'a>(
        &'a self,
        key: &'a Key,
        ttl: Duration,
        unusable: Option<EntryVersion>,
    ) -> BoxFuture<'a, Result<FoundOrLease, StoreError>> {
        Box::pin(self.find_or_lease(key, ttl, unusable))
    }

    fn is_one_step(&self, key: &Key) -> bool {
        self.is_small(key) && self.shared.scripts.are_accepted()
    }

    fn release(&self, key: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        Box::pin(lease::release(self.shared.links.clone(), self.names().lease(key), token))
    }

    fn status(&self) -> StoreStatus {
        let (connected, refused) = (Some(self.is_connected()), self.seal().refused());
        StoreStatus { connected, refused, ..StoreStatus::default() }
    }

    fn is_large(&self, key: &Key) -> bool {
        matches!(self.shared.large.size(key.short()), ValueSize::Large | ValueSize::Excessive)
    }

    fn bus(&self) -> Option<Arc<dyn Bus>> {
        self.shared.relay.then(|| Arc::new(self.clone()) as Arc<dyn Bus>)
    }
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
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        let entry = Entry::new(&key, basis, [].into(), life, Bytes::new(), Bytes::new());
        assert_eq!(codec::encode(&entry)[3].to_string(), FORMAT);
    }
}
