//! Values of a Rust type in entries.
//!
//! The body is the value encoded by bincode, which names no fields. The head ([`ValueHead`]) has the value's
//! [fingerprint](super::fingerprint). A node that decodes the body, once per entry, compares the fingerprint of the
//! result with the head; if they differ, the entry holds no value of the requested type.

use std::any::{Any, type_name};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::fingerprint::fingerprint;
use super::uncacheable::Uncacheable;
use crate::entry::{Entry, ValueHead, decoder};
use crate::sync::MutexExt;

/// The head of an entry that says "there is no value of this type".
fn none<T>() -> [u8; 12] {
    let mut head = *b"none........";
    head[4..].copy_from_slice(&blake3::hash(type_name::<T>().as_bytes()).as_bytes()[..8]);
    head
}

/// A value that can be stored in an entry and decoded again.
pub(super) trait StoredValue: Clone {
    /// Decodes the value of an entry, if it holds one of this type.
    fn read(entry: &Entry) -> Option<Self>;

    /// Whether an entry holds a value of this type.
    fn is_in(entry: &Entry) -> bool;

    /// Encodes the value for an entry.
    ///
    /// # Errors
    ///
    /// If decoding does not give the same value.
    fn write(&self) -> Result<EncodedValue, Uncacheable>;

    /// The value as it is stored, if it was decoded. It may differ from the original: a type may skip a field, or write a
    /// time in whole seconds.
    fn written(written: &EncodedValue) -> Option<Self>;

    /// Whether it says "there is none".
    fn is_negative(&self) -> bool;
}

/// Head and body of an entry, and the value decoded from them.
pub(super) struct EncodedValue {
    pub(super) head: Bytes,
    pub(super) body: Bytes,
    pub(super) decoded: Option<Arc<dyn Any + Send + Sync>>,
}

/// A type whose values can be stored.
pub(super) trait ValueType:
    Serialize + DeserializeOwned + Clone + Send + Sync + 'static
{
}

impl<T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static> ValueType for T {}

/// A value.
#[derive(Clone)]
pub(super) struct PlainValue<T>(pub(super) T);

/// A value, or that there is none.
#[derive(Clone)]
pub(super) struct OptionalValue<T>(pub(super) Option<T>);

impl<T: ValueType> StoredValue for PlainValue<T> {
    fn read(entry: &Entry) -> Option<Self> {
        let value = value::<T>(entry).ok()?;
        Some(Self(Arc::unwrap_or_clone(value)))
    }

    fn is_in(entry: &Entry) -> bool {
        entry.has_decoded::<T>() || value::<T>(entry).is_ok()
    }

    fn write(&self) -> Result<EncodedValue, Uncacheable> {
        encode(&self.0).map_err(|mismatch| unstorable::<T>(&mismatch))
    }

    fn written(written: &EncodedValue) -> Option<Self> {
        written.decoded.as_ref()?.downcast_ref().cloned().map(Self)
    }

    fn is_negative(&self) -> bool {
        false
    }
}

impl<T: ValueType> StoredValue for OptionalValue<T> {
    fn read(entry: &Entry) -> Option<Self> {
        if *entry.head() == none::<T>()[..] {
            return Some(Self(None));
        }
        PlainValue::read(entry).map(|PlainValue(value)| Self(Some(value)))
    }

    fn is_in(entry: &Entry) -> bool {
        PlainValue::<T>::is_in(entry) || *entry.head() == none::<T>()[..]
    }

    fn write(&self) -> Result<EncodedValue, Uncacheable> {
        match &self.0 {
            Some(value) => encode(value).map_err(|mismatch| unstorable::<T>(&mismatch)),
            None => Ok(EncodedValue {
                head: Bytes::copy_from_slice(&none::<T>()),
                body: Bytes::new(),
                decoded: None,
            }),
        }
    }

    fn written(written: &EncodedValue) -> Option<Self> {
        PlainValue::written(written).map(|PlainValue(value)| Self(Some(value)))
    }

    fn is_negative(&self) -> bool {
        self.0.is_none()
    }
}

