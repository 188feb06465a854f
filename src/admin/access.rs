//! Authentication for the operators' page, and the security headers of its responses.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, REFERRER_POLICY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};

use super::limit::{self, WrongTokens};

/// The header that every request that changes something must have. A page from another origin can't send it: the
/// browser sends a CORS preflight first, and this page does not allow it.
const INTENT: &str = "tidegate-admin";

/// The hash of the token.
#[derive(Clone)]
pub(crate) struct TokenHash(Arc<blake3::Hash>);

impl TokenHash {
    pub(crate) fn new(secret: &str) -> Self {
        Self(Arc::new(blake3::hash(secret.as_bytes())))
    }

    /// Whether the request has this token. The hashes are compared in constant time.
    fn is_in(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Some((scheme, rest)) = given.and_then(|value| value.split_once(' ')) else {
            return false;
        };
        let secret = match scheme.to_ascii_lowercase().as_str() {
            "bearer" => Some(rest.trim().as_bytes().to_vec()),
            "basic" => password(rest.trim()),
            _ => None,
        };
        secret.is_some_and(|secret| blake3::hash(&secret) == *self.0)
    }
}

/// The password in the credentials of RFC 7617.
fn password(credentials: &str) -> Option<Vec<u8>> {
    let pair = BASE64_STANDARD.decode(credentials).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(pair[colon + 1..].to_vec())
}

/// Passes on requests that have the token. Once a client has sent too many wrong tokens, its tokens are rejected
/// without a check.
pub(crate) async fn check(
    token: TokenHash,
    wrong: WrongTokens,
    request: Request,
    next: Next,
) -> Response {
    let client = limit::client(&request);
    if !wrong.shut_out(client) && token.is_in(request.headers()) {
        return next.run(request).await;
    }
    let mut response = match wrong.has_room(client) {
        true => unauthorized(),
        false => limit::too_many_tokens(),
    };
    // A browser sends its first request without credentials, which is not a wrong token.
    if request.headers().contains_key(AUTHORIZATION) && wrong.has_room(client) {
        wrong.count(client);
    }
    hardened(response.headers_mut());
    response
}

fn unauthorized() -> Response {
    let challenge = [(WWW_AUTHENTICATE, "Basic realm=\"tidegate\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, challenge, "unauthorized\n").into_response()
}

/// Rejects requests that change something unless they come from the page's own origin.
pub(crate) async fn same_origin(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_meant(request.headers()) {
        return next.run(request).await;
    }
    let why = "refused: the request must have the header Tidegate-Admin, and come from a page of the same origin\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

fn is_meant(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(INTENT) && matches!(site, None | Some(b"same-origin" | b"none"))
}

/// Adds headers that make browsers load and trust only what is in the page itself.
pub(crate) async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    hardened(response.headers_mut());
    response
}

fn hardened(headers: &mut HeaderMap) {
    let fixed = [
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    for name in ["cross-origin-opener-policy", "cross-origin-resource-policy"] {
        headers.insert(name, HeaderValue::from_static("same-origin"));
    }
}
