//! Between an HTTP answer and an entry.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    AGE, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, DATE, HeaderMap, HeaderName, HeaderValue,
    VARY,
};
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize, Serializer};

use super::body::Body;
use super::date::date;
use super::rules::list::members;
use super::rules::precondition::{describes_a_body, is_known, range_applies};
use super::rules::range::{Part, part};
use super::rules::request::Asked;
use super::rules::storable::is_for_the_authorized;
use super::stamp::{Moment, Stamp, Stamps};
use super::status::CACHE_STATUS;
use crate::cache::Hit;
use crate::entry::Entry;

/// Fields that are about one connection and not about the answer (RFC 9110, section 7.6.1; RFC 9111,
/// section 3.1), and those that each cache writes for itself.
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

/// Status and fields of an answer, ready to be answered with.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) trailers: Option<HeaderMap>,
    /// How old the answer was when it came, if that does not count against its TTL.
    pub(crate) age: Duration,
    /// May go to one who says who it is, though it was made for no one.
    pub(crate) is_for_the_authorized: bool,
    pub(crate) stamps: Stamps,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    status: u16,
    #[serde(borrow)]
    headers: WireFields<'a>,
    trailers: Option<WireFields<'a>>,
    age: u64,
}

type WireFields<'a> = Vec<(&'a str, Value<'a>)>;

/// A field's value where it is: read and written in one go, which a slice is not.
#[derive(Deserialize)]
struct Value<'a>(&'a [u8]);

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

/// Why a stored head can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the stored head of an answer is malformed")]
pub(crate) struct MalformedHead;

/// The most that a head may take.
const LIMIT: usize = 4 << 20;

impl Head {
    /// The head of an answer, as far as it may be kept.
    pub(crate) fn kept(status: StatusCode, headers: &HeaderMap, withheld: &[HeaderName]) -> Self {
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
        let age = Duration::ZERO;
        Self::new(status, kept, None, age)
    }

    /// Its form in an entry.
    pub(crate) fn encode(&self) -> Bytes {
        let wire = Wire {
            status: self.status.as_u16(),
            headers: fields(&self.headers),
            trailers: self.trailers.as_ref().map(fields),
            age: self.age.as_secs(),
        };
        encode(&wire)
    }

    /// The head of a stored answer.
    pub(crate) fn of(entry: &Entry) -> Result<Arc<Self>, MalformedHead> {
        entry.decoded(Self::decode)
    }

    fn decode(entry: &Entry) -> Result<Self, MalformedHead> {
        if entry.is_signpost {
            return Err(MalformedHead);
        }
        let wire: Wire = decode(entry.head())?;
        let status = StatusCode::from_u16(wire.status).map_err(|_invalid| MalformedHead)?;
        let map = |fields| map(fields, entry.head());
        let headers = map(wire.headers)?;
        let trailers = wire.trailers.map(map).transpose()?;
        let age = Duration::from_secs(wire.age);
        Ok(Self::new(status, headers, trailers, age))
    }

    fn new(
        status: StatusCode,
        headers: HeaderMap,
        trailers: Option<HeaderMap>,
        age: Duration,
    ) -> Self {
        let is_for_the_authorized = is_for_the_authorized(&headers);
        let stamps = Stamps::default();
        Self { status, headers, trailers, age, is_for_the_authorized, stamps }
    }

    /// The answer to a request: all of it, a part, or that the client has it.
    pub(crate) fn answer<B: http_body::Body>(
        &self,
        body: &Bytes,
        asked: &Asked,
    ) -> Response<Body<B>> {
        let is_ok = self.status == StatusCode::OK;
        if is_ok && is_known(&asked.conditions, &self.headers) {
            return self.not_modified();
        }
        if asked.method == Method::HEAD {
            let mut response = self.with(Body::stored(Bytes::new(), None));
            // RFC 9110, section 8.6.
            if self.status != StatusCode::NO_CONTENT {
                response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
            }
            return response;
        }
        let part = match is_ok && range_applies(&asked.conditions, &self.headers) {
            true => part(&asked.conditions, body.len()),
            false => Part::Whole,
        };
        match part {
            Part::Whole => self.with(Body::stored(body.clone(), self.trailers.clone())),
            Part::Bytes(from, to) => {
                let range = format!("bytes {from}-{}/{}", to - 1, body.len());
                self.part(StatusCode::PARTIAL_CONTENT, &range, body.slice(from..to))
            }
            Part::None => self.unsatisfiable(body.len()),
        }
    }