/// Why a value can't be encoded, or bytes can't be decoded as a value of a type.
#[derive(Debug, thiserror::Error)]
enum Mismatch {
    #[error("the entry holds no value")]
    NoValue,
    #[error("encoding fails: {0}")]
    Encode(#[from] bincode::error::EncodeError),
    #[error("decoding fails: {0}")]
    Decode(#[from] bincode::error::DecodeError),
    #[error("its `Serialize` fails: {0}")]
    Fingerprint(#[from] super::fingerprint::SerializeError),
    #[error("the decoded value has other contents or another shape")]
    Other,
    #[error("its `Serialize` or `Deserialize` panics")]
    Panic,
}

/// Encodes a value. A panic of the type's `Serialize` or `Deserialize` is caught: the value has been loaded, so the request
/// must not fail.
fn encode<T: ValueType>(value: &T) -> Result<EncodedValue, Mismatch> {
    let encoded = || encode_checked(value);
    catch_unwind(AssertUnwindSafe(encoded)).unwrap_or(Err(Mismatch::Panic))
}

fn encode_checked<T: ValueType>(value: &T) -> Result<EncodedValue, Mismatch> {
    let body: Bytes = bincode::serde::encode_to_vec(value, bincode::config::standard())?.into();
    let fingerprint = fingerprint(value)?;
    // Checked here once for all nodes; the first hit on this node needs no decoding.
    let (decoded, weight) = decode_body::<T>(&body, fingerprint)?;
    let head = ValueHead { fingerprint, weight: u32::try_from(weight).unwrap_or(u32::MAX) };
    Ok(EncodedValue { head: head.encode(), body, decoded: Some(Arc::new(decoded)) })
}

/// The value of an entry. The decoded value is kept for later hits, unless it takes more memory than the entry claims.
fn value<T: ValueType>(entry: &Entry) -> Result<Arc<T>, Mismatch> {
    if let Some(known) = entry.known() {
        return Ok(known);
    }
    let (value, weight) = decode::<T>(entry)?;
    let value = Arc::new(value);
    if entry.may_keep(weight) {
        entry.set_decoded(value.clone());
    }
    Ok(value)
}

fn decode<T: ValueType>(entry: &Entry) -> Result<(T, usize), Mismatch> {
    let head = ValueHead::decode(entry.head()).ok_or(Mismatch::NoValue)?;
    // A constructor may rely on invariants of its own version, and panic on another version's value.
    let decoded = || decode_body(entry.body(), head.fingerprint);
    catch_unwind(AssertUnwindSafe(decoded)).unwrap_or(Err(Mismatch::Panic))
}

/// Decodes a value, and estimates the bytes that it takes in an `Arc` of its own.
fn decode_body<T: ValueType>(body: &[u8], expected: u64) -> Result<(T, usize), Mismatch> {
    // Two counters, and the allocator's header.
    const SHARED: usize = 32;
    let (value, weight) = decoder::decode_weighed(body)?;
    if fingerprint(&value)? != expected {
        return Err(Mismatch::Other);
    }
    Ok((value, weight.saturating_add(SHARED)))
}

/// The reason why a value is not stored; logged as a warning once per type and process.
fn unstorable<T>(mismatch: &Mismatch) -> Uncacheable {
    static WARNED: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let name = type_name::<T>();
    let why = format!(
        "a value of {name} can't be encoded by bincode and decoded again unchanged: {mismatch}. Frequent causes are \
         `flatten`, `untagged`, `skip_serializing_if` and `serde_json::Value`: cache a struct without them"
    );
    if WARNED.lock_unpoisoned().insert(name) {
        tracing::warn!("not cached: {why}");
    }
    Uncacheable::new("unstorable-type", why)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::entry::{Epoch, Key, Lifetime, LogPosition, Position};

    #[test]
    fn a_decoded_value_larger_than_its_declared_weight_is_not_retained() {
        type Sparse = Vec<Option<[u64; 8]>>;
        let written = encode::<Sparse>(&vec![None; 100]).unwrap();
        let honest = ValueHead::decode(&written.head).unwrap();
        assert!(honest.weight > 100 * 8 * 8, "{honest:?}");
        for (weight, is_kept) in [(honest.weight, true), (honest.weight - 1, false), (0, false)] {
            let head = ValueHead { weight, ..honest }.encode();
            let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
            let key = Key::new("k").finish();
            let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
            let entry = Entry::new(&key, basis, [].into(), life, head, written.body.clone());
            assert_eq!(value::<Sparse>(&entry).unwrap().len(), 100);
            assert_eq!(entry.has_decoded::<Sparse>(), is_kept, "{weight}");
            assert!(entry.weight() >= weight as usize + written.body.len());
        }
    }
}
