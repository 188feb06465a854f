//! Which responses may be stored, and for how long (RFC 9111, section 3).
//!
//! With [`Policy::ttl`], the route's author decides that responses may be shared, and a response can only forbid it. With
//! [`Policy::standard`], the response's headers decide. A response that is not clearly allowed is not stored.

use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, ETAG, LAST_MODIFIED, SET_COOKIE, TRAILER};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::freshness::{age, is_explicit, is_heuristically_cacheable, lifetime};
use super::request::RequestDirectives;
use super::targeted::ResponseControl;
use super::vary;
use crate::cache::{Freshness, Policy, Uncacheable};

/// How long a response is stored past its TTL, to be revalidated.
const TO_REVALIDATE: Duration = Duration::from_secs(24 * 60 * 60);

/// The reason for a response to an identified client that does not say that it may be shared.
pub(crate) const PERSONAL: &str = "personal";

/// The reason for a response to a gRPC call that failed.
const GRPC_STATUS: &str = "grpc-status";

/// How a response may be stored.
#[derive(Debug)]
pub(crate) struct Cacheability {
    pub(crate) freshness: Freshness,
    /// Its age when it arrived, if that does not count against its TTL.
    pub(crate) age: Duration,
    /// Fields that may not be stored with it.
    pub(crate) withheld: Vec<HeaderName>,
    /// The names that it varies by, besides those in its key.
    pub(crate) varies_by: Vec<HeaderName>,
}

/// When a response arrived, and how long it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) now: SystemTime,
    pub(crate) delay: Duration,
}

/// Whether a response may be stored, and for how long.
pub(crate) fn cacheability(
    status: StatusCode,
    headers: &HeaderMap,
    request: &RequestDirectives,
    policy: &Policy,
    times: Times,
) -> Result<Cacheability, Uncacheable> {
    if status == StatusCode::PARTIAL_CONTENT {
        return Err(Uncacheable::new("status", "a partial response is not stored"));
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(Uncacheable::new(
            "set-cookie",
            "the response sets a cookie, so it is personal",
        ));
    }
    if is_endless(headers) {
        let why = "its media type is that of a stream, which may never end";
        return Err(Uncacheable::new("endless", why));
    }
    if is_grpc_failure(headers) {
        return Err(grpc_failure());
    }
    let control = ResponseControl::from_headers(headers);
    let varies_by = vary::names(headers, policy)?;
    if request.has_other_cookies && vary::by_cookies(headers) {
        let why = "the response varies by cookies, and the request has some that the policy does not name";
        return Err(Uncacheable::new("vary", why));
    }
    let (freshness, age) = match policy.is_standard {
        true => (by_headers(status, headers, request, policy, &control, times)?, Duration::ZERO),
        false => (by_author(status, &control, policy)?, age(headers, times.now, times.delay)),
    };
    let of_tags = policy.tag_fields.iter().filter_map(|name| name.parse().ok());
    let withheld = control.directives.withheld().cloned().chain(of_tags).collect();
    Ok(Cacheability { freshness, age, withheld, varies_by })
}

/// Whether a head or trailers say that a gRPC call failed. Its HTTP status is 200 all the same.
pub(crate) fn is_grpc_failure(fields: &HeaderMap) -> bool {
    fields.get_all("grpc-status").iter().any(|status| status != "0")
}

/// Why a response with such a head or trailers is not stored.
pub(crate) fn grpc_failure() -> Uncacheable {
    Uncacheable::new(GRPC_STATUS, "its grpc-status is not 0, so the call failed")
}

/// Whether a response is not stored only because its gRPC call failed. This may be the fault of the call, such as a
/// deadline, and says nothing about other responses. An HTTP status other than 200 says more.
pub(crate) fn is_failure_of_one_call(status: StatusCode, uncacheable: &Uncacheable) -> bool {
    status == StatusCode::OK && uncacheable.token == GRPC_STATUS
}

/// Whether a head announces trailers (RFC 9110, section 6.6.2). A gRPC response has its status in them, and need not
/// announce it.
pub(crate) fn announces_trailers(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    let is_grpc = |content_type: &HeaderValue| {
        let beginning = content_type.as_bytes().trim_ascii_start().get(..GRPC.len());
        beginning.is_some_and(|beginning| beginning.eq_ignore_ascii_case(GRPC))
    };
    headers.contains_key(TRAILER) || headers.get_all(CONTENT_TYPE).iter().any(is_grpc)
}

/// Whether the body is of a type whose parts come as they arise, perhaps until one side disconnects. GraphQL sends
/// deferred parts and subscriptions as `multipart/mixed`.
fn is_endless(headers: &HeaderMap) -> bool {
    const ENDLESS: [&str; 3] =
        ["text/event-stream", "multipart/x-mixed-replace", "multipart/mixed"];
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
    essence
        .is_some_and(|essence| ENDLESS.iter().any(|endless| endless.eq_ignore_ascii_case(essence)))
}

