//! Responds with a stored response: all of it, a part, or a 304. Passes on a response that bypassed the cache.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, DATE, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};

use super::body::Body;
use super::rendered;
use super::rules::precondition::{describes_a_body, is_known, range_applies};
use super::rules::range::{RangePart, part};
use super::rules::request::RequestDirectives;
use super::status::{self, CACHE_STATUS};
use super::stored::{MalformedHead, StoredHead, with_room};
use crate::cache::{Hit, Record};
use crate::outcome::BypassReason;

/// The response of an entry to a request with these directives.
pub(crate) fn respond<B: http_body::Body>(
    hit: &Hit,
    directives: &RequestDirectives,
) -> Result<Response<Body<B>>, MalformedHead> {
    Ok(rendered::head(hit)?.into_response_for(hit.found.entry.body(), directives))
}

/// A response that bypassed the cache, with the reason. Its body is polled within the scope, since it may still read.
pub(crate) fn passed<B: http_body::Body>(
    mut response: Response<B>,
    reason: BypassReason,
    record: Record,
) -> Response<Body<B>> {
    status::append_bypass(response.headers_mut(), reason, record.caveat());
    response.map(|body| Body::within(record, body))
}

impl StoredHead {
    /// The response to a request with these directives and conditions.
    pub(crate) fn into_response_for<B: http_body::Body>(
        self,
        body: &Bytes,
        directives: &RequestDirectives,
    ) -> Response<Body<B>> {
        let is_conditional = self.status == StatusCode::OK && !directives.conditions.is_empty();
        if is_conditional && is_known(&directives.conditions, &self.headers) {
            return self.not_modified();
        }
        if directives.method == Method::HEAD {
            return self.head(body.len());
        }
        let part = match is_conditional && range_applies(&directives.conditions, &self.headers) {
            true => part(&directives.conditions, body.len()),
            false => RangePart::Whole,
        };
        match part {
            RangePart::Whole => {
                let Self { status, headers, trailers, .. } = self;
                build_response(status, headers, Body::stored(body.clone(), trailers))
            }
            RangePart::Bytes(from, to) => {
                let range = format!("bytes {from}-{}/{}", to - 1, body.len());
                self.part(&range, body.slice(from..to))
            }
            RangePart::None => self.unsatisfiable(body.len()),
        }
    }

    fn head<B: http_body::Body>(mut self, length: usize) -> Response<Body<B>> {
        // RFC 9110, section 8.6.
        if self.status != StatusCode::NO_CONTENT {
            self.say(CONTENT_LENGTH, length.into());
        }
        build_response(self.status, self.headers, Body::stored(Bytes::new(), None))
    }

    /// RFC 9110, section 15.4.5.
    fn not_modified<B: http_body::Body>(mut self) -> Response<Body<B>> {
        let described: Vec<_> =
            self.headers.keys().filter(|name| describes_a_body(name)).cloned().collect();
        for name in described {
            self.headers.remove(name);
        }
        build_response(StatusCode::NOT_MODIFIED, self.headers, Body::stored(Bytes::new(), None))
    }

    /// RFC 9110, section 15.5.17. It is `no-store`, since a cache nearer to the client must not store this error for as
    /// long as the response.
    fn unsatisfiable<B: http_body::Body>(self, length: usize) -> Response<Body<B>> {
        let mut headers = with_room(5);
        for (name, value) in &self.headers {
            if [DATE, VARY, CACHE_STATUS].contains(name) || decides_access(name) {
                headers.append(name, value.clone());
            }
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Ok(range) = HeaderValue::from_str(&format!("bytes */{length}")) {
            headers.insert(CONTENT_RANGE, range);
        }
        build_response(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::stored(Bytes::new(), None))
    }

    /// RFC 9110, section 15.3.7.
    fn part<B: http_body::Body>(mut self, range: &str, bytes: Bytes) -> Response<Body<B>> {
        // These are digests of the whole body, not of the part that is sent (RFC 9530, section 2).
        for name in ["content-digest", "content-md5"] {
            self.headers.remove(name);
        }
        self.say(CONTENT_LENGTH, bytes.len().into());
        if let Ok(range) = HeaderValue::from_str(range) {
            self.say(CONTENT_RANGE, range);
        }
        build_response(StatusCode::PARTIAL_CONTENT, self.headers, Body::stored(bytes, None))
    }

    /// Adds a field, unless the map is full.
    fn say(&mut self, name: HeaderName, value: HeaderValue) {
        drop(self.headers.try_insert(name, value));
    }
}

/// Whether browsers decide by this field who may use a response.
fn decides_access(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with("access-control-")
        || name.starts_with("cross-origin-")
        || ["timing-allow-origin", "strict-transport-security"].contains(&name)
}

fn build_response<B: http_body::Body>(
    status: StatusCode,
    headers: HeaderMap,
    body: Body<B>,
) -> Response<Body<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::rules::identity::IdentityHeaders;

