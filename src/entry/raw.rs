//! Byte strings in what is encoded.

use serde::{Deserialize, Serialize, Serializer};

/// Borrowed bytes that are serialized at once, which serde does not do for a slice.
#[derive(Deserialize)]
pub(crate) struct Raw<'a>(pub(crate) &'a [u8]);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
