//! What a connection to Redis is made with.

use std::fmt;
use std::num::NonZeroUsize;

use super::{Redis, RedisError};
use crate::redact::redacted;

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
    pub(super) prefix: String,
    pub(super) connections: NonZeroUsize,
    pub(super) lazy: bool,
    pub(super) relay: bool,
    pub(super) body_limit: usize,
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
            prefix: "tidegate".to_owned(),
            connections,
            lazy: true,
            relay: true,
            body_limit: BODY_LIMIT,
        }
    }

    /// What each key begins with; `tidegate` if nothing is said. Services that share a server and
    /// not their entries need one each.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
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

    /// Connects.
    ///
    /// # Errors
    ///
    /// If the address is wrong, or the server refuses us by user, password or database; unless
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
            .finish()
    }
}
