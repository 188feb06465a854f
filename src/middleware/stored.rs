//! Between an HTTP answer and an entry.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{AGE, CONTENT_LENGTH, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH};
use http::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};

use super::body::Body;
use super::status;
use crate::cache::Hit;
use crate::entry::Entry;

/// Headers that are about one connection and not about the answer (RFC 9110, section 7.6.1), and
/// those that each cache writes for itself.
const NOT_STORED: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "age",
];

/// Status and headers, ready to be answered with.
#[derive(Debug)]
struct Head {
    status: StatusCode,
    headers: HeaderMap,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    status: u16,
    headers: Vec<(String, Vec<u8>)>,
}

/// Why a stored head can't be used.
#[derive(Debug, thiserror::Error)]
#[error("the stored head of an answer is malformed")]
pub(crate) struct MalformedHead;

/// The head of an answer, as it is stored.
pub(crate) fn encode_head(status: StatusCode, headers: &HeaderMap) -> Bytes {
    let named = |name: &HeaderName| {
        headers.get_all("connection").iter().any(|line| {
            line.to_str().is_ok_and(|line| {
                line.split(',').any(|token| token.trim().eq_ignore_ascii_case(name.as_str()))
            })
        })
    };
    let kept = headers
        .iter()
        .filter(|(name, _)| !NOT_STORED.contains(&name.as_str()) && !named(name))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()));
    let wire = Wire { status: status.as_u16(), headers: kept.collect() };
    // Integers, strings and byte strings always encode.
    bincode::serde::encode_to_vec(&wire, bincode::config::standard()).unwrap_or_default().into()
}

fn decode_head(entry: &Entry) -> Result<Head, MalformedHead> {
    const LIMIT: usize = 4 << 20;
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (wire, _): (Wire, usize) = bincode::serde::decode_from_slice(entry.head(), config)
        .map_err(|_malformed| MalformedHead)?;
    let status = StatusCode::from_u16(wire.status).map_err(|_invalid| MalformedHead)?;
    let headers = wire.headers.into_iter().map(|(name, value)| {
        let name = HeaderName::try_from(name).map_err(|_invalid| MalformedHead)?;
        let value = HeaderValue::try_from(value).map_err(|_invalid| MalformedHead)?;
        Ok((name, value))
    });
    Ok(Head { status, headers: headers.collect::<Result<_, MalformedHead>>()? })
}

/// Whether an entry is an answer.
#[cfg(fuzzing)]
pub(crate) fn is_readable(entry: &Entry) -> bool {
    decode_head(entry).is_ok()
}

/// The answer that an entry holds, to a request of this method and with these headers.
pub(crate) fn respond<B: http_body::Body>(
    hit: &Hit,
    method: &Method,
    asked: &HeaderMap,
) -> Result<Response<Body<B>>, MalformedHead> {
    let entry = &hit.found.entry;
    let head: Arc<Head> = entry.decoded(decode_head)?;
    let unchanged = head.status == StatusCode::OK && is_known(asked, &head.headers);
    let body = match (unchanged, method) {
        (true, _) | (_, &Method::HEAD) => Body::stored(Bytes::new()),
        _ => Body::stored(entry.body().clone()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = if unchanged { StatusCode::NOT_MODIFIED } else { head.status };
    *response.headers_mut() = head.headers.clone();
    if unchanged {
        response.headers_mut().remove(CONTENT_LENGTH);
    } else if *method == Method::HEAD {
        response.headers_mut().insert(CONTENT_LENGTH, entry.body().len().into());
    }
    response.headers_mut().insert(AGE, entry.age().as_secs().into());
    status::append(response.headers_mut(), &status::of_hit(hit));
    Ok(response)
}

/// Whether the client has this answer already (RFC 9110, section 13.1.2; weak comparison).
fn is_known(asked: &HeaderMap, stored: &HeaderMap) -> bool {
    let Some(etag) = stored.get(ETAG).and_then(|etag| etag.to_str().ok()) else { return false };
    let weak = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let lines = asked.get_all(IF_NONE_MATCH).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|tag| tag.trim() == "*" || weak(tag) == weak(etag))
}
