//! What a connection to Redis is made with.

use std::fmt;
use std::num::NonZeroUsize;

use super::{Redis, RedisError};
use crate::redact::redacted;
use crate::secret::{SecretError, Secrets};

/// Where Redis is, and how to use it.
///
/// ```no_run
/// # async fn connect() -> Result<(), tidegate::RedisError> {
/// let redis = tidegate::RedisOptions::new("redis://127.0.0.1:6379/").prefix("shop").connect().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisOptions {
    pub(super) url: String,
    pub(super) prefix: Option<String>,
    pub(super) connections: NonZeroUsize,
    pub(super) lazy: bool,
    pub(super) relay: bool,
    pub(super) body_limit: usize,
    pub(super) secrets: Option<Result<Secrets, SecretError>>,
}

/// The largest body that is sent to Redis, in bytes, unless something else is said.
const BODY_LIMIT: usize = 1 << 20;

impl RedisOptions {
    /// Options for the server or servers at `url`:
    ///
    /// - `redis://user:password@host:port/database` for one server,
    /// - `redis+cluster://user:password@host1:port,host2:port/` for a cluster, by any of its nodes,
    /// - `redis+sentinel://user:password@host1:port,host2:port/master/database` for the master that
    ///   the sentinels at these hosts name; user and password are the master's.
    ///
    /// With `rediss` in place of `redis` connections are made with TLS.
    pub fn new(url: impl Into<String>) -> Self {
        let connections = NonZeroUsize::MIN.saturating_add(1);
        Self {
            url: url.into(),
            prefix: None,
            connections,
            lazy: true,
            relay: true,
            body_limit: BODY_LIMIT,
            secrets: None,
        }
    }

    /// What the names of keys and channels begin with. Services that share a server need one each, or they would
    /// serve each other's responses wherever their keys are the same.
    ///
    /// By default, it is `tidegate:` and the name of the service: the environment variable `OTEL_SERVICE_NAME`, else
    /// `AWS_LAMBDA_FUNCTION_NAME`, else the name of the executable.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// How many connections are held for small values, at least one; 2 if nothing is said. All carry many requests
    /// at a time. One more is for values of 64 KiB and more, so that these delay only each other.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN);
        self
    }

    /// Whether to start without the server where it can't be reached, say so in a warning, and connect when it
    /// can; so it is if nothing is said, since a service can do without its cache. If not, that is an error of
    /// [`connect`](Self::connect).
    #[must_use]
    pub fn lazy(mut self, lazy: bool) -> Self {
        self.lazy = lazy;
        self
    }

    /// Whether the nodes that share this Redis follow the database's log of changes through one of
    /// them, which tells the others over Redis what it finds; they do if nothing is said. If not, each
    /// asks the primary itself.
    #[must_use]
    pub fn relay(mut self, relay: bool) -> Self {
        self.relay = relay;
        self
    }

    /// The largest body that is stored in Redis, in bytes; 1 MiB if nothing is said, which is what
    /// [`Policy::body_limit`](crate::Policy::body_limit) allows by default. A larger one stays in the memory of the node
    /// that computed it, and what another node has stored that is larger counts as not there.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Signs entries and messages between nodes, and ignores those that are not signed with one of these secrets, each
    /// of 16 random bytes or more, the same on every node. By default nothing is signed, and whoever may write to Redis
    /// decides what clients get.
    ///
    /// The first secret signs, all verify. To replace one, give the nodes `[old, new]`, then `[new, old]`, then `[new]`.
    /// What is signed has names of its own in Redis, so nodes with and without secrets never share entries.
    ///
    /// ```
    /// # let secret = "0123456789abcdef";
    /// let options = tidegate::RedisOptions::new("redis://127.0.0.1:6379/").prefix("shop").secrets([secret]);
    /// ```
    ///
    /// The code is the keyed mode of BLAKE3, 128 bits, over the name in Redis and all bytes. It proves who wrote an entry,
    /// and under which key; it hides nothing, and an older entry of the same key that is put back is as valid as when it was
    /// written: it is judged by its age and by what has changed since.
    #[must_use]
    pub fn secrets<I>(mut self, secrets: I) -> Self
    where
        I: IntoIterator<Item: AsRef<[u8]>>,
    {
        self.secrets = Some(Secrets::derive("tidegate 2026 redis", secrets));
        self
    }

    /// Connects.
    ///
    /// # Errors
    ///
    /// If the address is wrong, a secret is missing or too short, or the server refuses us by user, password or database; unless
    /// [`lazy`](Self::lazy), also if it can't be reached.
    pub async fn connect(self) -> Result<Redis, RedisError> {
        Redis::with(&self).await
    }
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisOptions")
            .field("url", &redacted(&self.url))
            .field("prefix", &self.prefix)
            .field("connections", &self.connections)
            .field("lazy", &self.lazy)
            .field("relay", &self.relay)
            .field("body_limit", &self.body_limit)
            .field("secrets", &self.secrets)
            .finish()
    }
}
