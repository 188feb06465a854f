//! Between an HTTP answer and an entry.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, CONTENT_RANGE, DATE, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::rules::list::members;
use super::rules::precondition::{describes_a_body, is_known, range_applies};
use super::rules::range::{Part, part};
use super::rules::request::Asked;
use super::rules::storable::is_for_the_authorized;
use super::status;
use crate::cache::Hit;
use crate::clock;
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
    /// May go to one who says who it is, though it was made for no one.
    pub(crate) is_for_the_authorized: bool,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
    trailers: Option<Vec<(String, Vec<u8>)>>,
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
        let named = |name: &HeaderName| {
            let mut named = members(headers, "connection");
            named.any(|member| member.eq_ignore_ascii_case(name.as_str().as_bytes()))
        };
        let mut kept = HeaderMap::with_capacity(headers.len() + 1);
        for (name, value) in headers {
            if !NOT_STORED.contains(&name.as_str()) && !withheld.contains(name) && !named(name) {
                kept.append(name.clone(), value.clone());
            }
        }
        // RFC 9110, section 6.6.1: who keeps an answer without a date gives it one.
        if !kept.contains_key(DATE)
            && let Ok(now) = httpdate::fmt_http_date(clock::wall()).parse()
        {
            kept.insert(DATE, now);
        }
        let is_for_the_authorized = is_for_the_authorized(headers);
        Self { status, headers: kept, trailers: None, is_for_the_authorized }
    }

    /// Its form in an entry.
    pub(crate) fn encode(&self) -> Bytes {
        let wire = Wire {
            status: self.status.as_u16(),
            headers: fields(&self.headers),
            trailers: self.trailers.as_ref().map(fields),
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
        let headers = map(wire.headers)?;
        let trailers = wire.trailers.map(map).transpose()?;
        let is_for_the_authorized = is_for_the_authorized(&headers);
        Ok(Self { status, headers, trailers, is_for_the_authorized })
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
            response.headers_mut().insert(CONTENT_LENGTH, body.len().into());
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
            Part::None => {
                let range = format!("bytes */{}", body.len());
                self.part(StatusCode::RANGE_NOT_SATISFIABLE, &range, Bytes::new())
            }
        }
    }

    fn with<B: http_body::Body>(&self, body: Body<B>) -> Response<Body<B>> {
        let mut response = Response::new(body);
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers.clone();
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

    /// RFC 9110, sections 15.3.7 and 15.5.17.
    fn part<B: http_body::Body>(
        &self,
        status: StatusCode,
        range: &str,
        bytes: Bytes,
    ) -> Response<Body<B>> {
        let length = bytes.len();
        let mut response = self.with(Body::stored(bytes, None));
        *response.status_mut() = status;
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
    let mut response = Head::of(entry)?.answer(entry.body(), asked);
    response.headers_mut().insert(AGE, entry.age().as_secs().into());
    status::append(response.headers_mut(), &status::of_hit(hit));
    Ok(response)
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

fn decode<T: for<'de> Deserialize<'de>>(bytes: &[u8]) -> Result<T, MalformedHead> {
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let decoded = bincode::serde::decode_from_slice(bytes, config);
    decoded.map(|(wire, _)| wire).map_err(|_malformed| MalformedHead)
}

fn fields(map: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    map.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

fn map(fields: Vec<(String, Vec<u8>)>) -> Result<HeaderMap, MalformedHead> {
    let fields = fields.into_iter().map(|(name, value)| {
        let name = HeaderName::try_from(name).map_err(|_invalid| MalformedHead)?;
        let value = HeaderValue::try_from(value).map_err(|_invalid| MalformedHead)?;
        Ok((name, value))
    });
    fields.collect()
}
