//! What a request requires of the cache (RFC 9111, sections 5.2.1 and 3.5), and whether it may use the cache.

use http::header::{ACCEPT, CONTENT_LENGTH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, Method, Request};
use http_body::Body;

use super::audience::Audience;
use super::cookies;
use super::directives::Directives;
use super::fields::{RequestField, RequestFields};
use super::identity::IdentityHeaders;
use super::session_cookie::is_session_cookie;
use crate::cache::{AgeLimits, Policy};
use crate::outcome::BypassReason;

/// Headers with which a client can make a framework use another method.
const METHOD_OVERRIDES: [RequestField; 3] =
    [RequestField::XHttpMethodOverride, RequestField::XHttpMethod, RequestField::XMethodOverride];

/// The headers of conditional and range requests.
const CONDITIONS: [HeaderName; 4] = [IF_NONE_MATCH, IF_MODIFIED_SINCE, RANGE, IF_RANGE];

/// The hash of a request's content, which is part of the key.
pub(crate) type ContentHash = blake3::Hash;

/// What a request requires of its response, besides its key.
#[derive(Clone, Debug)]
pub(crate) struct RequestDirectives {
    pub(crate) method: Method,
    /// Its fields that concern a cache.
    pub(crate) fields: RequestFields,
    /// Its `If-None-Match`, `If-Modified-Since`, `Range` and `If-Range`.
    pub(crate) conditions: HeaderMap,
    /// The age and staleness that it accepts.
    pub(crate) limits: AgeLimits,
    /// Whether it accepts only a stored response.
    pub(crate) only_if_cached: bool,
    pub(crate) client: Client,
    /// Whether the handler gets cookies besides those that the key holds individually.
    pub(crate) has_other_cookies: bool,
    /// The client's identity, as returned by the policy's `vary_by` function.
    pub(crate) client_key: Option<String>,
    /// The hash of the content of a QUERY or POST request, once it has been read.
    pub(crate) content: Option<ContentHash>,
}

/// How a request identifies the client, under policies that leave it to the response whether that matters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Client {
    /// By `Authorization`.
    pub(crate) is_authorized: bool,
    /// By cookies.
    pub(crate) has_cookies: bool,
    /// By something else.
    other: Option<Sign>,
}

/// What else may identify the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sign {
    /// Another header.
    Header,
    /// What a layer has put into the request's extensions.
    Extension,
}

impl Client {
    fn from_request<B>(
        request: &Request<B>,
        fields: RequestFields,
        has_cookies: bool,
        policy: &Policy,
        identity: &IdentityHeaders,
        has_unknown_extension: impl FnOnce() -> bool,
    ) -> Self {
        if policy.public {
            return Self::default();
        }
        let headers = request.headers();
        let mut named = identity.matching(headers);
        let has_header = named.any(|name| !names(policy, name.as_str()));
        let has_extension = policy.identity.vary_by.is_none() && has_unknown_extension();
        let header = has_header.then_some(Sign::Header);
        Self {
            is_authorized: fields.has(RequestField::Authorization)
                && !names(policy, "authorization"),
            has_cookies,
            other: header.or(has_extension.then_some(Sign::Extension)),
        }
    }

    /// By something other than `Authorization` and cookies.
    pub(crate) fn is_identified(self) -> bool {
        self.other.is_some()
    }

    /// Whether nothing identifies the client.
    pub(crate) fn is_unknown(self) -> bool {
        !self.is_authorized && !self.has_cookies && self.other.is_none()
    }

    /// Fails if something identifies the client.
    fn is_anybody(self) -> Result<(), BypassReason> {
        match self.other {
            _ if self.is_authorized || self.has_cookies => Err(BypassReason::Personal),
            Some(Sign::Header) => Err(BypassReason::Personal),
            Some(Sign::Extension) => Err(BypassReason::Extensions),
            None => Ok(()),
        }
    }
}