fn by_author(
    status: StatusCode,
    control: &ResponseControl,
    policy: &Policy,
) -> Result<Freshness, Uncacheable> {
    let negative =
        matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_FOUND | StatusCode::GONE);
    let positive = matches!(status, StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION);
    if !negative && !positive {
        return Err(Uncacheable::new(
            "status",
            format!("responses with status {status} are not stored"),
        ));
    }
    if negative && policy.negative_ttl.is_none() {
        let why = "statuses 204, 404 and 410 are stored only with Policy::negative_ttl";
        return Err(Uncacheable::new("negative", why));
    }
    let directives = &control.directives;
    // A directive for single fields counts for the whole response here: the route's author can omit those fields.
    if directives.no_store || directives.private.is_some() || directives.no_cache.is_some() {
        return Err(Uncacheable::new(
            "cache-control",
            "the response says no-store, private or no-cache",
        ));
    }
    Ok(Freshness::from_policy(policy, negative))
}

fn by_headers(
    status: StatusCode,
    headers: &HeaderMap,
    request: &RequestDirectives,
    policy: &Policy,
    control: &ResponseControl,
    times: Times,
) -> Result<Freshness, Uncacheable> {
    is_allowed(status, request, control)?;
    let directives = &control.directives;
    // Sections 5.2.2.2, 5.2.2.4, 5.2.2.8 and 5.2.2.10.
    let is_strict = directives.must_revalidate
        || directives.proxy_revalidate
        || directives.s_maxage.is_some() && !policy.s_maxage_allows_stale
        || directives.is_no_cache()
        || is_error(status);
    let window = |directives: Option<Duration>, policy: Duration| match is_strict {
        true => Duration::ZERO,
        false => directives.unwrap_or(policy),
    };
    let fresh = lifetime(status, headers, control, times.now);
    let is_post = request.method == Method::POST;
    if is_post && !is_explicit(headers, control) {
        // RFC 9110, section 9.3.3.
        return Err(Uncacheable::new("no-lifetime", "the response to POST gives no lifetime"));
    }
    let may_guess = is_heuristically_cacheable(status) || directives.public;
    if fresh.is_none() && !may_guess {
        return Err(Uncacheable::new("no-lifetime", "the response has no lifetime"));
    }
    // A response to POST is not revalidated.
    let has_validator =
        !is_post && (headers.contains_key(ETAG) || headers.contains_key(LAST_MODIFIED));
    let longest = if is_error(status) { policy.error_ttl } else { Duration::MAX };
    let freshness = Freshness {
        age: age(headers, times.now, times.delay),
        ttl: if directives.is_no_cache() {
            Duration::ZERO
        } else {
            fresh.unwrap_or_default().min(longest)
        },
        while_revalidating: window(
            directives.stale_while_revalidate,
            policy.stale_while_revalidate,
        ),
        if_error: window(directives.stale_if_error, policy.stale_if_error),
        to_revalidate: if has_validator { TO_REVALIDATE } else { STALE_IS_WORTH },
        is_strict,
    };
    let is_stale = freshness.age >= freshness.ttl;
    if is_stale && !has_validator && (is_strict || freshness.ttl.is_zero()) {
        return Err(Uncacheable::new(
            "stale",
            "the response is stale on arrival, and has no validator",
        ));
    }
    Ok(freshness)
}

/// Whether a response is an error that one client may have provoked for all. RFC 9111 allows to store it.
fn is_error(status: StatusCode) -> bool {
    let says_none = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    !says_none && (status.is_client_error() || status.is_server_error())
}

/// How long a response without a validator is stored past its TTL, for clients that accept a stale response and for a HEAD
/// request that may renew it.
const STALE_IS_WORTH: Duration = Duration::from_secs(60 * 60);

