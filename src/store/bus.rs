//! Messages between the nodes that share a store.

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;

use super::StoreError;

/// A way for nodes to tell each other something: at most once, to those who listen just then.
///
/// Nothing depends on a message for being right, only for being found out cheaply: whoever misses one
/// asks the database itself.
pub trait Bus: Debug + Send + Sync + 'static {
    /// Tells all who listen on a channel.
    fn publish<'a>(
        &'a self,
        channel: &'a str,
        message: &'a [u8],
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Listens on a channel from now on, until the connection is lost; that a peer has vanished without
    /// a word is noticed within seconds.
    fn subscribe<'a>(
        &'a self,
        channel: &'a str,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Bytes>, StoreError>>;

    /// Takes an office that one node holds at a time, or keeps it for as long again. False if another
    /// has it. Two may believe that they have it, after the store lost what it knew.
    fn acquire_leadership<'a>(
        &'a self,
        office: &'a str,
        holder: u64,
        ttl: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Gives an office up.
    fn release_leadership<'a>(
        &'a self,
        office: &'a str,
        holder: u64,
    ) -> BoxFuture<'a, Result<(), StoreError>>;
}
