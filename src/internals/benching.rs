//! What benchmarks measure by itself and nobody else can call.

use bytes::Bytes;
use http::{HeaderMap, Uri};
use serde::de::DeserializeOwned;

use crate::cache::Policy;
use crate::entry::{Entry, Key, codec, decoder};

/// The key of a GET request.
pub fn key(uri: &Uri, headers: &HeaderMap, policy: &Policy) -> Key {
    crate::middleware::key(uri, headers, policy)
}

/// An entry as it is in Redis.
pub fn encode(entry: &Entry) -> Bytes {
    codec::encode(entry)
}

/// And back.
pub fn decode(bytes: &Bytes) -> Option<Entry> {
    codec::decode(bytes).ok()
}

/// A value that another node has encoded, and the bytes that it takes, as estimated.
pub fn decode_value<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, usize)> {
    decoder::decode_weighed(bytes).ok()
}