impl RequestDirectives {
    /// The directives of a request; or why it must bypass the cache. `has_unknown_extension` says whether the request has
    /// an extension that may identify the client.
    pub(crate) fn new<B: Body>(
        request: &Request<B>,
        policy: &Policy,
        identity: &IdentityHeaders,
        has_unknown_extension: impl FnOnce() -> bool,
        client_key: Option<String>,
    ) -> Result<Self, BypassReason> {
        let headers = request.headers();
        let fields = RequestFields::from_headers(headers);
        if let Some(reason) = unkeyed(request, fields, policy) {
            return Err(reason);
        }
        let has_cookies =
            fields.has(RequestField::Cookie) && !policy.public && has_cookies(headers, policy);
        let client = match client_key {
            Some(_) => Client::default(),
            None => Client::from_request(
                request,
                fields,
                has_cookies,
                policy,
                identity,
                has_unknown_extension,
            ),
        };
        let is_read_by_name = !policy.vary_cookies.is_empty() && !policy.identity.is_strict;
        let mut conditions = conditions(headers, fields);
        if !policy.is_standard {
            client.is_anybody()?;
            // A date in whole seconds does not distinguish two responses of the same second, and a client with the first
            // would keep it. Only under `Policy::standard`, the author of the headers accepts this.
            conditions.remove(IF_MODIFIED_SINCE);
        }
        if *request.method() == Method::POST {
            // RFC 9110, sections 13.1.3 and 14.2: these are for GET.
            conditions.clear();
        }
        let needs_others = client_key.is_some() || client.has_cookies;
        if cookies::are_ambiguous(headers, policy, needs_others) {
            return Err(BypassReason::Personal);
        }
        let mut directives = Self {
            method: request.method().clone(),
            fields,
            conditions,
            limits: AgeLimits::default(),
            only_if_cached: false,
            client,
            has_other_cookies: has_cookies && is_read_by_name,
            client_key,
            content: None,
        };
        if fields.has(RequestField::CacheControl) {
            directives.direct(&Directives::from_headers(headers), policy)?;
        }
        Ok(directives)
    }

    /// Finds out again how a request identifies its client, after headers were removed. Of its cookies, those are left by
    /// which responses vary.
    pub(crate) fn identify_again<B>(
        &mut self,
        request: &Request<B>,
        policy: &Policy,
        identity: &IdentityHeaders,
        has_unknown_extension: impl FnOnce() -> bool,
    ) {
        let fields = RequestFields::from_headers(request.headers());
        self.client =
            Client::from_request(request, fields, false, policy, identity, has_unknown_extension);
        self.has_other_cookies = false;
    }

    /// RFC 9111, section 5.2.1. Except under `Policy::standard`, only `no-store` and `only-if-cached` count: responses are
    /// proven fresh, and a client can't cause work by requesting fresher ones.
    fn direct(&mut self, said: &Directives, policy: &Policy) -> Result<(), BypassReason> {
        if said.no_store {
            return Err(BypassReason::NoStore);
        }
        self.only_if_cached = said.only_if_cached;
        if policy.is_standard {
            self.limits = AgeLimits {
                max_age: said.max_age,
                min_fresh: said.min_fresh.unwrap_or_default(),
                max_stale: said.max_stale.unwrap_or_default(),
                is_anew: said.is_no_cache(),
            };
        }
        Ok(())
    }

    /// Whether the request has nothing that identifies the client besides what the key holds. Then its response is the
    /// response to all requests with this key.
    pub(crate) fn is_of_anybody(&self) -> bool {
        self.client.is_unknown() && !self.has_other_cookies
    }

    /// Whether any stored response may be served to this client.
    pub(crate) fn accepts_any(&self) -> bool {
        !self.client.is_authorized && !self.client.is_identified() && !self.has_other_cookies
    }

    /// Whether a stored response may be served to this client that has this audience, and may vary by cookies. RFC 9111,
    /// section 3.5, forbids only the opposite; but an origin may show more to authenticated clients.
    pub(crate) fn accepts(&self, audience: Audience, varies_by_cookies: bool) -> bool {
        // Section 4.1: a response to other cookies is another variant.
        let is_of_these_cookies = !self.has_other_cookies || !varies_by_cookies;
        is_of_these_cookies
            && match (self.client.is_identified(), self.client.is_authorized) {
                (true, _) => audience == Audience::All,
                (false, true) => audience != Audience::Unknown,
                (false, false) => true,
            }
    }

    /// Whether it is for less than a whole response.
    pub(crate) fn is_for_a_part(&self) -> bool {
        self.method == Method::HEAD || self.conditions.contains_key(RANGE)
    }
}

