//! Conditional requests (RFC 9110, section 13; RFC 9111, section 4.3.2).

use std::time::SystemTime;

use http::header::{DATE, ETAG, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, LAST_MODIFIED};
use http::{HeaderMap, HeaderName};

use super::freshness::{date, read_date};
use super::list::split;

/// Whether, by its conditions, the client has this response already. If both conditions are there, only `If-None-Match`
/// counts (RFC 9110, section 13.2.2).
pub(crate) fn is_known(request: &HeaderMap, stored: &HeaderMap) -> bool {
    if request.contains_key(IF_NONE_MATCH) {
        return names_etag(request, stored);
    }
    // RFC 9110, section 13.1.3; without `Last-Modified`, RFC 9111 compares with `Date`.
    let Some(since) = date(request, IF_MODIFIED_SINCE) else { return false };
    let changed = date(stored, LAST_MODIFIED).or_else(|| date(stored, DATE));
    changed.is_some_and(|changed| changed <= since)
}

/// As [`is_known`], for a response that has just been computed. It was not selected from stored ones, so `Date` does not
/// stand for its modification date (RFC 9110, section 13.1.3).
pub(crate) fn is_new_known(request: &HeaderMap, new: &HeaderMap) -> bool {
    let has_validator = request.contains_key(IF_NONE_MATCH) || new.contains_key(LAST_MODIFIED);
    has_validator && is_known(request, new)
}

/// RFC 9110, section 13.1.2: by the weak comparison.
fn names_etag(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let lines = request.get_all(IF_NONE_MATCH).into_iter();
    let mut tags = lines.flat_map(|line| split(line.as_bytes()));
    let Some(etag) = stored.get(ETAG) else { return tags.any(|tag| tag == b"*") };
    tags.any(|tag| tag == b"*" || opaque(tag) == opaque(etag.as_bytes()))
}

/// Whether `If-Range` holds (RFC 9110, section 13.1.5): by strong comparison of the entity tag, or an identical date.
pub(crate) fn range_applies(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let mut lines = request.get_all(IF_RANGE).into_iter();
    let Some(condition) = lines.next() else { return true };
    if lines.next().is_some() {
        return false;
    }
    if condition.as_bytes().ends_with(b"\"") {
        let is_strong = !condition.as_bytes().starts_with(b"W/");
        return is_strong && stored.get(ETAG) == Some(condition);
    }
    let named = read_date(condition);
    named.is_some() && named == strong_date(stored)
}

/// `Last-Modified`, if it is a strong validator (RFC 9110, section 8.8.2.2).
fn strong_date(stored: &HeaderMap) -> Option<SystemTime> {
    const APART: std::time::Duration = std::time::Duration::from_secs(1);
    let (changed, made) = (date(stored, LAST_MODIFIED)?, date(stored, DATE)?);
    (made.duration_since(changed).ok()? >= APART).then_some(changed)
}

/// An entity tag without its `W/` (RFC 9110, section 8.8.3).
fn opaque(tag: &[u8]) -> &[u8] {
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

/// Whether a field describes the body, so that a 304 does not have it (RFC 9110, section 15.4.5).
pub(crate) fn describes_a_body(name: &HeaderName) -> bool {
    use http::header::{
        CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    };
    [CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE].contains(name)
        // RFC 9530, section 2: of the content of the message.
        || ["content-digest", "content-md5"].contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|(name, value)| {
                let value = http::HeaderValue::from_bytes(value.as_bytes());
                (HeaderName::from_static(name), value.unwrap())
            })
            .collect()
    }

    const NOON: &str = "Wed, 25 Nov 2026 12:00:00 GMT";
    const EARLIER: &str = "Wed, 25 Nov 2026 11:00:00 GMT";

    #[test]
    fn if_none_match_compares_weakly_with_every_listed_etag() {
        let is_known = |request: &str, etag: &str| {
            is_known(&headers(&[("if-none-match", request)]), &headers(&[("etag", etag)]))
        };
        assert!(is_known("\"a\"", "\"a\""));
        assert!(is_known("W/\"a\"", "\"a\""));
        assert!(is_known("\"a\"", "W/\"a\""));
        assert!(is_known("\"x\", \"a\", \"y\"", "\"a\""));
        assert!(is_known("\"x,\", \"a,b\"", "\"a,b\""));
        assert!(is_known("*", "\"a\""));
        assert!(is_known("\"ü\"", "\"ü\""));
        assert!(!is_known("\"b\"", "\"a\""));
        assert!(!is_known("a", "\"a\""));
        assert!(!is_known("w/\"a\"", "\"a\""));
        assert!(!is_known("\"*\"", "\"a\""));
    }

    #[test]
    fn if_none_match_takes_precedence_over_if_modified_since() {
        let stored = headers(&[("etag", "\"a\""), ("last-modified", EARLIER)]);
        let by = |tag| headers(&[("if-none-match", tag), ("if-modified-since", NOON)]);
        assert!(!is_known(&by("\"b\""), &stored));
        assert!(is_known(&by("\"a\""), &stored));
    }

    #[test]
    fn if_modified_since_matches_a_response_unchanged_since_then() {
        let since = |request, stored: &[(&'static str, &str)]| {
            is_known(&headers(&[("if-modified-since", request)]), &headers(stored))
        };
        assert!(since(NOON, &[("last-modified", EARLIER)]));
        assert!(since(NOON, &[("last-modified", NOON)]));
        assert!(since("Wednesday, 25-Nov-26 12:00:00 GMT", &[("last-modified", NOON)]));
        assert!(!since(EARLIER, &[("last-modified", NOON)]));
        assert!(since(NOON, &[("date", EARLIER)]));
        assert!(!since("yesterday", &[("last-modified", EARLIER)]));
        assert!(!since(NOON, &[]));
        let mut twice = headers(&[("if-modified-since", NOON)]);
        twice.append(IF_MODIFIED_SINCE, http::HeaderValue::from_static(EARLIER));
        assert!(!is_known(&twice, &headers(&[("last-modified", EARLIER)])));
    }

    #[test]
    fn if_range_applies_only_with_a_strong_validator_of_the_same_response() {
        let applies = |request, stored: &[(&'static str, &str)]| {
            range_applies(&headers(&[("if-range", request)]), &headers(stored))
        };
        assert!(applies("\"a\"", &[("etag", "\"a\"")]));
        assert!(!applies("W/\"a\"", &[("etag", "W/\"a\"")]));
        assert!(!applies("\"b\"", &[("etag", "\"a\"")]));
        assert!(applies(EARLIER, &[("last-modified", EARLIER), ("date", NOON)]));
        assert!(!applies(EARLIER, &[("last-modified", EARLIER), ("date", EARLIER)]));
        assert!(!applies(NOON, &[("last-modified", EARLIER), ("date", NOON)]));
        assert!(!applies("x", &[]));
        let mut twice = headers(&[("if-range", "\"a\"")]);
        twice.append(IF_RANGE, http::HeaderValue::from_static("\"b\""));
        assert!(!range_applies(&twice, &headers(&[("etag", "\"a\"")])));
        assert!(range_applies(&HeaderMap::new(), &HeaderMap::new()));
    }
}