    fn headers_of(request: http::request::Builder, head: StoredHead) -> HeaderMap {
        let request = request.body(axum::body::Body::empty()).unwrap();
        let directives = RequestDirectives::new(
            &request,
            &crate::Policy::standard(),
            &IdentityHeaders::default(),
            || false,
            None,
        )
        .unwrap();
        let response = head.into_response_for::<axum::body::Body>(&Bytes::new(), &directives);
        response.headers().clone()
    }

    #[test]
    fn a_204_response_has_no_content_length() {
        let length = |status| {
            let head = StoredHead::storable(status, &HeaderMap::new(), &[]);
            headers_of(http::Request::head("/"), head).get(CONTENT_LENGTH).cloned()
        };
        assert_eq!(length(StatusCode::OK), Some(HeaderValue::from_static("0")));
        assert_eq!(length(StatusCode::NO_CONTENT), None);
    }

    #[test]
    fn an_unsatisfiable_range_keeps_the_cache_status_of_other_caches() {
        let mut headers = HeaderMap::new();
        headers.append("cache-status", HeaderValue::from_static("other; hit"));
        headers.append("cache-status", HeaderValue::from_static("tidegate; hit"));
        headers.insert("x-other", HeaderValue::from_static("1"));
        let head = StoredHead::storable(StatusCode::OK, &headers, &[]);
        let headers = headers_of(http::Request::get("/").header("range", "bytes=7-"), head);
        let headers: Vec<_> = headers.get_all(CACHE_STATUS).iter().collect();
        assert_eq!(headers, ["other; hit", "tidegate; hit"]);
    }

    /// Browsers show a response to a script of another origin only with these fields (Fetch, sections 4.9 and 3.7).
    #[test]
    fn an_unsatisfiable_range_keeps_the_fields_that_decide_who_may_read_a_response() {
        let fields = [
            ("access-control-allow-origin", "https://a.example"),
            ("access-control-allow-credentials", "true"),
            ("access-control-expose-headers", "content-range"),
            ("cross-origin-resource-policy", "cross-origin"),
            ("timing-allow-origin", "*"),
            ("strict-transport-security", "max-age=1"),
        ];
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("etag", HeaderValue::from_static("\"v1\""));
        let head = StoredHead::storable(StatusCode::OK, &headers, &[]);
        let headers = headers_of(http::Request::get("/").header("range", "bytes=7-"), head);
        for (name, value) in fields {
            assert_eq!(
                headers.get(name).map(HeaderValue::as_bytes),
                Some(value.as_bytes()),
                "{name}"
            );
        }
        assert!(!headers.contains_key("etag"));
    }

    #[test]
    fn a_304_has_no_digest_of_content() {
        let mut headers = HeaderMap::new();
        for name in ["etag", "content-digest", "content-md5", "repr-digest"] {
            headers.insert(name, HeaderValue::from_static("\"v1\""));
        }
        let head = StoredHead::storable(StatusCode::OK, &headers, &[]);
        let headers = headers_of(http::Request::get("/").header("if-none-match", "\"v1\""), head);
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["date", "etag", "repr-digest"]);
    }

    #[test]
    fn a_field_may_have_more_values_than_a_header_map_has_names() {
        let mut headers = HeaderMap::new();
        for _ in 0..40_000 {
            headers.append("x-many", HeaderValue::from_static("1"));
        }
        let head = StoredHead::storable(StatusCode::OK, &headers, &[]);
        let headers = headers_of(http::Request::get("/"), head);
        assert_eq!(headers.get_all("x-many").iter().count(), 40_000);
    }
}
