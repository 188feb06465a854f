//! A bincode decoder for untrusted bytes: from Redis, or from another node.
//!
//! A length in the bytes may claim anything. bincode reserves memory for it up to a limit, and that limit must fit the
//! largest honest value. This reader knows how many bytes are left instead: a text or byte string that claims more is
//! refused before memory is reserved, and a sequence or map that claims more elements than there are bytes left reserves
//! nothing in advance. It also bounds what takes no bytes at all (elements without contents) and how deep values are
//! nested, since the stack is limited.
//!
//! The format is that of `bincode::config::standard()`, and bincode itself reads all numbers.

use bincode::error::DecodeError;
use bincode::serde::DecodeError as Unsupported;
use serde::de::{Deserialize, Deserializer, Visitor};

mod compound;
mod input;
mod weight;

use compound::{Elements, Fields};
use input::{Input, Part};
use weight::ContainerKind;

/// Decodes a value that must use up all bytes.
///
/// # Errors
///
/// If the bytes are not what this version of the type writes, or nest more than 256 values.
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    decode_weighed(bytes).map(|(value, _weight)| value)
}

/// Decodes a value as [`decode`] does, and estimates how many bytes it takes in memory with all that it owns.
pub(crate) fn decode_weighed<'de, T: Deserialize<'de>>(
    bytes: &'de [u8],
) -> Result<(T, usize), DecodeError> {
    let mut input = Input::new(bytes);
    let value = T::deserialize(Part { input: &mut input, place: size_of::<T>() })?;
    match input.holds(1) {
        false => Ok((value, size_of::<T>().saturating_add(input.owned.bytes()))),
        true => Err(DecodeError::Other("bytes are left over")),
    }
}

macro_rules! numbers {
    ($($deserialize:ident $visit:ident)*) => { $(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.input.number()?)
        }
    )* };
}

macro_rules! unsupported {
    ($($deserialize:ident $error:ident)*) => { $(
        fn $deserialize<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
            Err(DecodeError::Serde(Unsupported::$error))
        }
    )* };
}

impl<'de> Deserializer<'de> for Part<'_, 'de> {
    type Error = DecodeError;

    numbers! {
        deserialize_bool visit_bool
        deserialize_i8 visit_i8
        deserialize_i16 visit_i16
        deserialize_i32 visit_i32
        deserialize_i64 visit_i64
        deserialize_i128 visit_i128
        deserialize_u8 visit_u8
        deserialize_u16 visit_u16
        deserialize_u32 visit_u32
        deserialize_u64 visit_u64
        deserialize_u128 visit_u128
        deserialize_f32 visit_f32
        deserialize_f64 visit_f64
        deserialize_char visit_char
    }

    // bincode writes no names and no types.
    unsupported! {
        deserialize_any AnyNotSupported
        deserialize_identifier IdentifierNotSupported
        deserialize_ignored_any IgnoredAnyNotSupported
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let text = self.input.text()?;
        self.input.owned.text::<V::Value>(text.len());
        visitor.visit_borrowed_str(text)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let text = self.input.text()?;
        self.input.owned.text::<V::Value>(text.len());
        visitor.visit_string(text.to_owned())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let bytes = self.input.bytes()?;
        self.input.owned.text::<V::Value>(bytes.len());
        visitor.visit_borrowed_bytes(bytes)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let bytes = self.input.bytes()?;
        self.input.owned.text::<V::Value>(bytes.len());
        visitor.visit_byte_buf(bytes.to_vec())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.input.nest(self.place, |part| match part.input.number::<u8>()? {
            0 => visitor.visit_none(),
            1 => visitor.visit_some(part),
            _ => Err(DecodeError::Other("an option is neither none nor some")),
        })
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.input.nest(self.place, |part| visitor.visit_newtype_struct(part))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.input.nest(self.place, |Part { input, .. }| {
            let container = input.container(ContainerKind::for_type::<V::Value>())?;
            visitor.visit_seq(Elements::new(input, container))
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.input.nest(self.place, |Part { input, .. }| visitor.visit_seq(Fields { input, left }))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(length, visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.input.nest(self.place, |Part { input, .. }| {
            let container = input.container(ContainerKind::for_type::<V::Value>())?;
            visitor.visit_map(Elements::new(input, container))
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(fields.len(), visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.input.nest(self.place, |part| visitor.visit_enum(part))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