    /// With room for what is still to be said of it: by the cache, and of its length by a router.
    fn with<B: http_body::Body>(&self, body: Body<B>) -> Response<Body<B>> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        let mut headers = with_room(self.headers.len() + 3);
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        *response.headers_mut() = headers;
        response
    }

    /// RFC 9110, section 15.4.5.
    fn not_modified<B: http_body::Body>(&self) -> Response<Body<B>> {
        let mut response = self.with(Body::stored(Bytes::new(), None));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        let described: Vec<_> =
            self.headers.keys().filter(|name| describes_a_body(name)).cloned().collect();
        for name in described {
            response.headers_mut().remove(name);
        }
        response
    }

    /// RFC 9110, section 15.5.17. It says of itself what an error does: a cache nearer to the client
    /// must not keep it for as long as the answer.
    fn unsatisfiable<B: http_body::Body>(&self, length: usize) -> Response<Body<B>> {
        let mut response = Response::new(Body::stored(Bytes::new(), None));
        *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        let headers = response.headers_mut();
        for name in [DATE, VARY] {
            self.headers.get_all(&name).iter().for_each(|value| {
                headers.append(&name, value.clone());
            });
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(range) = HeaderValue::from_str(&format!("bytes */{length}")) {
            headers.insert(CONTENT_RANGE, range);
        }
        response
    }

    /// RFC 9110, section 15.3.7.
    fn part<B: http_body::Body>(
        &self,
        status: StatusCode,
        range: &str,
        bytes: Bytes,
    ) -> Response<Body<B>> {
        let length = bytes.len();
        let mut response = self.with(Body::stored(bytes, None));
        *response.status_mut() = status;
        // Of the whole body, and of another one than is sent (RFC 9530, section 2).
        for name in ["content-digest", "content-md5"] {
            response.headers_mut().remove(name);
        }
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        if let Ok(range) = HeaderValue::from_str(range) {
            response.headers_mut().insert(CONTENT_RANGE, range);
        }
        response
    }
}

/// The answer that an entry holds, to a request that asked so.
pub(crate) fn respond<B: http_body::Body>(
    hit: &Hit,
    asked: &Asked,
) -> Result<Response<Body<B>>, MalformedHead> {
    let entry = &hit.found.entry;
    let head = Head::of(entry)?;
    let mut response = head.answer(entry.body(), asked);
    let is_answer = response.status() != StatusCode::RANGE_NOT_SATISFIABLE;
    let Stamp { age, status } = head.stamps.at(moment(hit, &head));
    if is_answer {
        response.headers_mut().insert(AGE, age);
    }
    if let Some(status) = status {
        response.headers_mut().append(CACHE_STATUS, status);
    }
    Ok(response)
}

fn moment(hit: &Hit, head: &Head) -> Moment {
    let (age, ttl) = (hit.found.entry.age(), hit.found.entry.ttl());
    Moment {
        age: head.age.saturating_add(age).as_secs(),
        left: seconds(ttl).saturating_sub(seconds(age)),
        outcome: hit.outcome,
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// What a signpost says: by which fields the answers under its key vary.
pub(crate) fn encode_signpost(names: &[HeaderName]) -> Bytes {
    encode(&names.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>())
}

/// The names on a signpost.
pub(crate) fn signpost(entry: &Entry) -> Result<Arc<Vec<HeaderName>>, MalformedHead> {
    entry.decoded(|entry| {
        let names: Vec<String> = decode(entry.head())?;
        let names = names.into_iter().map(HeaderName::try_from);
        names.collect::<Result<_, _>>().map_err(|_invalid| MalformedHead)
    })
}

/// Whether an entry is an answer.
#[cfg(fuzzing)]
pub(crate) fn is_readable(entry: &Entry) -> bool {
    Head::decode(entry).is_ok() || signpost(entry).is_ok()
}

fn encode<T: Serialize>(wire: &T) -> Bytes {
    // Integers, strings and byte strings always encode.
    bincode::serde::encode_to_vec(wire, bincode::config::standard()).unwrap_or_default().into()
}

fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, MalformedHead> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let decoded = bincode::serde::borrow_decode_from_slice(bytes, config);
    decoded.map(|(wire, _)| wire).map_err(|_malformed| MalformedHead)
}

/// An empty map with room for so many fields, or for none where a map could not have as many names.
fn with_room(fields: usize) -> HeaderMap {
    HeaderMap::try_with_capacity(fields).unwrap_or_default()
}

fn fields(map: &HeaderMap) -> WireFields<'_> {
    map.iter().map(|(name, value)| (name.as_str(), Value(value.as_bytes()))).collect()
}

