//! Who may see the page, and what a browser is told of it.

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

/// The header that a request must have to change anything. A page of another origin can't send it: a browser
/// first asks whether it may, and is not told so.
const INTENT: &str = "tidegate-admin";

/// A secret, as its hash.
#[derive(Clone)]
pub(crate) struct TokenHash(Arc<blake3::Hash>);

impl TokenHash {
    pub(crate) fn new(secret: &str) -> Self {
        Self(Arc::new(blake3::hash(secret.as_bytes())))
    }

    /// Whether a request brings it. Hashes are compared in constant time.
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

/// Lets those through who bring the token. A client that has sent many wrong ones gets no more of them looked at.
pub(crate) async fn check(
    (token, wrong): (TokenHash, WrongTokens),
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
    // A browser's first request has none.
    if request.headers().contains_key(AUTHORIZATION) && wrong.has_room(client) {
        wrong.count(client);
    }
    hardened(response.headers_mut());
    response
}

fn unauthorized() -> Response {
    let ask = [(WWW_AUTHENTICATE, "Basic realm=\"tidegate\", charset=\"UTF-8\"")];
    (StatusCode::UNAUTHORIZED, ask, "unauthorized\n").into_response()
}

/// Lets nothing change by a request that a page of another origin made.
pub(crate) async fn same_origin(request: Request, next: Next) -> Response {
    if request.method().is_safe() || is_meant(request.headers()) {
        return next.run(request).await;
    }
    let why = "refused: send the header Tidegate-Admin, from the page's own origin\n";
    (StatusCode::FORBIDDEN, why).into_response()
}

fn is_meant(headers: &HeaderMap) -> bool {
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    headers.contains_key(INTENT) && matches!(site, None | Some(b"same-origin" | b"none"))
}

/// Tells browsers to trust nothing that the page does not bring along.
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
