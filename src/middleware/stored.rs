//! Converts between an HTTP response and an entry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{DATE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::date::date;
use super::rules::list::members;
use crate::entry::Raw;
use crate::entry::{Entry, decoder};

/// Fields that belong to one connection and not to the response (RFC 9110, section 7.6.1; RFC 9111, section 3.1), and
/// those that each cache writes itself.
const NOT_STORED: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "transfer-encoding",
    "upgrade",
    "age",
];

/// The status and fields of a response that are stored.
#[derive(Clone, Debug)]
pub(crate) struct StoredHead {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    /// The response's age when it arrived, if that does not count against its TTL.
    pub(crate) age: Duration,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    status: u16,
    #[serde(borrow)]
    headers: WireFields<'a>,
    trailers: Option<WireFields<'a>>,
    age: u64,
}

type WireFields<'a> = Vec<(&'a str, Raw<'a>)>;

/// Why a stored head can't be used.
#[derive(Debug, thiserror::Error)]
#[error("a stored response head is malformed")]
pub(crate) struct MalformedHead;

/// The number of fields that are added to a stored response: by the cache, and `Content-Length` by a router.
const ROOM: usize = 3;

/// The maximum number of field names. A map panics above 24,576; the difference is left for this cache and the layers
/// around it to add.
const NAMES: usize = 16_384;

/// A stored response whose head is decoded.
#[derive(Debug)]
pub(crate) struct StoredResponse {
    pub(crate) head: StoredHead,
    pub(crate) entry: Arc<Entry>,
}

impl StoredHead {
    /// The part of a response's head that may be stored.
    pub(crate) fn storable(
        status: StatusCode,
        headers: &HeaderMap,
        withheld: &[HeaderName],
    ) -> Self {
        let of_connection: Vec<_> = members(headers, "connection").collect();
        let named = |name: &HeaderName| {
            let name = name.as_str().as_bytes();
            of_connection.iter().any(|member| member.eq_ignore_ascii_case(name))
        };
        let mut kept = with_room(headers.len() + 1);
        for (name, value) in headers {
            if !NOT_STORED.contains(&name.as_str()) && !withheld.contains(name) && !named(name) {
                kept.append(name.clone(), value.clone());
            }
        }
        if !kept.contains_key(DATE) {
            date(&mut kept);
        }
        Self { status, headers: kept, trailers: None, age: Duration::ZERO }
    }

    /// Encodes it for an entry.
    pub(crate) fn encode(&self) -> Bytes {
        let wire = Wire {
            status: self.status.as_u16(),
            headers: fields(&self.headers),
            trailers: self.trailers.as_ref().map(fields),
            age: self.age.as_secs(),
        };
        encode(&wire)
    }

    /// Decodes the head of a stored response, with spare capacity for the fields that will be added.
    pub(crate) fn from_entry(entry: &Entry) -> Result<Self, MalformedHead> {
        if entry.is_vary_marker() {
            return Err(MalformedHead);
        }
        let wire: Wire = decode(entry.head())?;
        let status = StatusCode::from_u16(wire.status).map_err(|_invalid| MalformedHead)?;
        let headers = map(wire.headers, entry.head(), ROOM)?;
        let trailers = wire.trailers.map(|trailers| map(trailers, entry.head(), 0)).transpose()?;
        Ok(Self { status, headers, trailers, age: Duration::from_secs(wire.age) })
    }
}

/// Encodes a vary marker: the fields by which responses under its key vary.
pub(crate) fn encode_vary_marker(names: &[HeaderName]) -> Bytes {
    encode(&names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>())
}

/// The field names of a vary marker.
pub(crate) fn vary_marker(entry: &Entry) -> Result<Arc<Vec<HeaderName>>, MalformedHead> {
    entry.decoded(|entry| {
        let names: Vec<String> = decode(entry.head())?;
        let names = names.into_iter().map(HeaderName::try_from);
        names.collect::<Result<_, _>>().map_err(|_invalid| MalformedHead)
    })
}

