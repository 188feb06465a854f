//! Rewrites the parts of a handler's request that the key does not hold byte by byte.
//!
//! The key holds selected cookies and query parameters, and two header fields in a normalized spelling. If a handler got
//! these parts as they were sent, it could parse them differently from the key, and its response would be stored for
//! requests that it does not fit. So the handler gets them as the key holds them.

use axum::extract::OriginalUri;
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE};
use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::keying;
use super::rules::cookies;
use super::rules::fields::RequestField;
use super::rules::request::RequestDirectives;
use super::rules::vary;
use crate::cache::Policy;

/// Rewrites these parts of a request.
pub(crate) fn rewrite<A>(
    request: &mut Request<A>,
    policy: &Policy,
    directives: &RequestDirectives,
) {
    let headers = request.headers_mut();
    if directives.fields.has(RequestField::Cookie) {
        let needs_others = directives.client_key.is_some() || directives.client.has_cookies;
        cookies::rewrite(headers, policy, needs_others);
    }
    for name in [ACCEPT_ENCODING, ACCEPT_LANGUAGE] {
        if let Some(value) = vary::respelled(headers, &name) {
            headers.insert(name, value);
        }
    }
    if !keying::counts_all(policy) {
        *request.uri_mut() = counting(request.uri(), policy);
        if let Some(original) = request.extensions_mut().get_mut::<OriginalUri>() {
            original.0 = counting(&original.0, policy);
        }
    }
}

/// A URI with the parameters that count, in the order of the key.
fn counting(uri: &Uri, policy: &Policy) -> Uri {
    let Some(query) = uri.query() else { return uri.clone() };
    let kept = keying::counting(query, policy);
    // The key of an empty query may be that of a query without parameters that count.
    let path = match kept.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{kept}", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok().or(parts.path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}
