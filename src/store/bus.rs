//! Messages between the nodes that share a store.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::BoxStream;

use super::error::StoreError;

/// A message channel between nodes: publish/subscribe with at-most-once delivery to current subscribers, a lease for
/// electing one node, and values that one node leaves for others.
///
/// Correctness does not depend on messages, nor on which value is found; they only save queries. If a node misses a
/// message, it queries the database itself.
pub trait Bus: Debug + Send + Sync + 'static {
    /// Publishes a message to all current subscribers of a channel.
    fn publish<'a>(
        &'a self,
        channel: &'a str,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Subscribes to a channel. The stream ends when the connection is lost; a server that vanishes without closing the
    /// connection must be detected within seconds.
    fn subscribe<'a>(
        &'a self,
        channel: &'a str,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Bytes>, StoreError>>;

    /// Acquires the leadership lease `name` for `ttl`, or renews it. Returns `false` if another node holds it. If the
    /// store loses its data, two nodes may believe that they hold the lease; callers must tolerate that.
    fn acquire_leadership<'a>(
        &'a self,
        name: &'a str,
        holder: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Releases the leadership lease `name` if `holder` holds it.
    fn release_leadership<'a>(
        &'a self,
        name: &'a str,
        holder: u64,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Stores a value under a name for `ttl`, in place of an earlier one. By default, it is not stored.
    fn put<'a>(
        &'a self,
        _name: &'a str,
        _value: &'a [u8],
        _ttl: Duration,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(ready(Ok(())))
    }

    /// The value that was last stored under a name, or an earlier one if the store has lost it.
    fn get<'a>(&'a self, _name: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(ready(Ok(None)))
    }
}