/// Whether a request accepts only a stored response (RFC 9111, section 5.2.1.7), and its policy stores responses to its
/// method and serves them. `is_read` says whether it is a POST request that only reads.
pub(crate) fn wants_only_stored<B>(request: &Request<B>, policy: &Policy, is_read: bool) -> bool {
    let method = request.method();
    let is_query = || is_query(method) && policy.query_content.is_some();
    (is_get(method) || is_read || is_query())
        && !policy.shadow
        && Directives::from_headers(request.headers()).only_if_cached
}

pub(crate) fn is_get(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// The most bytes of content that the key of a request holds. `None` if the content does not count, as that of a POST
/// request whose client says that the handler must run once at most.
pub(crate) fn content_limit<B>(request: &Request<B>, policy: &Policy) -> Option<usize> {
    if is_query(request.method()) {
        return policy.query_content;
    }
    let post = policy.post_reads.as_ref().filter(|_| *request.method() == Method::POST)?;
    // draft-ietf-httpapi-idempotency-key-header, and the same with `X-`.
    let is_for_once = |name: &HeaderName| name.as_str().ends_with("idempotency-key");
    (!request.headers().keys().any(is_for_once)).then_some(post.bytes)
}

/// The same for a request that bypasses the cache for this reason: whether a POST request writes depends on its content
/// even then.
pub(crate) fn content_limit_of_bypass<B>(
    request: &Request<B>,
    policy: &Policy,
    reason: BypassReason,
) -> Option<usize> {
    use BypassReason as B;
    let is_clear = matches!(reason, B::Personal | B::Extensions | B::NoStore | B::Precondition);
    let is_post = *request.method() == Method::POST;
    (is_post && is_clear).then(|| content_limit(request, policy)).flatten()
}

/// Whether a method is QUERY (RFC 10008). Some supported versions of `http` have no constant for it.
pub(crate) fn is_query(method: &Method) -> bool {
    method.as_str() == "QUERY"
}

/// Whether the key of a request with content holds a field: one that describes the content, or `Accept`, by which some
/// handlers choose a format without saying so in `Vary`. A strict policy withholds `Accept` unless it forwards it, or
/// names it, in which case the key holds it anyway.
pub(crate) fn is_keyed_with_content(name: &HeaderName, policy: &Policy) -> bool {
    let identity = &policy.identity;
    let is_accept = *name == ACCEPT;
    describes_content(name)
        || is_accept && (!identity.is_strict || identity.forwards(name.as_str()))
}

/// Whether a field describes a request's content (RFC 9110, section 8): any `Content-` field except the length.
pub(crate) fn describes_content(name: &HeaderName) -> bool {
    name.as_str().starts_with("content-") && *name != CONTENT_LENGTH
}

/// Why the key can't hold everything that the response may depend on, if it can't.
fn unkeyed<B: Body>(
    request: &Request<B>,
    fields: RequestFields,
    policy: &Policy,
) -> Option<BypassReason> {
    let is_get = is_get(request.method());
    if !is_get && content_limit(request, policy).is_none() {
        return Some(BypassReason::Method);
    }
    if fields.has_any(&METHOD_OVERRIDES) {
        return Some(BypassReason::MethodOverride);
    }
    // A body could change the response, and is not part of the key (RFC 9110, section 9.3.1).
    if is_get && !request.body().is_end_stream() {
        return Some(BypassReason::Body);
    }
    // Otherwise a WebSocket handshake could get a stored response, and others could wait for it (RFC 9110, section 7.8).
    if fields.has(RequestField::Upgrade) {
        return Some(BypassReason::Upgrade);
    }
    // RFC 9111, section 4.3.2: a cache must not evaluate these two.
    let judged_by_origin = [RequestField::IfMatch, RequestField::IfUnmodifiedSince];
    // RFC 9110, section 13.1.2: with POST, it may lead to 412, and never to 304.
    let is_judged = *request.method() == Method::POST && fields.has(RequestField::IfNoneMatch);
    (is_judged || fields.has_any(&judged_by_origin)).then_some(BypassReason::Precondition)
}

/// Whether a request has cookies that responses do not vary by. Those of Tidegate's sessions do not count.
fn has_cookies(headers: &HeaderMap, policy: &Policy) -> bool {
    let is_named = |name: &[u8]| policy.vary_cookies.iter().any(|known| known.as_bytes() == name);
    let says_nothing = |name: &[u8]| {
        is_session_cookie(name) || is_named(name) || policy.identity.ignores_cookie(name)
    };
    !names(policy, "cookie") && cookies::all(headers).any(|(name, _)| !says_nothing(name))
}

fn names(policy: &Policy, header: &str) -> bool {
    policy.vary.iter().any(|name| name == header)
}

fn conditions(headers: &HeaderMap, fields: RequestFields) -> HeaderMap {
    let mut conditions = HeaderMap::new();
    if !fields.has_any(&[
        RequestField::IfNoneMatch,
        RequestField::IfModifiedSince,
        RequestField::Range,
        RequestField::IfRange,
    ]) {
        return conditions;
    }
    for name in CONDITIONS {
        for value in headers.get_all(&name) {
            conditions.append(name.clone(), value.clone());
        }
    }
    conditions
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

    fn directives(
        request: &Request<Body>,
        policy: &Policy,
    ) -> Result<RequestDirectives, BypassReason> {
        RequestDirectives::new(request, policy, &IdentityHeaders::default(), || false, None)
    }

    fn refused(headers: &[(&str, &str)], policy: &Policy) -> Option<BypassReason> {
        directives(&request(headers), policy).err()
    }

    #[test]
    fn a_request_that_identifies_a_client_bypasses_unless_the_policy_covers_it() {
        let personal = Some(BypassReason::Personal);
        assert_eq!(refused(&[], &policy()), None);
        assert_eq!(refused(&[("cookie", "sid=1")], &policy()), personal);
        assert_eq!(refused(&[("authorization", "x")], &policy()), personal);
        for ours in ["tidegate-position=1", "__Host-tidegate-position=1"] {
            assert_eq!(refused(&[("cookie", ours)], &policy()), None);
        }
        assert_eq!(refused(&[("cookie", " ; ")], &policy()), None);
        assert_eq!(refused(&[("cookie", "sid=1")], &policy().public()), None);
        assert_eq!(refused(&[("cookie", "sid=1")], &policy().vary_cookies(["sid"])), None);
        assert_eq!(refused(&[("authorization", "x")], &policy().vary(["Authorization"])), None);
        let other = [("cookie", "sid=1; theme=dark; _ga_1=x")];
        let by_theme = || policy().vary_cookies(["theme"]);
        assert_eq!(refused(&other, &by_theme()), personal);
        assert_eq!(refused(&other, &by_theme().ignore_cookies(["sid"])), personal);
        assert_eq!(refused(&other, &by_theme().ignore_cookies(["sid", "_ga*"])), None);
        assert_eq!(refused(&other, &by_theme().public()), None);
        let both = [("authorization", "x"), ("cookie", "sid=1")];
        assert_eq!(refused(&both, &policy().vary_cookies(["sid"])), personal);
    }

    #[test]
    fn requests_that_the_key_does_not_fully_describe_bypass_the_cache() {
        let policy = policy();
        let refused_as = |request: Request<Body>| directives(&request, &policy).err();
        let post = Request::post("/").body(Body::empty()).unwrap();
        assert_eq!(refused_as(post), Some(BypassReason::Method));
        let fat = Request::get("/").body(Body::from("x")).unwrap();
        assert_eq!(refused_as(fat), Some(BypassReason::Body));
        let over = request(&[("x-http-method-override", "DELETE")]);
        assert_eq!(refused_as(over), Some(BypassReason::MethodOverride));
        let socket = request(&[("connection", "upgrade"), ("upgrade", "websocket")]);
        assert_eq!(refused_as(socket), Some(BypassReason::Upgrade));
        let none = request(&[("cache-control", "max-age=0, No-Store")]);
        assert_eq!(refused_as(none), Some(BypassReason::NoStore));
        for name in ["if-match", "if-unmodified-since"] {
            assert_eq!(refused_as(request(&[(name, "*")])), Some(BypassReason::Precondition));
        }
    }

    #[test]
    fn a_client_can_force_revalidation_only_under_a_standard_policy() {
        let reload = request(&[("cache-control", "no-cache, max-age=0")]);
        let of = |request: &Request<Body>, policy: &Policy| directives(request, policy).unwrap();
        assert_eq!(of(&reload, &policy()).limits, AgeLimits::default());
        let limits = of(&reload, &Policy::standard()).limits;
        assert!(limits.is_anew && limits.max_age == Some(Duration::ZERO));
        let stored = request(&[("cache-control", "only-if-cached")]);
        assert!(of(&stored, &policy()).only_if_cached);
    }
}
