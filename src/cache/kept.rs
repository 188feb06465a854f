//! Values of a Rust type, as entries keep them.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::lookup::Hit;
use crate::entry::Entry;

/// What the head of an entry is that says "there is none"; that of a value is empty.
const NONE: &[u8] = b"none";

/// What can be kept in an entry and come out of it again.
pub(super) trait Kept: Clone {
    /// Out of an entry, if it holds one.
    fn read(hit: &Hit) -> Option<Self>;

    /// Head and body, if it can be encoded.
    fn write(&self) -> Option<(Bytes, Bytes)>;

    /// Whether it says "there is none".
    fn is_negative(&self) -> bool;
}

/// A type that values of can be kept.
pub(super) trait Type: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> Type for T {}

/// A value.
#[derive(Clone)]
pub(super) struct Value<T>(pub(super) T);

/// A value, or that there is none.
#[derive(Clone)]
pub(super) struct Maybe<T>(pub(super) Option<T>);

impl<T: Type> Kept for Value<T> {
    fn read(hit: &Hit) -> Option<Self> {
        let entry = &hit.found.entry;
        let value = entry.head().is_empty().then(|| entry.decoded(decode::<T>).ok()).flatten()?;
        Some(Self(Arc::unwrap_or_clone(value)))
    }

    fn write(&self) -> Option<(Bytes, Bytes)> {
        encode(&self.0)
    }

    fn is_negative(&self) -> bool {
        false
    }
}

impl<T: Type> Kept for Maybe<T> {
    fn read(hit: &Hit) -> Option<Self> {
        match hit.found.entry.head().as_ref() {
            NONE => Some(Self(None)),
            _ => Value::read(hit).map(|Value(value)| Self(Some(value))),
        }
    }

    fn write(&self) -> Option<(Bytes, Bytes)> {
        match &self.0 {
            Some(value) => encode(value),
            None => Some((Bytes::from_static(NONE), Bytes::new())),
        }
    }

    fn is_negative(&self) -> bool {
        self.0.is_none()
    }
}

fn encode<T: Serialize>(value: &T) -> Option<(Bytes, Bytes)> {
    let body = bincode::serde::encode_to_vec(value, bincode::config::standard()).ok()?;
    Some((Bytes::new(), body.into()))
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, bincode::error::DecodeError> {
    // No more than is there can be asked for; the limit is on what a length in it may claim.
    const LIMIT: usize = 256 << 20;
    let config = bincode::config::standard().with_limit::<LIMIT>();
    bincode::serde::decode_from_slice(entry.body(), config).map(|(value, _)| value)
}
