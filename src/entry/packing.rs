//! Compresses bodies for the outside of this process.

use std::borrow::Cow;

use bytes::Bytes;

use super::DecodeError;

/// The default for the largest body that is decompressed, in bytes.
const LIMIT: usize = 1 << 20;

/// How bodies are compressed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packing {
    /// The smallest body that is compressed, in bytes; `None` if none is.
    from: Option<usize>,
    /// The largest body that is decompressed, in bytes. A frame of a few bytes can claim any size.
    limit: usize,
}

impl Default for Packing {
    fn default() -> Self {
        Self { from: None, limit: LIMIT }
    }
}

impl Packing {
    /// The fastest level, except for the negative ones. `tidegate-lab bench compression` shows what it saves and costs.
    const LEVEL: i32 = 1;

    pub(crate) fn new(from: Option<usize>, limit: usize) -> Self {
        Self { from, limit }
    }

    /// Compresses a body if it is large enough, and if that makes it smaller.
    pub(super) fn pack<'a>(&self, body: &'a Bytes) -> (Cow<'a, [u8]>, bool) {
        if self.from.is_none_or(|from| body.len() < from) {
            return (Cow::Borrowed(body), false);
        }
        match zstd::bulk::compress(body, Self::LEVEL) {
            Ok(packed) if packed.len() < body.len() => (Cow::Owned(packed), true),
            _ => (Cow::Borrowed(body), false),
        }
    }

    /// Decompresses a body, which says how long it is.
    pub(super) fn unpack(&self, packed: &[u8]) -> Result<Bytes, DecodeError> {
        let length = zstd::zstd_safe::get_frame_content_size(packed).ok().flatten();
        let length = length.and_then(|length| usize::try_from(length).ok());
        let length = length.filter(|length| *length <= self.limit).ok_or(DecodeError::Body)?;
        let body = zstd::bulk::decompress(packed, length).map_err(|_damaged| DecodeError::Body)?;
        Ok(body.into())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(length: usize) -> Bytes {
        b"the same few words, over and over; ".iter().copied().cycle().take(length).collect()
    }

    #[test]
    fn a_body_is_compressed_from_the_given_size_on_if_that_makes_it_smaller() {
        let packing = Packing::new(Some(1000), 1 << 20);
        let mut random = fastrand::Rng::with_seed(1);
        let noise: Bytes = (0..5000).map(|_| random.u8(..)).collect();
        for (body, is_compressed) in
            [(text(999), false), (text(1000), true), (text(100_000), true), (noise, false)]
        {
            let (packed, is_packed) = packing.pack(&body);
            assert_eq!(is_packed, is_compressed, "{} bytes", body.len());
            match is_packed {
                true => assert_eq!(packing.unpack(&packed), Ok(body)),
                false => assert_eq!(*packed, *body),
            }
        }
        assert!(!Packing::default().pack(&text(100_000)).1);
    }

    #[test]
    fn a_body_that_claims_to_be_longer_than_the_limit_is_not_decompressed() {
        let (all, few) = (Packing::new(Some(0), 1 << 20), Packing::new(Some(0), 999));
        let body = text(1000);
        let (packed, _) = all.pack(&body);
        assert!(packed.len() < 100);
        assert_eq!(all.unpack(&packed), Ok(body.clone()));
        assert_eq!(few.unpack(&packed), Err(DecodeError::Body));
    }

    proptest! {
        #[test]
        fn no_bytes_make_decompression_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(),
            byte: u8,
        ) {
            let packing = Packing::new(Some(0), 1 << 16);
            drop(packing.unpack(&bytes));
            let body = text(3000);
            let (packed, _) = packing.pack(&body);
            let mut packed = packed.into_owned();
            let at = at.index(packed.len());
            packed[at] = byte;
            drop(packing.unpack(&packed));
            drop(packing.unpack(&packed[..at]));
        }
    }
}
