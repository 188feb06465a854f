//! The encoding of an entry outside this process.
//!
//! ```text
//! offset  bytes  what                                      all numbers little-endian
//!      0      4  magic, "TGE" and the version of the format
//!      4      4  length of the metadata
//!      8     16  checksum: XXH3, 128 bits, over all that follows; or a code over the whole, where nodes share a secret
//!     24      8  epoch                       these three, the version, tell an entry from others of its key
//!     32      8  as_of
//!     40      8  when it was computed, in milliseconds since 1970
//!     48      8  TTL in milliseconds
//!     56      8  how long it is stored, in milliseconds
//!     64      8  how long it took to compute, in microseconds
//!     72      8  how long past its TTL it is served while it is recomputed, in milliseconds
//!     80      8  how long past its TTL it is served if recomputing it fails, in milliseconds
//!     88      4  flags: 1 for never past its TTL, 2 for a vary marker, 4 if only a TTL bounds a part of it, 8 if the
//!                body is compressed
//!     92      -  metadata (bincode): canonical key, tag hashes, head
//!      -      -  the body as it is or as one frame of zstd, up to the end
//! ```
//!
//! The checksum finds damage, not malice; a store whose writers are not all trusted puts a message authentication code
//! in its place (`store/redis/seal.rs`). Hostile bytes can make an entry undecodable, which is a miss; they can't make
//! the decoder panic, or reserve more memory than the bytes they came in.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    DecodeError, Entry, EntryVersion, Epoch, Lifetime, LogPosition, Packing, Position, Raw, Tag,
    decoder,
};
use crate::clock;

const MAGIC: &[u8; 4] = b"TGE\x05";
const LENGTH: Range<usize> = 4..8;
const CHECKSUM: Range<usize> = 8..CHECKED_FROM;
const CHECKED_FROM: usize = 24;
/// Where an encoded entry has its version.
pub(crate) const VERSION: Range<usize> = CHECKED_FROM..48;
/// The length of the checksum, or of the code in its place.
const SEAL: usize = 16;
const HEADER: usize = 92;
const STRICT: u32 = 1;
const VARY_MARKER: u32 = 2;
const TIMED: u32 = 4;
const COMPRESSED: u32 = 8;
const FLAGS: u32 = STRICT | VARY_MARKER | TIMED | COMPRESSED;

#[derive(Serialize, Deserialize)]
struct Metadata<'a> {
    #[serde(borrow)]
    key: Raw<'a>,
    tags: Vec<u64>,
    #[serde(borrow)]
    head: Raw<'a>,
}

/// Encodes an entry, with its body as it is.
#[cfg(any(test, feature = "__internals"))]
pub(crate) fn encode(entry: &Entry) -> Bytes {
    encode_sealed(entry, Packing::default(), checksum)
}

/// Encodes an entry. `seal` computes the checksum of all bytes, or the code in its place.
pub(crate) fn encode_sealed(
    entry: &Entry,
    packing: Packing,
    seal: impl FnOnce(&[u8]) -> [u8; SEAL],
) -> Bytes {
    let (body, is_packed) = packing.pack(&entry.body);
    let metadata = Metadata {
        key: Raw(&entry.key),
        tags: entry.tags.iter().map(|tag| tag.hash()).collect(),
        head: Raw(&entry.head),
    };
    // An upper bound for the metadata, with the markers and lengths of integers.
    let most = entry.key.len() + 9 * (3 + entry.tags.len()) + entry.head.len();
    let mut out = BytesMut::with_capacity(HEADER + most + body.len());
    out.put_slice(MAGIC);
    out.put_bytes(0, CHECKED_FROM - out.len());
    out.put_slice(&encode_version(entry.version()));
    out.put_u64_le(clock::millis(entry.life.ttl));
    out.put_u64_le(clock::millis(entry.life.keep));
    out.put_u64_le(u64::try_from(entry.life.cost.as_micros()).unwrap_or(u64::MAX));
    out.put_u64_le(clock::millis(entry.life.while_revalidating));
    out.put_u64_le(clock::millis(entry.life.if_error));
    out.put_u32_le(flags(entry) | if is_packed { COMPRESSED } else { 0 });
    let mut metadata_out = (&mut out).writer();
    // Byte strings and integers always encode.
    let config = bincode::config::standard();
    drop(bincode::serde::encode_into_std_write(&metadata, &mut metadata_out, config));
    let length = u32::try_from(out.len() - HEADER).unwrap_or(u32::MAX);
    out[LENGTH].copy_from_slice(&length.to_le_bytes());
    out.put_slice(&body);
    let sum = seal(&out);
    out[CHECKSUM].copy_from_slice(&sum);
    out.freeze()
}

