//! Fingerprints of values: a 64-bit hash of everything that `Serialize` reports, names and contents.
//!
//! bincode writes neither the names of fields and variants nor their types, so the bytes of one type can decode as
//! another. A fingerprint covers what the bytes lack. The node that stores a value computes it from that value; a node
//! that decodes the value computes it again from the result, with its own version of the type. If a name, a type or a
//! content differs, so do the fingerprints. The check is end to end: it assumes nothing about `Deserialize`, needs no
//! dummy values, and works for every type that can be serialized.

use serde::ser::{Serialize, Serializer};

use children::{Ordered, Unordered};
pub(super) use hash::SerializeError;
use hash::{HashKind, Hasher, follow, leaf, named, text, variant};

mod children;
mod hash;

/// The fingerprint of a value: its type's path, and everything that its `Serialize` reports.
///
/// # Errors
///
/// The error of its `Serialize`.
pub(super) fn fingerprint<T: Serialize>(value: &T) -> Result<u64, SerializeError> {
    let seen = value.serialize(Hasher)?;
    // Two types that serde can't distinguish may still differ in meaning, such as cents and dollars.
    Ok(text(std::any::type_name::<T>(), seen))
}

macro_rules! numbers {
    ($($method:ident: $number:ty => $kind:ident),*) => {$(
        fn $method(self, number: $number) -> Result<u64, SerializeError> {
            Ok(leaf(HashKind::$kind, &number.to_le_bytes()))
        }
    )*};
}

impl Serializer for Hasher {
    type Ok = u64;
    type Error = SerializeError;
    type SerializeSeq = Unordered;
    type SerializeTuple = Ordered;
    type SerializeTupleStruct = Ordered;
    type SerializeTupleVariant = Ordered;
    type SerializeMap = Unordered;
    type SerializeStruct = Ordered;
    type SerializeStructVariant = Ordered;

    numbers!(
        serialize_i8: i8 => I8, serialize_i16: i16 => I16, serialize_i32: i32 => I32,
        serialize_i64: i64 => I64, serialize_i128: i128 => I128, serialize_u8: u8 => U8,
        serialize_u16: u16 => U16, serialize_u32: u32 => U32, serialize_u64: u64 => U64,
        serialize_u128: u128 => U128, serialize_f32: f32 => F32, serialize_f64: f64 => F64
    );

    fn serialize_bool(self, value: bool) -> Result<u64, SerializeError> {
        Ok(leaf(HashKind::Bool, &[value.into()]))
    }

    fn serialize_char(self, value: char) -> Result<u64, SerializeError> {
        Ok(leaf(HashKind::Char, &u32::from(value).to_le_bytes()))
    }

    fn serialize_str(self, value: &str) -> Result<u64, SerializeError> {
        Ok(leaf(HashKind::Text, value.as_bytes()))
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<u64, SerializeError> {
        Ok(leaf(HashKind::Bytes, value))
    }

    fn serialize_none(self) -> Result<u64, SerializeError> {
        Ok(leaf(HashKind::None, &[]))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<u64, SerializeError> {
        Ok(follow(value.serialize(self)?, HashKind::Some as u64))
    }

    fn serialize_unit(self) -> Result<u64, SerializeError> {
        Ok(leaf(HashKind::Unit, &[]))
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<u64, SerializeError> {
        Ok(named(HashKind::Unit, name))
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _: u32,
        chosen: &'static str,
    ) -> Result<u64, SerializeError> {
        Ok(variant(name, chosen))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<u64, SerializeError> {
        Ok(follow(value.serialize(self)?, named(HashKind::Newtype, name)))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        chosen: &'static str,
        value: &T,
    ) -> Result<u64, SerializeError> {
        Ok(follow(value.serialize(self)?, follow(HashKind::Newtype as u64, variant(name, chosen))))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Unordered, SerializeError> {
        Ok(Unordered::new(HashKind::Seq))
    }

    fn serialize_tuple(self, _: usize) -> Result<Ordered, SerializeError> {
        Ok(Ordered(HashKind::Tuple as u64))
    }

    fn serialize_tuple_struct(
        self,
        name: &'static str,
        _: usize,
    ) -> Result<Ordered, SerializeError> {
        Ok(Ordered(named(HashKind::Tuple, name)))
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        chosen: &'static str,
        _: usize,
    ) -> Result<Ordered, SerializeError> {
        Ok(Ordered(follow(HashKind::Tuple as u64, variant(name, chosen))))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Unordered, SerializeError> {
        Ok(Unordered::new(HashKind::Map))
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Ordered, SerializeError> {
        Ok(Ordered(named(HashKind::Struct, name)))
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        chosen: &'static str,
        _: usize,
    ) -> Result<Ordered, SerializeError> {
        Ok(Ordered(follow(HashKind::Struct as u64, variant(name, chosen))))
    }

    fn is_human_readable(&self) -> bool {
        false // as for bincode
    }
}
