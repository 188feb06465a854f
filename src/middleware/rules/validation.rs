//! Revalidation of a stored response with the handler (RFC 9111, section 4.3).

use http::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, LAST_MODIFIED,
};
use http::{HeaderMap, HeaderValue, Request};

use super::fields::{RequestField, RequestFields};

/// Removes the client's conditions, so that the handler sends a whole response, which can be stored for all clients. If
/// there is a stored response, adds conditions with its validators (section 4.3.1).
pub(crate) fn unconditional<B>(mut request: Request<B>, stored: Option<&HeaderMap>) -> Request<B> {
    if stored.is_none()
        && !RequestFields::from_headers(request.headers()).has_any(&RequestField::CONDITIONS)
    {
        return request;
    }
    let headers = request.headers_mut();
    for field in RequestField::CONDITIONS {
        headers.remove(field.name());
    }
    for (validator, condition) in [(ETAG, IF_NONE_MATCH), (LAST_MODIFIED, IF_MODIFIED_SINCE)] {
        if let Some(value) = stored.and_then(|stored| stored.get(validator)) {
            headers.insert(condition, value.clone());
        }
    }
    request
}

/// The head of a confirmed stored response, with the updated fields (section 3.2).
pub(crate) fn updated(stored: &HeaderMap, fresh: &HeaderMap) -> HeaderMap {
    let mut updated = stored.clone();
    for name in fresh.keys().filter(|name| may_update(name)) {
        updated.remove(name);
        for value in fresh.get_all(name) {
            updated.append(name.clone(), value.clone());
        }
    }
    updated
}

/// Whether a 304 is about a response other than the stored one, and so does not confirm it (section 4.3.4). Compares the
/// entity tags (weakly) if the 304 has one, or else `Last-Modified`.
pub(crate) fn names_another(stored: &HeaderMap, fresh: &HeaderMap) -> bool {
    match fresh.get(ETAG) {
        Some(tag) => stored.get(ETAG).map(opaque) != Some(opaque(tag)),
        None => match (stored.get(LAST_MODIFIED), fresh.get(LAST_MODIFIED)) {
            (Some(stored), Some(fresh)) => stored != fresh,
            _ => false,
        },
    }
}

/// An entity tag without its `W/`.
fn opaque(tag: &HeaderValue) -> &[u8] {
    let tag = tag.as_bytes();
    tag.strip_prefix(b"W/").unwrap_or(tag)
}

fn is_digest(name: &HeaderName) -> bool {
    ["content-digest", "repr-digest", "digest", "content-md5"].contains(&name.as_str())
}

/// Whether a confirmation may update this field: not one that describes or identifies the stored body. A digest in a
/// confirmation may be that of its own empty content (RFC 9530, section 2) or, after a weak comparison, of another body.
fn may_update(name: &HeaderName) -> bool {
    let about_the_body = [CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG];
    !about_the_body.contains(name) && !is_digest(name)
}

/// What a response to HEAD says about the stored response to GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadComparison {
    /// They are the same response.
    Same,
    /// They are different responses.
    Other,
    /// It has no validator, so it says nothing. Otherwise any client could keep a response fresh with HEAD requests.
    Nothing,
}

/// Section 4.3.5.
pub(crate) fn compare_head(stored: &HeaderMap, body: usize, head: &HeaderMap) -> HeadComparison {
    let received = || [ETAG, LAST_MODIFIED].into_iter().filter(|name| head.contains_key(name));
    let length = head.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if length.is_some_and(|length| length != body.to_string())
        || received().any(|name| stored.get(&name) != head.get(&name))
    {
        HeadComparison::Other
    } else if received().next().is_some() {
        HeadComparison::Same
    } else {
        HeadComparison::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::from_static(name), value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn the_clients_conditions_are_replaced_by_the_stored_validators() {
        let request = Request::get("/").header("if-none-match", "\"theirs\"").header("range", "x");
        let request = unconditional(request.body(()).unwrap(), None);
        assert!(request.headers().is_empty());
        let stored = headers(&[("etag", "W/\"ours\""), ("last-modified", "then")]);
        let request = unconditional(request, Some(&stored));
        assert_eq!(request.headers()["if-none-match"], "W/\"ours\"");
        assert_eq!(request.headers()["if-modified-since"], "then");
    }

    #[test]
    fn a_304_updates_all_stored_fields_but_those_that_describe_the_body() {
        let stored =
            headers(&[("a", "1"), ("a", "2"), ("b", "1"), ("etag", "x"), ("content-length", "5")]);
        let fresh = headers(&[("a", "3"), ("c", "4"), ("etag", "y"), ("content-length", "0")]);
        let expected =
            headers(&[("b", "1"), ("etag", "x"), ("content-length", "5"), ("a", "3"), ("c", "4")]);
        assert_eq!(updated(&stored, &fresh), expected);
    }

    #[test]
    fn a_confirmation_does_not_update_the_digests_of_the_stored_body() {
        for name in ["content-digest", "content-md5", "digest", "repr-digest"] {
            let stored = headers(&[(name, "of the body")]);
            assert_eq!(updated(&stored, &headers(&[(name, "of nothing")])), stored, "{name}");
        }
    }

    #[test]
    fn a_head_response_that_describes_another_body_is_detected() {
        let stored = headers(&[("etag", "\"a\"")]);
        let compared = |lines: &[(&'static str, &str)]| compare_head(&stored, 3, &headers(lines));
        assert_eq!(compared(&[("etag", "\"a\""), ("content-length", "3")]), HeadComparison::Same);
        assert_eq!(compared(&[("etag", "\"b\"")]), HeadComparison::Other);
        assert_eq!(compared(&[("content-length", "4")]), HeadComparison::Other);
        assert_eq!(compared(&[("last-modified", "now")]), HeadComparison::Other);
        assert_eq!(compared(&[("content-length", "3")]), HeadComparison::Nothing);
        assert_eq!(compared(&[]), HeadComparison::Nothing);
    }
}
