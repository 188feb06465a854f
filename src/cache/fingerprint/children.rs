//! Hashes of values with parts: structs, tuples, sequences and maps.

use serde::Serialize;
use serde::ser::{
    SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant,
};

use super::hash::{HashKind, Hasher, SerializeError, follow, text};

/// Parts in a fixed order, with or without names.
pub(super) struct Ordered(pub(super) u64);

impl Ordered {
    fn part<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        self.0 = follow(value.serialize(Hasher)?, self.0);
        Ok(())
    }

    fn field<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        value: &T,
    ) -> Result<(), SerializeError> {
        self.0 = text(name, self.0);
        self.part(value)
    }
}

/// Parts whose order does not count. A decoded set or map may iterate in another order than the one that was stored,
/// and serde does not say which sequences are sets. bincode preserves the order of the others.
pub(super) struct Unordered {
    kind: HashKind,
    count: u64,
    sum: u64,
    key: u64,
}

impl Unordered {
    pub(super) fn new(kind: HashKind) -> Self {
        Self { kind, count: 0, sum: 0, key: 0 }
    }

    fn add(&mut self, hash: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    fn hash(&self) -> u64 {
        follow(self.sum, follow(self.count, self.kind as u64))
    }
}

impl SerializeSeq for Unordered {
    type Ok = u64;
    type Error = SerializeError;

    fn serialize_element<T: Serialize + ?Sized>(
        &mut self,
        value: &T,
    ) -> Result<(), SerializeError> {
        self.add(value.serialize(Hasher)?);
        Ok(())
    }

    fn end(self) -> Result<u64, SerializeError> {
        Ok(self.hash())
    }
}

impl SerializeMap for Unordered {
    type Ok = u64;
    type Error = SerializeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), SerializeError> {
        self.key = key.serialize(Hasher)?;
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
        self.add(follow(value.serialize(Hasher)?, self.key));
        Ok(())
    }

    fn end(self) -> Result<u64, SerializeError> {
        Ok(self.hash())
    }
}

macro_rules! by_place {
    ($($part:ident::$method:ident),*) => {$(
        impl $part for Ordered {
            type Ok = u64;
            type Error = SerializeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), SerializeError> {
                self.part(value)
            }

            fn end(self) -> Result<u64, SerializeError> {
                Ok(self.0)
            }
        }
    )*};
}

macro_rules! by_name {
    ($($part:ident),*) => {$(
        impl $part for Ordered {
            type Ok = u64;
            type Error = SerializeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), SerializeError> {
                self.field(name, value)
            }

            fn end(self) -> Result<u64, SerializeError> {
                Ok(self.0)
            }
        }
    )*};
}

by_place!(
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field
);
by_name!(SerializeStruct, SerializeStructVariant);
