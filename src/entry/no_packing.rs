//! In place of `packing`, without the feature `zstd`: no body is compressed.

use std::borrow::Cow;

use bytes::Bytes;

use super::DecodeError;

/// How bodies are compressed: not at all.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Packing {}

impl Packing {
    #[cfg(feature = "redis")]
    pub(crate) fn new(_from: Option<usize>, _limit: usize) -> Self {
        Self {}
    }

    #[expect(clippy::unused_self, reason = "the same as with the feature")]
    pub(super) fn pack(self, body: &Bytes) -> (Cow<'_, [u8]>, bool) {
        (Cow::Borrowed(body), false)
    }

    #[expect(clippy::unused_self, reason = "the same as with the feature")]
    pub(super) fn unpack(self, _packed: &[u8]) -> Result<Bytes, DecodeError> {
        Err(DecodeError::Format)
    }
}