/// The bytes of a version in the encoding.
pub(crate) fn encode_version(version: EntryVersion) -> [u8; VERSION.end - VERSION.start] {
    let EntryVersion { basis, computed_at } = version;
    let mut out = [0; VERSION.end - VERSION.start];
    let numbers = [basis.epoch.get(), basis.position.get(), computed_at];
    for (bytes, number) in out.as_chunks_mut().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
    out
}

/// Decodes an entry with a checksum.
#[cfg(any(test, feature = "__internals"))]
pub(crate) fn decode(bytes: &Bytes) -> Result<Entry, DecodeError> {
    decode_sealed(bytes, Packing::default(), is_whole)
}

/// Whether the bytes of an entry have this checksum.
pub(crate) fn is_whole(bytes: &[u8], sum: &[u8]) -> Result<(), DecodeError> {
    match sum == checksum(bytes) {
        true => Ok(()),
        false => Err(DecodeError::Checksum),
    }
}

/// Decodes an entry if `check` accepts its seal. `check` gets all bytes and the bytes of the seal. The entry's key, its head,
/// and its body unless that is compressed, are slices of `bytes`, not copies.
pub(crate) fn decode_sealed(
    bytes: &Bytes,
    packing: Packing,
    check: impl FnOnce(&[u8], &[u8]) -> Result<(), DecodeError>,
) -> Result<Entry, DecodeError> {
    if bytes.len() < HEADER {
        return Err(DecodeError::Truncated);
    }
    let mut header = &bytes[..HEADER];
    let mut magic = [0; 4];
    header.copy_to_slice(&mut magic);
    if &magic != MAGIC {
        return Err(DecodeError::Format);
    }
    let metadata_len = header.get_u32_le() as usize;
    check(bytes, &bytes[CHECKSUM])?;
    header.advance(SEAL);
    let epoch = Epoch::new(header.get_u64_le());
    let as_of = Position::new(header.get_u64_le());
    let life = read_life(&mut header);
    let flags = header.get_u32_le();
    if flags & !FLAGS != 0 {
        return Err(DecodeError::Format);
    }
    let body_at = HEADER.checked_add(metadata_len).ok_or(DecodeError::Truncated)?;
    let metadata_bytes = bytes.get(HEADER..body_at).ok_or(DecodeError::Truncated)?;
    let metadata: Metadata<'_> =
        decoder::decode(metadata_bytes).map_err(|_malformed| DecodeError::Metadata)?;
    let body = bytes.slice(body_at..);
    let body = if flags & COMPRESSED != 0 { packing.unpack(&body)? } else { body };
    let mut entry = Entry::from_parts(
        bytes.slice_ref(metadata.key.0),
        LogPosition::new(epoch, as_of),
        metadata.tags.into_iter().map(Tag::from_hash).collect(),
        life,
        bytes.slice_ref(metadata.head.0),
        body,
    );
    entry.life.is_strict = flags & STRICT != 0;
    entry.life.is_timed = flags & TIMED != 0;
    Ok(if flags & VARY_MARKER != 0 { entry.into_vary_marker(Arc::default()) } else { entry })
}

/// The bytes of an entry before and after the seal.
#[cfg(feature = "redis")]
pub(crate) fn around_seal(bytes: &[u8]) -> (&[u8], &[u8]) {
    (&bytes[..CHECKSUM.start], &bytes[CHECKED_FROM..])
}

/// The checksum of an entry, whose bytes are all given.
pub(crate) fn checksum(bytes: &[u8]) -> [u8; SEAL] {
    xxh3_128(&bytes[CHECKED_FROM..]).to_le_bytes()
}

fn flags(entry: &Entry) -> u32 {
    let strict = if entry.life.is_strict { STRICT } else { 0 };
    let vary_marker = if entry.is_vary_marker() { VARY_MARKER } else { 0 };
    let timed = if entry.life.is_timed { TIMED } else { 0 };
    strict | vary_marker | timed
}