/// Whether RFC 9111, section 3, allows to store a response.
fn is_allowed(
    status: StatusCode,
    request: &RequestDirectives,
    control: &ResponseControl,
) -> Result<(), Uncacheable> {
    let directives = &control.directives;
    let refused = |why: &'static str| Err(Uncacheable::new("cache-control", why));
    if status.is_informational() || status == StatusCode::NOT_MODIFIED {
        return Err(Uncacheable::new(
            "status",
            format!("responses with status {status} are not stored"),
        ));
    }
    // Section 5.2.2.3: with it, `no-store` is for caches that do not know the status.
    if directives.must_understand && !is_understood(status) {
        return refused("the response says must-understand, and its status is unknown");
    }
    if directives.no_store && !directives.must_understand {
        return refused("the response says no-store");
    }
    if directives.is_private() {
        return refused("the response says private");
    }
    // A malformed one is zero, and does not make the response shared.
    let is_shared = directives.s_maxage.is_some_and(|age| !age.is_zero());
    let is_for_all = directives.public || is_shared;
    // Section 3.5.
    if request.client.is_authorized && !is_for_all && !directives.must_revalidate {
        let why = "the request had Authorization, and the response does not say public";
        return Err(Uncacheable::new(PERSONAL, why));
    }
    // Stricter than the RFC: cookies and other headers identify people just as well.
    if (request.client.has_cookies || request.client.is_identified()) && !is_for_all {
        let why = "the request had cookies or another header that says who the client is, and the response does not say \
                   public";
        return Err(Uncacheable::new(PERSONAL, why));
    }
    Ok(())
}

