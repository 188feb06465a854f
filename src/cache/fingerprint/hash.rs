//! Hashes of kinds, names and contents, and of one after another.

use std::fmt;

use serde::ser;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The error of a value's own `Serialize`.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(in crate::cache) struct SerializeError(String);

impl ser::Error for SerializeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// The seed of a hash, so that equal bytes of two kinds of values have two hashes.
#[derive(Clone, Copy)]
pub(super) enum HashKind {
    Bool,
    I8,
    I16,
    I32,
    I64,
    I128,
    U8,
    U16,
    U32,
    U64,
    U128,
    F32,
    F64,
    Char,
    Text,
    Bytes,
    None,
    Some,
    Unit,
    Newtype,
    Enum,
    Seq,
    Map,
    Tuple,
    Struct,
}

pub(super) fn leaf(kind: HashKind, bytes: &[u8]) -> u64 {
    xxh3_64_with_seed(bytes, kind as u64)
}

/// Adds a name to a hash.
pub(super) fn text(name: &str, before: u64) -> u64 {
    xxh3_64_with_seed(name.as_bytes(), before)
}

/// Adds a hash to a hash.
pub(super) fn follow(hash: u64, before: u64) -> u64 {
    xxh3_64_with_seed(&hash.to_le_bytes(), before)
}

pub(super) fn named(kind: HashKind, name: &str) -> u64 {
    text(name, kind as u64)
}

pub(super) fn variant(name: &str, variant: &str) -> u64 {
    text(variant, named(HashKind::Enum, name))
}

/// Serializes a value into its hash.
#[derive(Clone, Copy)]
pub(super) struct Hasher;
