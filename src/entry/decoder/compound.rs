//! Sequences, maps, structures and enums.

use bincode::error::DecodeError;
use serde::de::{
    DeserializeSeed, Deserializer as _, EnumAccess, IntoDeserializer, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};

use super::input::{Input, Part, TOO_MANY};
use super::weight::Container;

/// The elements of a sequence or a map.
pub(super) struct Elements<'a, 'de> {
    input: &'a mut Input<'de>,
    container: Container,
    left: usize,
}

impl<'a, 'de> Elements<'a, 'de> {
    pub(super) fn new(input: &'a mut Input<'de>, container: Container) -> Self {
        Self { input, container, left: container.length }
    }

    /// Whether there is another element. All elements take `size` bytes.
    fn advance(&mut self, size: usize) -> Result<bool, DecodeError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(false) };
        if self.left == self.container.length {
            self.input.owned.container(self.container, size);
        }
        self.left = left;
        let elements = self.input.elements.checked_sub(1);
        self.input.elements = elements.ok_or(TOO_MANY)?;
        Ok(true)
    }

    fn decode<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, DecodeError> {
        seed.deserialize(Part { input: self.input, place: size_of::<S::Value>() })
    }

    /// For how many elements memory may be reserved.
    fn hint(&self) -> usize {
        if self.container.is_plausible { self.left } else { 0 }
    }
}

impl<'de> SeqAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        match self.advance(size_of::<S::Value>())? {
            true => self.decode(seed).map(Some),
            false => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

impl<'de> MapAccess<'de> for Elements<'_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        // The size of the value that goes with it is not known here.
        self.next_element_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        self.decode(seed)
    }

    fn next_entry_seed<K: DeserializeSeed<'de>, V: DeserializeSeed<'de>>(
        &mut self,
        key: K,
        value: V,
    ) -> Result<Option<(K::Value, V::Value)>, DecodeError> {
        match self.advance(size_of::<(K::Value, V::Value)>())? {
            true => Ok(Some((self.decode(key)?, self.decode(value)?))),
            false => Ok(None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint())
    }
}

/// The fields of a tuple or a struct, whose number the type knows.
pub(super) struct Fields<'a, 'de> {
    pub(super) input: &'a mut Input<'de>,
    pub(super) left: usize,
}

impl<'de> SeqAccess<'de> for Fields<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, DecodeError> {
        let Some(left) = self.left.checked_sub(1) else { return Ok(None) };
        self.left = left;
        seed.deserialize(Part { input: self.input, place: size_of::<S::Value>() }).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

impl<'de> EnumAccess<'de> for Part<'_, 'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self), DecodeError> {
        let index: u32 = self.input.number()?;
        Ok((seed.deserialize(index.into_deserializer())?, self))
    }
}

impl<'de> VariantAccess<'de> for Part<'_, 'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<S::Value, DecodeError> {
        seed.deserialize(Part { place: size_of::<S::Value>(), ..self })
    }

    fn tuple_variant<V: Visitor<'de>>(
        self,
        length: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(length, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(fields.len(), visitor)
    }
}
