//! What benchmarks measure by itself and nobody else can call.

use bytes::Bytes;
use http::{HeaderMap, Uri};

use crate::cache::Policy;
use crate::entry::{Entry, Key, codec};

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