/// The status codes of RFC 9110, section 15, and of RFC 6585.
fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=206 | 300..=305 | 307 | 308 | 400..=417 | 421 | 422 | 426 | 428 | 429 | 431
            | 500..=505 | 511
    )
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::middleware::rules::identity::IdentityHeaders;

    const NOW: &str = "Wed, 25 Nov 2026 12:00:00 GMT";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let lines = lines.iter();
        lines.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    fn request(lines: &[(&'static str, &str)]) -> RequestDirectives {
        let mut request = Request::new(axum::body::Body::empty());
        *request.headers_mut() = headers(lines);
        RequestDirectives::new(
            &request,
            &Policy::standard(),
            &IdentityHeaders::default(),
            || false,
            None,
        )
        .unwrap()
    }

    fn of(
        status: u16,
        lines: &[(&'static str, &str)],
        request: &RequestDirectives,
        policy: &Policy,
    ) -> Result<Cacheability, &'static str> {
        let status = StatusCode::from_u16(status).unwrap();
        let times = Times { now: httpdate::parse_http_date(NOW).unwrap(), delay: Duration::ZERO };
        cacheability(status, &headers(lines), request, policy, times)
            .map_err(|uncacheable| uncacheable.token)
    }

    fn by_author(status: u16, lines: &[(&'static str, &str)]) -> Result<u64, &'static str> {
        let policy = Policy::ttl(Duration::from_secs(7));
        of(status, lines, &request(&[]), &policy).map(|storable| storable.freshness.ttl.as_secs())
    }

    fn ttl(status: u16, lines: &[(&'static str, &str)]) -> Result<u64, &'static str> {
        let storable = of(status, lines, &request(&[]), &Policy::standard());
        storable.map(|storable| storable.freshness.ttl.as_secs())
    }

    #[test]
    fn under_a_ttl_policy_a_response_can_forbid_storing_but_not_change_the_ttl() {
        assert_eq!(by_author(200, &[]), Ok(7));
        assert_eq!(by_author(200, &[("cache-control", "public, max-age=9")]), Ok(7));
        assert_eq!(by_author(200, &[("cache-control", "max-age=0")]), Ok(7));
        for status in [206, 301, 302, 304, 400, 403, 405, 500, 503, 999] {
            assert_eq!(by_author(status, &[]), Err("status"), "{status}");
        }
        for status in [204, 404, 410] {
            assert_eq!(by_author(status, &[]), Err("negative"), "{status}");
        }
        assert_eq!(by_author(200, &[("set-cookie", "a=b")]), Err("set-cookie"));
        for value in ["no-store", "PRIVATE", "no-cache", "public, no-cache=\"x\"", "private=\"x\""]
        {
            let forbidden = [("cache-control", value)];
            assert_eq!(by_author(200, &forbidden), Err("cache-control"), "{value}");
            let ours = [("tidegate-cache-control", "max-age=5"), ("cache-control", value)];
            assert_eq!(by_author(200, &ours), Ok(7), "{value} is for other caches");
        }
        for value in ["*", "accept, *", "cookie"] {
            assert_eq!(by_author(200, &[("vary", value)]), Err("vary"), "{value}");
        }
    }

    #[test]
    fn under_a_standard_policy_the_response_sets_its_own_lifetime() {
        let fresh = [("cache-control", "max-age=60")];
        for status in [200, 203, 204, 299, 301, 302, 307, 404, 410, 999] {
            assert_eq!(ttl(status, &fresh), Ok(60), "{status}");
        }
        for status in [400, 405, 413, 414, 431, 500, 501, 503, 599] {
            assert_eq!(ttl(status, &fresh), Ok(10), "{status}: as long as the policy says");
            let none = Policy::standard().error_ttl(Duration::ZERO);
            let storable =
                of(status, &fresh, &request(&[]), &none).map(|storable| storable.freshness.ttl);
            assert_eq!(storable, Err("stale"), "{status}");
        }
        for status in [206, 304] {
            assert_eq!(ttl(status, &fresh), Err("status"), "{status}");
        }
        assert_eq!(ttl(200, &[("etag", "\"a\"")]), Ok(0));
        assert_eq!(ttl(299, &[("etag", "\"a\"")]), Err("no-lifetime"));
        assert_eq!(ttl(200, &[]), Err("stale"));
        assert_eq!(ttl(200, &[("cache-control", "max-age=0")]), Err("stale"));
        assert_eq!(ttl(200, &[("cache-control", "max-age=9, no-store")]), Err("cache-control"));
        assert_eq!(ttl(200, &[("cache-control", "max-age=9, private")]), Err("cache-control"));
        let no_cache = [("cache-control", "max-age=9, no-cache"), ("etag", "\"a\"")];
        assert_eq!(ttl(200, &no_cache), Ok(0));
    }

    #[test]
    fn must_understand_overrides_no_store_only_for_a_known_status() {
        let directives = [("cache-control", "max-age=60, no-store, must-understand")];
        assert_eq!(ttl(200, &directives), Ok(60));
        assert_eq!(ttl(599, &directives), Err("cache-control"));
    }

    #[test]
    fn fields_named_by_no_cache_or_private_are_withheld() {
        let directives = [("cache-control", "max-age=60, no-cache=\"a\", private=\"b\"")];
        let storable = of(200, &directives, &request(&[]), &Policy::standard()).unwrap();
        assert_eq!(storable.withheld, ["a", "b"]);
        assert_eq!(storable.freshness.ttl.as_secs(), 60);
    }

    #[test]
    fn a_response_to_an_identified_client_is_stored_only_if_marked_as_shared() {
        let by = |who, directives| {
            let request = request(&[(who, "x=1")]);
            of(200, &[("cache-control", directives)], &request, &Policy::standard()).is_ok()
        };
        for (directives, authorized, cookies) in [
            ("max-age=60", false, false),
            ("max-age=60, must-revalidate", true, false),
            ("max-age=60, public", true, true),
            ("s-maxage=60", true, true),
        ] {
            assert_eq!(by("authorization", directives), authorized, "{directives}");
            assert_eq!(by("cookie", directives), cookies, "{directives}");
        }
    }

    #[test]
    fn must_revalidate_proxy_revalidate_and_s_maxage_forbid_stale_serving() {
        let policy = Policy::standard().stale_if_error(Duration::from_secs(5));
        let windows = |directives: &str| {
            let storable =
                of(200, &[("cache-control", directives)], &request(&[]), &policy).unwrap();
            let freshness = storable.freshness;
            (
                freshness.while_revalidating.as_secs(),
                freshness.if_error.as_secs(),
                freshness.is_strict,
            )
        };
        assert_eq!(windows("max-age=1"), (0, 5, false));
        assert_eq!(windows("max-age=1, stale-if-error=9, stale-while-revalidate=3"), (3, 9, false));
        for strict in ["must-revalidate", "proxy-revalidate", "s-maxage=1"] {
            let directives =
                format!("max-age=1, stale-if-error=9, stale-while-revalidate=3, {strict}");
            assert_eq!(windows(&directives), (0, 0, true), "{strict}");
        }
    }

    #[test]
    fn s_maxage_permits_stale_serving_if_the_policy_says_so() {
        let windows = |directives: &str, policy: &Policy| {
            let storable =
                of(200, &[("cache-control", directives)], &request(&[]), policy).unwrap();
            (storable.freshness.while_revalidating.as_secs(), storable.freshness.if_error.as_secs())
        };
        let directives = "s-maxage=1, stale-while-revalidate=30, stale-if-error=60";
        assert_eq!(windows(directives, &Policy::standard()), (0, 0));
        let lenient = Policy::standard().s_maxage_allows_stale();
        assert_eq!(windows(directives, &lenient), (30, 60));
        assert_eq!(windows(&format!("{directives}, must-revalidate"), &lenient), (0, 0));
        assert_eq!(windows("s-maxage=1", &lenient), (0, 0));
    }

    #[test]
    fn a_vary_field_that_is_not_text_prevents_storing() {
        let mut headers = HeaderMap::new();
        headers.insert("vary", http::HeaderValue::from_bytes(b"\xff").unwrap());
        let times = Times { now: SystemTime::UNIX_EPOCH, delay: Duration::ZERO };
        let policy = Policy::ttl(Duration::from_secs(7));
        assert!(cacheability(StatusCode::OK, &headers, &request(&[]), &policy, times).is_err());
    }
}