fn encode<T: Serialize>(wire: &T) -> Bytes {
    // Enough for most responses.
    let mut bytes = Vec::with_capacity(256);
    // Integers, strings and byte strings always encode.
    let config = bincode::config::standard();
    let encoded = bincode::serde::encode_into_std_write(wire, &mut bytes, config);
    // Copy, since the bytes are stored: no spare capacity.
    if encoded.is_ok() { Bytes::copy_from_slice(&bytes) } else { Bytes::new() }
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MalformedHead> {
    decoder::decode(bytes).map_err(|_malformed| MalformedHead)
}

/// An empty map with this capacity, or with none if that is more than a map can have.
pub(crate) fn with_room(fields: usize) -> HeaderMap {
    HeaderMap::try_with_capacity(fields).unwrap_or_default()
}

fn fields(map: &HeaderMap) -> WireFields<'_> {
    map.iter().map(|(name, value)| (name.as_str(), Raw(value.as_bytes()))).collect()
}

/// The values are parts of `whole`, and not copied.
fn map(fields: WireFields<'_>, whole: &Bytes, room: usize) -> Result<HeaderMap, MalformedHead> {
    // Exact capacity, since the map is stored.
    let mut map = with_room(fields.len() + room);
    for (name, Raw(value)) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_invalid| MalformedHead)?;
        let value = HeaderValue::from_maybe_shared(whole.slice_ref(value));
        let value = value.map_err(|_invalid| MalformedHead)?;
        map.append(name, value);
        if map.keys_len() > NAMES {
            return Err(MalformedHead);
        }
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Epoch, Key, Lifetime, LogPosition, Position};

    fn entry(head: Bytes) -> Entry {
        let life = Lifetime::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let basis = LogPosition::new(Epoch::new(1), Position::ZERO);
        Entry::new(&Key::new("t").finish(), basis, [].into(), life, head, Bytes::new())
    }

    #[test]
    fn a_stored_head_decodes_unchanged() {
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"1\""));
        headers.append("x-odd", HeaderValue::from_bytes(b"\xfe\xff").unwrap());
        headers.append("x-odd", HeaderValue::from_static(""));
        let trailers = Some(headers.clone());
        let age = Duration::from_secs(300);
        let written = StoredHead { status: StatusCode::OK, headers, trailers, age };
        // As owned values have it, which entries in Redis are.
        let owned = |map: &HeaderMap| -> Vec<(String, Vec<u8>)> {
            let fields = map.iter();
            fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
        };
        let (head, tail) = (owned(&written.headers), written.trailers.as_ref().map(owned));
        assert_eq!(written.encode(), encode(&(200_u16, head, tail, 300_u64)));
        let read = StoredHead::from_entry(&entry(written.encode())).unwrap();
        assert_eq!((&read.headers, &read.trailers), (&written.headers, &written.trailers));
        assert_eq!((read.status, read.age), (written.status, written.age));
    }

    #[test]
    fn a_head_with_trailing_bytes_is_malformed() {
        let names = ["accept".parse().unwrap()];
        for (head, extra) in
            [(encode(&(200_u16, 0_u8, 0_u8, 0_u8)), 0), (encode_vary_marker(&names), 1)]
        {
            let longer: Bytes = [&head[..], &[0]].concat().into();
            let read = |head: Bytes| match extra {
                0 => StoredHead::from_entry(&entry(head)).is_ok(),
                _ => vary_marker(&entry(head)).is_ok(),
            };
            assert!(read(head));
            assert!(!read(longer));
        }
    }

    #[test]
    fn a_head_with_more_fields_than_a_header_map_holds_is_malformed() {
        let names: Vec<String> = (0..40_000).map(|name| format!("x{name}")).collect();
        let wire = |count: usize| Wire {
            status: 200,
            headers: names[..count].iter().map(|name| (name.as_str(), Raw(b""))).collect(),
            trailers: None,
            age: 0,
        };
        assert!(StoredHead::from_entry(&entry(encode(&wire(NAMES)))).is_ok());
        assert!(StoredHead::from_entry(&entry(encode(&wire(NAMES + 1)))).is_err());
        assert!(StoredHead::from_entry(&entry(encode(&wire(40_000)))).is_err());
        let trailers = Wire { trailers: Some(wire(40_000).headers), ..wire(1) };
        assert!(StoredHead::from_entry(&entry(encode(&trailers))).is_err());
    }
}
