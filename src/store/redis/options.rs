//! The options of a connection to Redis.

use std::fmt;
use std::num::NonZeroUsize;

use crate::redact::redacted;
use crate::secret::{SecretError, Secrets};

/// The address of Redis, and how to use it.
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
    pub(super) compress_from: Option<usize>,
    pub(super) secrets: Option<Result<Secrets, SecretError>>,
}

/// The default for the largest body that is stored in Redis, in bytes.
const BODY_LIMIT: usize = 1 << 20;

impl RedisOptions {
    /// Options for the server or servers at `url`:
    ///
    /// - `redis://user:password@host:port/database` for one server,
    /// - `redis+cluster://user:password@host1:port,host2:port/` for a cluster, by any of its nodes,
    /// - `redis+sentinel://user:password@host1:port,host2:port/master/database` for the master that
    ///   the sentinels at these hosts name; user and password are the master's.
    ///
    /// With `rediss` in place of `redis`, connections use TLS.
    pub fn new(url: impl Into<String>) -> Self {
        let connections = NonZeroUsize::MIN.saturating_add(1);
        Self {
            url: url.into(),
            prefix: None,
            connections,
            lazy: true,
            relay: true,
            body_limit: BODY_LIMIT,
            compress_from: None,
            secrets: None,
        }
    }

    /// The prefix of all names of keys and channels. Services that share a server must use different prefixes: otherwise,
    /// they would serve each other's responses if their keys are equal.
    ///
    /// By default, it is `tidegate:` and the name of the service: the environment variable `OTEL_SERVICE_NAME`, else
    /// `AWS_LAMBDA_FUNCTION_NAME`, else the name of the executable.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = Some(prefix.into());
        self
    }

    /// The number of connections for small values: 2 by default, and at least one. Each carries many requests at a time.
    /// One more connection is used for values of 64 KiB and more, so that these delay only each other.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Self {
        self.connections = NonZeroUsize::new(connections).unwrap_or(NonZeroUsize::MIN);
        self
    }

    /// Whether to start even if the server can't be reached. With `true`, the default, [`connect`](Self::connect) then logs
    /// a warning, and connects in the background once the server can be reached, since a service can run without its cache.
    /// With `false`, `connect` returns an error.
    #[must_use]
    pub fn lazy(mut self, lazy: bool) -> Self {
        self.lazy = lazy;
        self
    }

    /// Whether one of the nodes that share this Redis reads the database's change log on behalf of all and publishes the
    /// changes over Redis; `true` by default. With `false`, this node reads the log on the primary itself.
    #[must_use]
    pub fn relay(mut self, relay: bool) -> Self {
        self.relay = relay;
        self
    }

    /// The largest body that is stored in Redis, in bytes; 1 MiB by default, the same as
    /// [`Policy::body_limit`](crate::Policy::body_limit). A larger body stays in the memory of the node that computed it,
    /// and an older entry under its key is deleted. A larger body that another node has stored in Redis is ignored.
    #[must_use]
    pub fn body_limit(mut self, bytes: usize) -> Self {
        self.body_limit = bytes;
        self
    }

    /// Compresses bodies of this many bytes or more with zstd, if that makes them smaller; by default, none. A node with the
    /// feature `zstd` reads compressed entries whether or not it compresses any itself. A node without the feature treats
    /// them as absent, so enable the feature on every node before the first one compresses.
    ///
    /// It costs processor time on each write to Redis and each read from it, and saves Redis' memory and network. Responses
    /// that the handler has compressed already (`Content-Encoding`) don't become smaller, and are stored as they are.
    #[cfg(feature = "zstd")]
    #[must_use]
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.compress_from = Some(bytes);
        self
    }

    /// Signs entries and messages between nodes, and ignores those that are not signed with one of these secrets, each
    /// of 16 random bytes or more, the same on every node. By default, nothing is signed, and anyone who can write to Redis
    /// controls what clients receive.
    ///
    /// The first secret signs, and all of them verify. To replace one, configure the nodes with `[old, new]`, then with
    /// `[new, old]`, then with `[new]`. Signed entries and messages have separate names in Redis, so nodes with and without
    /// secrets never share entries.
    ///
    /// ```
    /// # let secret = "0123456789abcdef";
    /// let options = tidegate::RedisOptions::new("redis://127.0.0.1:6379/").prefix("shop").secrets([secret]);
    /// ```
    ///
    /// The signature is a 128-bit message authentication code, computed by BLAKE3 in keyed mode over the name in Redis
    /// and all bytes. It proves that a node of this service wrote an entry, and under which key. It encrypts nothing.
    /// If an attacker puts back an older entry of the same key, its signature is valid; the entry is then judged by
    /// its age and by what has changed since, as always.
    #[must_use]
    pub fn secrets<I>(mut self, secrets: I) -> Self
    where
        I: IntoIterator<Item: AsRef<[u8]>>,
    {
        self.secrets = Some(Secrets::derive("tidegate 2026 redis", secrets));
        self
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
            .field("compress_from", &self.compress_from)
            .field("secrets", &self.secrets)
            .finish()
    }
}
