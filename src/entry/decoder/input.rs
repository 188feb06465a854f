//! The bytes to decode, and the limits on what they may claim.

use bincode::config::{Configuration, standard};
use bincode::de::read::{Reader as _, SliceReader};
use bincode::de::{Decoder as _, DecoderImpl};
use bincode::error::DecodeError;
use bincode::{BorrowDecode, Decode};

use super::weight::{Container, ContainerKind, Owned};

/// How many values may be nested in each other.
const DEPTH: usize = 256;

/// How many elements of sequences and maps may take no bytes.
const EMPTY: usize = 1 << 16;

pub(super) const TOO_DEEP: DecodeError =
    DecodeError::Other("more than 256 values are nested in each other");
pub(super) const TOO_MANY: DecodeError =
    DecodeError::Other("it claims more than 65,536 elements of zero size");

/// The bytes to decode, and the limits on what they may claim.
pub(super) struct Input<'de> {
    decoder: DecoderImpl<SliceReader<'de>, Configuration, ()>,
    /// How many more elements may be decoded.
    pub(super) elements: usize,
    /// How many more values may be nested.
    depth: usize,
    /// The heap size of what has been decoded so far.
    pub(super) owned: Owned,
}

impl<'de> Input<'de> {
    pub(super) fn new(bytes: &'de [u8]) -> Self {
        let decoder = DecoderImpl::new(SliceReader::new(bytes), standard(), ());
        let elements = bytes.len().saturating_add(EMPTY);
        Self { decoder, elements, depth: DEPTH, owned: Owned::default() }
    }

    /// Whether this many bytes are left.
    pub(super) fn holds(&mut self, bytes: usize) -> bool {
        self.decoder.reader().peek_read(bytes).is_some()
    }

    pub(super) fn number<T: Decode<()>>(&mut self) -> Result<T, DecodeError> {
        T::decode(&mut self.decoder)
    }

    pub(super) fn text(&mut self) -> Result<&'de str, DecodeError> {
        <&str>::borrow_decode(&mut self.decoder)
    }

    pub(super) fn bytes(&mut self) -> Result<&'de [u8], DecodeError> {
        <&[u8]>::borrow_decode(&mut self.decoder)
    }

    /// Decodes the parts of a `T` that is stored in a place of `place` bytes.
    pub(super) fn nest<T>(
        &mut self,
        place: usize,
        decode: impl FnOnce(Part<'_, 'de>) -> Result<T, DecodeError>,
    ) -> Result<T, DecodeError> {
        self.depth = self.depth.checked_sub(1).ok_or(TOO_DEEP)?;
        let place = self.owned.place::<T>(place);
        let value = decode(Part { input: self, place })?;
        self.depth += 1;
        Ok(value)
    }

    /// A container whose bytes claim how many elements it has.
    pub(super) fn container(&mut self, kind: ContainerKind) -> Result<Container, DecodeError> {
        let length = self.number()?;
        Ok(Container { length, kind, is_plausible: self.holds(length) })
    }
}

/// The next value.
pub(super) struct Part<'a, 'de> {
    pub(super) input: &'a mut Input<'de>,
    /// The bytes of the place that the value goes into.
    pub(super) place: usize,
}
