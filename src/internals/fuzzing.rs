//! Fuzz targets: the functions that hostile input reaches, and the properties that must hold for any input. `fuzz/` calls
//! them.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, VARY};
use http::{HeaderMap, HeaderValue, StatusCode, Uri};

use crate::cache::Policy;
use crate::entry::{Entry, codec};
use crate::middleware::fuzzing as middleware;
pub use crate::middleware::fuzzing::{Case, Judged, compare_rules, now};

fn policy() -> Policy {
    Policy::ttl(std::time::Duration::from_secs(60)).query(["page"]).vary(["accept"])
}

/// Bytes from Redis. The checksum is made correct, since a fuzzer would not guess it.
pub fn entry(data: &[u8]) {
    let mut bytes = data.to_vec();
    if bytes.len() >= 24 {
        let sum = codec::checksum(&bytes);
        bytes[8..24].copy_from_slice(&sum);
    }
    let Ok(entry) = codec::decode(&Bytes::from(bytes)) else { return };
    assert!(entry.body().len() + entry.head().len() <= data.len(), "more than there was");
    let again = codec::decode(&codec::encode(&entry));
    let parts = |entry: &Entry| (entry.as_of(), entry.epoch(), entry.tags().to_vec());
    assert!(again.is_ok_and(|again| parts(&again) == parts(&entry)));
    middleware::head(entry);
}

/// A request's path and query. The order of parameters distinguishes keys; under `any_query_order`, the order of different
/// names does not, if the query has no characters that make names ambiguous.
pub fn key(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(uri) = format!("/x?{text}").parse::<Uri>() else { return };
    let key = middleware::key(&uri, &HeaderMap::new(), &policy());
    let Some(query) = uri.query() else { return };
    let in_any_order = Policy::ttl(std::time::Duration::from_secs(60)).any_query_order();
    let in_order = Policy::ttl(std::time::Duration::from_secs(60));
    let of = |uri, policy| middleware::key(uri, &HeaderMap::new(), policy);
    assert_ne!(of(&uri, &in_order), key, "another policy keys by other parts");
    // `page[]` is a part of `page` to some parsers, so their order counts in any case.
    let mut pairs: Vec<&str> = query.split('&').collect();
    pairs.sort_by_key(|pair| pair.split('=').next()?.split(['[', '.']).next());
    if let Ok(sorted) = format!("/x?{}", pairs.join("&")).parse::<Uri>() {
        let is_plain = !query.contains([';', '%', '+']);
        assert!(!is_plain || of(&uri, &in_any_order) == of(&sorted, &in_any_order));
        assert_eq!(of(&uri, &in_order) == of(&sorted, &in_order), uri == sorted, "order counts");
    }
}

/// A response's `Cache-Control` and `Vary`: a response with a plain `no-store`, without a quoted value before it, is never
/// stored.
pub fn headers(data: &[u8]) {
    let (control, vary) = data.split_at(data.len() / 2);
    let mut headers = HeaderMap::new();
    for (name, value) in [(CACHE_CONTROL, control), (VARY, vary)] {
        let Ok(value) = HeaderValue::from_bytes(value) else { return };
        headers.append(name, value);
    }
    let by_author = middleware::may_store(StatusCode::OK, &headers, &policy());
    let by_headers = middleware::may_store(StatusCode::OK, &headers, &Policy::standard());
    let unquoted = control.windows(2).position(|pair| pair == b"=\"").unwrap_or(control.len());
    let mut said = control[..unquoted].split(|byte| *byte == b',');
    let plain = said.any(|part| part.trim_ascii() == b"no-store");
    let star = vary.split(|byte| *byte == b',').any(|part| part.trim_ascii() == b"*");
    let understood = control.windows(15).any(|part| part.eq_ignore_ascii_case(b"must-understand"));
    assert!(!(by_author && (plain || star)));
    assert!(!(by_headers && (plain && !understood || star)));
}

/// A session token: none that this service did not issue is trusted.
pub fn token(data: &[u8]) {
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    for name in ["tidegate-position", "cookie"] {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static(name), value.clone())]);
        assert!(!middleware::is_trusted(&headers));
    }
}

/// A message about the log from another node.
#[cfg(feature = "postgres")]
pub fn relay(data: &[u8]) {
    crate::postgres::receive(data);
}

/// Any text as SQL: it is analysed or rejected.
#[cfg(feature = "postgres")]
pub fn sql(data: &[u8]) {
    if let Ok(sql) = std::str::from_utf8(data) {
        crate::postgres::is_read(sql);
    }
}