/// The values are parts of `whole`, and not copied.
fn map(fields: WireFields<'_>, whole: &Bytes) -> Result<HeaderMap, MalformedHead> {
    // As small as it can be, since it is kept.
    let mut map = HeaderMap::try_with_capacity(fields.len()).map_err(|_full| MalformedHead)?;
    for (name, Value(value)) in fields {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_invalid| MalformedHead)?;
        let value = HeaderValue::from_maybe_shared(whole.slice_ref(value));
        let value = value.map_err(|_invalid| MalformedHead)?;
        // A map has room for so many, and panics otherwise.
        map.try_append(name, value).map_err(|_full| MalformedHead)?;
    }
    Ok(map)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{Epoch, Key, Life, Position};

    fn entry(head: Bytes) -> Entry {
        let life = Life::starting_now(Duration::MAX, Duration::MAX, Duration::ZERO);
        let at = (Epoch::new(1), Position::ZERO);
        Entry::new(&Key::new("t").finish(), at, [].into(), life, (head, Bytes::new()))
    }

    #[test]
    fn an_answer_without_content_has_no_length() {
        let request = http::Request::head("/").body(axum::body::Body::empty()).unwrap();
        let asked = Asked::of(&request, &crate::Policy::standard()).unwrap();
        let length = |status: StatusCode| {
            let head = Head::kept(status, &HeaderMap::new(), &[]);
            let answer = head.answer::<axum::body::Body>(&Bytes::new(), &asked);
            answer.headers().get(CONTENT_LENGTH).cloned()
        };
        assert_eq!(length(StatusCode::OK), Some(HeaderValue::from_static("0")));
        assert_eq!(length(StatusCode::NO_CONTENT), None);
    }

    #[test]
    fn a_field_may_have_more_values_than_a_map_has_room_for_names() {
        let mut headers = HeaderMap::new();
        for _ in 0..40_000 {
            headers.append("x-many", HeaderValue::from_static("1"));
        }
        let request = http::Request::get("/").body(axum::body::Body::empty()).unwrap();
        let asked = Asked::of(&request, &crate::Policy::standard()).unwrap();
        let head = Head::kept(StatusCode::OK, &headers, &[]);
        let answer = head.answer::<axum::body::Body>(&Bytes::new(), &asked);
        assert_eq!(answer.headers().get_all("x-many").iter().count(), 40_000);
    }

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let mut headers = HeaderMap::new();
        headers.insert("etag", HeaderValue::from_static("\"1\""));
        headers.append("x-odd", HeaderValue::from_bytes(b"\xfe\xff").unwrap());
        headers.append("x-odd", HeaderValue::from_static(""));
        let trailers = Some(headers.clone());
        let written = Head::new(StatusCode::OK, headers, trailers, Duration::from_secs(300));
        // As owned values have it, which entries in Redis are.
        let owned = |map: &HeaderMap| -> Vec<(String, Vec<u8>)> {
            let fields = map.iter();
            fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect()
        };
        let (head, tail) = (owned(&written.headers), written.trailers.as_ref().map(owned));
        assert_eq!(written.encode(), encode(&(200_u16, head, tail, 300_u64)));
        let read = Head::of(&entry(written.encode())).unwrap();
        assert_eq!((&read.headers, &read.trailers), (&written.headers, &written.trailers));
        assert_eq!((read.status, read.age), (written.status, written.age));
    }

    #[test]
    fn a_head_with_more_fields_than_there_can_be_is_malformed() {
        let names: Vec<String> = (0..40_000).map(|name| format!("x{name}")).collect();
        let wire = |count| Wire {
            status: 200,
            headers: names[..count].iter().map(|name| (name.as_str(), Value(b""))).collect(),
            trailers: None,
            age: 0,
        };
        assert!(Head::of(&entry(encode(&wire(1000)))).is_ok());
        assert!(Head::of(&entry(encode(&wire(40_000)))).is_err());
        let trailers = Wire { trailers: Some(wire(40_000).headers), ..wire(1) };
        assert!(Head::of(&entry(encode(&trailers))).is_err());
    }
}
