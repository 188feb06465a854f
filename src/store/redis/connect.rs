//! Connects to Redis by its options.

use std::sync::Arc;

use futures_util::future::try_join_all;

use super::large::LargeKeys;
use super::link::RedisLink;
use super::links::RedisLinks;
use super::mget::MgetBatcher;
use super::names::RedisNames;
use super::script::ScriptSupport;
use super::seal::Seal;
use super::store::RedisInner;
use super::topology::{RedisPool, Subscriber};
use super::{Redis, RedisError, RedisOptions};
use crate::entry::Packing;
use crate::redact::redacted;

impl RedisOptions {
    /// Connects.
    ///
    /// # Errors
    ///
    /// If the address is invalid, a secret is missing or too short, or the server rejects the user, the password or the
    /// database; without [`lazy`](Self::lazy), also if the server can't be reached.
    pub async fn connect(self) -> Result<Redis, RedisError> {
        Redis::with(&self).await
    }
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

    async fn with(options: &RedisOptions) -> Result<Self, RedisError> {
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
        let names = RedisNames::new(options);
        // Another node may compress what this one would not, so each decompresses whatever it may hold.
        let packing = Packing::new(options.compress_from, options.body_limit);
        let seal = Arc::new(Seal::new(secrets, packing));
        let (links, relay) = (Arc::new(RedisLinks::new(links)), options.relay);
        let reads = Arc::new(MgetBatcher::new(links.clone(), pool.is_of_one_server()));
        let (large, body_limit) = (LargeKeys::new(options.body_limit), options.body_limit);
        let shared = RedisInner {
            url,
            names,
            links,
            reads,
            subscriber,
            relay,
            bulk,
            large,
            body_limit,
            seal,
            scripts: ScriptSupport::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}