fn read_life(header: &mut &[u8]) -> Lifetime {
    let computed_at = header.get_u64_le();
    let ttl = Duration::from_millis(header.get_u64_le());
    let keep = Duration::from_millis(header.get_u64_le());
    let cost = Duration::from_micros(header.get_u64_le());
    let while_revalidating = Duration::from_millis(header.get_u64_le());
    let if_error = Duration::from_millis(header.get_u64_le());
    let life = Lifetime::starting_now(ttl, keep, cost);
    // The clock of the node that computed it may be ahead.
    let age = life.arrived_at.saturating_sub(computed_at);
    let (age_on_arrival, arrived_at) = (Duration::from_millis(age), computed_at + age);
    Lifetime { arrived_at, age_on_arrival, while_revalidating, if_error, ..life }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Key;

    fn entry() -> Entry {
        let cost = Duration::from_micros(1500);
        let life = Lifetime {
            while_revalidating: Duration::from_secs(30),
            if_error: Duration::from_mins(1),
            is_strict: true,
            is_timed: true,
            ..Lifetime::starting_now(Duration::from_mins(5), Duration::from_mins(6), cost)
        };
        let key = Key::new("golden").part("key").finish();
        let tags = [Tag::table("users"), Tag::from_hash(7)].into();
        let (head, body) = (Bytes::from_static(b"head"), Bytes::from_static(b"body"));
        let basis = LogPosition::new(Epoch::new(0x1122), Position::new(0x16_B374_D848));
        Entry::new(&key, basis, tags, life, head, body).into_vary_marker(Arc::default())
    }

    /// Entries outlive the process that wrote them, so the encoding may change only together with the version.
    #[tokio::test(start_paused = true)]
    async fn the_encoding_matches_the_golden_bytes() {
        let mut bytes = encode(&entry()).to_vec();
        bytes[8..24].fill(0); // the checksum covers the time of writing, so it always differs
        bytes[40..48].fill(0);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            concat!(
                "54474505",
                "1c000000",
                "00000000000000000000000000000000",
                "2211000000000000",
                "48d874b316000000",
                "0000000000000000",
                "e093040000000000",
                "407e050000000000",
                "dc05000000000000",
                "3075000000000000",
                "60ea000000000000",
                "07000000",
                "0b",
                "06",
                "676f6c64656e",
                "03",
                "6b6579",
                "02",
                "fd3bdfbece85c88153",
                "07",
                "04",
                "68656164",
                "626f6479",
            )
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_encoded_entry_decodes_unchanged() {
        let written = entry();
        let read = decode(&encode(&written)).unwrap();
        assert_eq!(read.key, written.key);
        assert_eq!(read.basis, written.basis);
        assert_eq!(read.tags, written.tags);
        assert_eq!((read.life.ttl, read.life.keep), (written.life.ttl, written.life.keep));
        assert_eq!(read.life.cost, written.life.cost);
        let windows = |life: &Lifetime| (life.while_revalidating, life.if_error, life.is_strict);
        assert_eq!(windows(&read.life), windows(&written.life));
        assert!(read.is_vary_marker() && read.life.is_timed);
        assert_eq!((read.head, read.body), (written.head, written.body));
    }

    #[test]
    fn any_changed_byte_or_truncation_is_detected() {
        let good = encode(&entry());
        for at in 0..good.len() {
            assert!(decode(&good.slice(..at)).is_err(), "cut at {at}");
            let mut bad = good.to_vec();
            bad[at] ^= 0x40;
            assert!(decode(&bad.into()).is_err(), "changed at {at}");
        }
    }

    #[test]
    fn an_oversized_length_prefix_is_refused() {
        let mut metadata = vec![0xfd];
        metadata.extend(u64::MAX.to_le_bytes());
        let mut bomb = BytesMut::new();
        bomb.put_slice(MAGIC);
        bomb.put_u32_le(u32::try_from(metadata.len()).unwrap());
        bomb.put_bytes(0, HEADER - 8);
        bomb.put_slice(&metadata);
        let sum = checksum(&bomb);
        bomb[8..24].copy_from_slice(&sum);
        assert_eq!(decode(&bomb.freeze()).err(), Some(DecodeError::Metadata));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode(&Bytes::from(bytes));
        }
    }
}
