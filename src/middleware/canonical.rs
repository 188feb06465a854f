//! What a handler gets of a request where the key does not hold it byte by byte.
//!
//! The key holds some cookies, some parameters of the query, and two fields in one spelling. A handler that got these parts
//! as they were sent could read them in another way than the key does, and its response would be stored for requests that it
//! does not fit. So it gets them written from what the key holds.

use axum::extract::OriginalUri;
use http::header::{ACCEPT_ENCODING, ACCEPT_LANGUAGE};
use http::uri::PathAndQuery;
use http::{Request, Uri};

use super::rules::fields::RequestField;
use super::rules::request::RequestDirectives;
use super::rules::vary;
use super::{cookies, keying};
use crate::cache::Policy;

/// Writes these parts of a request anew.
pub(crate) fn rewrite<A>(request: &mut Request<A>, policy: &Policy, asked: &RequestDirectives) {
    let headers = request.headers_mut();
    if asked.fields.has(RequestField::Cookie) {
        cookies::rewrite(headers, policy, asked);
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
    let path = match kept.is_empty() && !query.is_empty() {
        true => uri.path().to_owned(),
        false => format!("{}?{kept}", uri.path()),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok().or(parts.path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}
