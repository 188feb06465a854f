//! A reader of bincode for bytes from elsewhere: from Redis, or from another node.
//!
//! A length in the bytes may claim anything. bincode reserves memory for it up to a limit, and that limit must fit the
//! largest honest value. This reader knows how many bytes are left instead: a text or byte string that claims more is
//! refused before memory is reserved, and a sequence or map that claims more elements than there are bytes left reserves
//! nothing in advance. It also bounds what takes no bytes at all (elements without contents) and how deep values are
//! nested, since the stack is limited.
//!
//! The format is that of `bincode::config::standard()`, and bincode itself reads all numbers.

use bincode::config::{Configuration, standard};
use bincode::de::read::{Reader as _, SliceReader};
use bincode::de::{Decoder as _, DecoderImpl};
use bincode::error::DecodeError;
use bincode::serde::DecodeError as Unsupported;
use bincode::{BorrowDecode, Decode};
use serde::de::{Deserialize, Deserializer, Visitor};

mod compound;

use compound::{Elements, Fields};

/// How many values may be nested in each other.
const DEPTH: usize = 256;

/// How many elements of sequences and maps may take no bytes.
const EMPTY: usize = 1 << 16;

/// Decodes a value from bytes of which none may be left over.
///
/// # Errors
///
/// If the bytes are not what this version of the type writes, or nest more than 256 values.
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut input = Input::new(bytes);
    let value = T::deserialize(Part(&mut input))?;
    match input.holds(1) {
        false => Ok(value),
        true => Err(DecodeError::Other("bytes are left over")),
    }
}

/// The bytes to decode, and the limits on what they may claim.
struct Input<'de> {
    decoder: DecoderImpl<SliceReader<'de>, Configuration, ()>,
    /// How many more elements may be decoded.
    elements: usize,
    /// How many more values may be nested.
    depth: usize,
}

impl<'de> Input<'de> {
    fn new(bytes: &'de [u8]) -> Self {
        let decoder = DecoderImpl::new(SliceReader::new(bytes), standard(), ());
        Self { decoder, elements: bytes.len().saturating_add(EMPTY), depth: DEPTH }
    }

    /// Whether so many bytes are left.
    fn holds(&mut self, bytes: usize) -> bool {
        self.decoder.reader().peek_read(bytes).is_some()
    }

    fn number<T: Decode<()>>(&mut self) -> Result<T, DecodeError> {
        T::decode(&mut self.decoder)
    }

    fn text(&mut self) -> Result<&'de str, DecodeError> {
        <&str>::borrow_decode(&mut self.decoder)
    }

    fn bytes(&mut self) -> Result<&'de [u8], DecodeError> {
        <&[u8]>::borrow_decode(&mut self.decoder)
    }

    /// Decodes a value within another.
    fn nest<T>(
        &mut self,
        decode: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        self.depth = self.depth.checked_sub(1).ok_or(DecodeError::LimitExceeded)?;
        let value = decode(self)?;
        self.depth += 1;
        Ok(value)
    }

    /// Elements whose number the bytes claim.
    fn claimed(&mut self) -> Result<Claim, DecodeError> {
        let left = self.number()?;
        Ok(Claim { left, is_plausible: self.holds(left) })
    }
}

/// Elements that are still to be decoded.
struct Claim {
    left: usize,
    /// Whether there was a byte for each.
    is_plausible: bool,
}

/// The next value.
struct Part<'a, 'de>(&'a mut Input<'de>);

macro_rules! numbers {
    ($($deserialize:ident $visit:ident)*) => { $(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(self.0.number()?)
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
        visitor.visit_borrowed_str(self.0.text()?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_string(self.0.text()?.to_owned())
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_borrowed_bytes(self.0.bytes()?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_byte_buf(self.0.bytes()?.to_vec())
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        match self.0.number::<u8>()? {
            0 => visitor.visit_none(),
            1 => self.0.nest(|input| visitor.visit_some(Part(input))),
            _ => Err(DecodeError::Other("an option is neither none nor some")),
        }
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
        self.0.nest(|input| visitor.visit_newtype_struct(Part(input)))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.0.nest(|input| {
            let claim = input.claimed()?;
            visitor.visit_seq(Elements { input, claim })
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        left: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.0.nest(|input| visitor.visit_seq(Fields { input, left }))
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
        self.0.nest(|input| {
            let claim = input.claimed()?;
            visitor.visit_map(Elements { input, claim })
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
        self.0.nest(|input| visitor.visit_enum(Part(input)))
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
