//! Internal functions that benchmarks measure on their own.

use bytes::Bytes;
use http::{HeaderMap, Uri};
use serde::de::DeserializeOwned;

use crate::cache::Policy;
use crate::entry::{Entry, Key, codec, decoder};

/// The key of a GET request.
pub fn key(uri: &Uri, headers: &HeaderMap, policy: &Policy) -> Key {
    crate::middleware::key(uri, headers, policy)
}

/// Encodes an entry as for Redis.
pub fn encode(entry: &Entry) -> Bytes {
    codec::encode(entry)
}

/// Decodes an entry from Redis.
pub fn decode(bytes: &Bytes) -> Option<Entry> {
    codec::decode(bytes).ok()
}

/// Decodes a value that another node has encoded, and estimates the bytes that it takes in memory.
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    decoder::decode_weighed(bytes).ok()
}
