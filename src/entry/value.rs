//! The head of an entry that holds a value of a Rust type.

use bytes::Bytes;

/// The first byte in the head of a value. The head of an HTTP response begins with its status, never 0.
const VALUE: u8 = 0;

/// The description of the value in the body: a marker byte, the fingerprint, and the weight, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ValueHead {
    /// A hash of the value's names, types and contents.
    pub(crate) fingerprint: u64,
    /// Bytes that the decoded value takes in memory, as the node that stored it estimated them.
    pub(crate) weight: u32,
}

impl ValueHead {
    pub(crate) fn encode(self) -> Bytes {
        [&[VALUE], &self.fingerprint.to_le_bytes()[..], &self.weight.to_le_bytes()].concat().into()
    }

    /// The head of an entry, if that holds a value.
    pub(crate) fn decode(head: &[u8]) -> Option<Self> {
        let (&VALUE, rest) = head.split_first()? else { return None };
        let (fingerprint, weight) = rest.split_first_chunk()?;
        let weight = u32::from_le_bytes(weight.try_into().ok()?);
        Some(Self { fingerprint: u64::from_le_bytes(*fingerprint), weight })
    }
}
