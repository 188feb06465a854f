//! Which requests the cache may answer, and which answers it may keep.
//!
//! The policy of a route is its author's word that answers may be shared. A request or an answer can
//! still forbid it; what is not plainly allowed is refused.

use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_RANGE, SET_COOKIE, VARY};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body::Body;

use super::keying::all_cookies;
use super::session::COOKIE_NAME;
use crate::cache::{Policy, Unfit};
use crate::outcome::BypassReason;

/// Headers by which a client asks a framework for another method.
const METHOD_OVERRIDES: [&str; 3] =
    ["x-http-method-override", "x-http-method", "x-method-override"];

/// Why the cache must leave a request alone, if it must.
pub(crate) fn bypass<B: Body>(request: &Request<B>, policy: &Policy) -> Option<BypassReason> {
    let headers = request.headers();
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(BypassReason::Method);
    }
    if METHOD_OVERRIDES.iter().any(|name| headers.contains_key(*name)) {
        return Some(BypassReason::MethodOverride);
    }
    // A body could change the answer, and is no part of the key (RFC 9110, section 9.3.1).
    if !request.body().is_end_stream() {
        return Some(BypassReason::Body);
    }
    // RFC 9111, section 5.2.1.5.
    if has_directive(headers, "no-store") {
        return Some(BypassReason::NoStore);
    }
    is_personal(headers, policy).then_some(BypassReason::Personal)
}

/// Whether the request says who sends it, and the policy does not say that answers differ by that or
/// do not differ at all. RFC 9111, section 3.5, is stricter with `Authorization` only; cookies
/// identify people just as well.
fn is_personal(headers: &HeaderMap, policy: &Policy) -> bool {
    let named = |header: &str| policy.vary.iter().any(|name| name == header);
    let authorized = headers.contains_key(AUTHORIZATION) && !named("authorization");
    let mut cookies = all_cookies(headers).filter(|(name, _)| *name != COOKIE_NAME.as_bytes());
    let identified = policy.vary_cookies.is_empty() && !named("cookie") && cookies.next().is_some();
    !policy.public && (authorized || identified)
}

/// Whether an answer may be kept; `Ok(true)` for one that says "there is none".
pub(crate) fn may_store(
    status: StatusCode,
    headers: &HeaderMap,
    policy: &Policy,
) -> Result<bool, Unfit> {
    let negative = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    let positive = matches!(
        status,
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION | StatusCode::NO_CONTENT
    );
    if !negative && !positive || headers.contains_key(CONTENT_RANGE) {
        return Err(Unfit::new("status", format!("answers of status {status} are not stored")));
    }
    if headers.contains_key(SET_COOKIE) {
        return Err(Unfit::new("set-cookie", "the answer sets a cookie, so it is somebody's"));
    }
    // RFC 9111, sections 5.2.2.4, 5.2.2.5 and 5.2.2.7.
    for directive in ["no-store", "private", "no-cache"] {
        if has_directive(headers, directive) {
            return Err(Unfit::new("cache-control", format!("the answer says {directive}")));
        }
    }
    may_vary(headers, policy).map(|()| negative)
}

/// RFC 9111, section 4.1: what the answer varies by must be in the key.
fn may_vary(headers: &HeaderMap, policy: &Policy) -> Result<(), Unfit> {
    for name in tokens(headers, VARY) {
        let cookies = name.eq_ignore_ascii_case("cookie") && !policy.vary_cookies.is_empty();
        let known = policy.vary.iter().any(|known| known.eq_ignore_ascii_case(name));
        if !known && !cookies {
            let why = format!("the answer varies by {name}: name it with Policy::vary");
            return Err(Unfit::new("vary", why));
        }
    }
    Ok(())
}

/// Whether `Cache-Control` has a directive, with or without a value; RFC 9111, section 5.2.
fn has_directive(headers: &HeaderMap, directive: &str) -> bool {
    tokens(headers, CACHE_CONTROL)
        .map(|token| token.split_once('=').map_or(token, |(name, _)| name.trim_end()))
        .any(|name| name.eq_ignore_ascii_case(directive))
}

/// The members of a comma-separated header, over all its lines. One that is not text can't be
/// understood, and stands for anything: it is given as `*`.
fn tokens(headers: &HeaderMap, name: http::HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter();
    let texts = lines.map(|line: &HeaderValue| line.to_str().unwrap_or("*"));
    texts.flat_map(|text| text.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::body::Body;

    use super::*;

    fn policy() -> Policy {
        Policy::ttl(Duration::from_secs(1))
    }

    fn request(headers: &[(&str, &str)]) -> Request<Body> {
        let request = headers
            .iter()
            .fold(Request::get("/"), |request, (name, value)| request.header(*name, *value));
        request.body(Body::empty()).unwrap()
    }

    fn answer(headers: &[(&str, &str)]) -> HeaderMap {
        request(headers).into_parts().0.headers
    }

    #[test]
    fn requests_that_are_somebodys_need_a_policy_that_says_so() {
        use BypassReason::Personal;
        let by = |headers: &[(&str, &str)], policy: &Policy| bypass(&request(headers), policy);
        assert_eq!(by(&[], &policy()), None);
        assert_eq!(by(&[("cookie", "sid=1")], &policy()), Some(Personal));
        assert_eq!(by(&[("authorization", "x")], &policy()), Some(Personal));
        assert_eq!(by(&[("cookie", "tidegate-position=1")], &policy()), None);
        assert_eq!(by(&[("cookie", "sid=1")], &policy().public()), None);
        assert_eq!(by(&[("cookie", "sid=1")], &policy().vary_cookies(["sid"])), None);
        assert_eq!(by(&[("authorization", "x")], &policy().vary(["Authorization"])), None);
        let only_cookies = policy().vary_cookies(["sid"]);
        assert_eq!(
            by(&[("authorization", "x"), ("cookie", "sid=1")], &only_cookies),
            Some(Personal)
        );
    }

    #[test]
    fn requests_that_are_more_than_their_key_are_left_alone() {
        let policy = policy();
        let post = Request::post("/").body(Body::empty()).unwrap();
        assert_eq!(bypass(&post, &policy), Some(BypassReason::Method));
        let fat = Request::get("/").body(Body::from("x")).unwrap();
        assert_eq!(bypass(&fat, &policy), Some(BypassReason::Body));
        let over = request(&[("x-http-method-override", "DELETE")]);
        assert_eq!(bypass(&over, &policy), Some(BypassReason::MethodOverride));
        let none = request(&[("cache-control", "max-age=0, No-Store")]);
        assert_eq!(bypass(&none, &policy), Some(BypassReason::NoStore));
    }

    #[test]
    fn answers_that_forbid_it_are_not_stored() {
        let may = |status: u16, headers: &[(&str, &str)]| {
            let status = StatusCode::from_u16(status).unwrap();
            may_store(status, &answer(headers), &policy()).map_err(|unfit| unfit.token)
        };
        assert_eq!(may(200, &[]), Ok(false));
        assert_eq!(may(404, &[]), Ok(true));
        for status in [206, 301, 302, 304, 400, 403, 405, 500, 503, 999] {
            assert_eq!(may(status, &[]), Err("status"), "{status}");
        }
        assert_eq!(may(200, &[("set-cookie", "a=b")]), Err("set-cookie"));
        for value in ["no-store", "PRIVATE", "no-cache", "public, no-cache=\"x\"", "private=\"x\""]
        {
            assert_eq!(may(200, &[("cache-control", value)]), Err("cache-control"), "{value}");
        }
        assert_eq!(may(200, &[("cache-control", "public, max-age=9")]), Ok(false));
        for value in ["*", "accept, *", "origin"] {
            assert_eq!(may(200, &[("vary", value)]), Err("vary"), "{value}");
        }
    }

    #[test]
    fn an_answer_may_vary_by_what_is_in_the_key() {
        let policy = policy().vary(["accept-encoding"]).vary_cookies(["sid"]);
        let may = |value| may_store(StatusCode::OK, &answer(&[("vary", value)]), &policy).is_ok();
        assert!(may("Accept-Encoding, Cookie"));
        assert!(!may("accept-encoding, accept-language"));
    }

    #[test]
    fn a_header_that_is_no_text_forbids() {
        let mut headers = HeaderMap::new();
        headers.insert(VARY, HeaderValue::from_bytes(b"\xff").unwrap());
        assert!(may_store(StatusCode::OK, &headers, &policy()).is_err());
    }
}
