//! Under a strict policy, reduces a request to what its key holds and what the service allows.

use axum::extract::{MatchedPath, NestedPath, OriginalUri};
use http::header::{COOKIE, HOST};
use http::{Extensions, HeaderMap, HeaderName, Request, Uri, Version};

use super::identity::IdentitySource;
use super::keying::{HOST_LIKE, PATH_LIKE};
use super::routers;
use super::rules::cookies;
use super::rules::fields::RequestField;
use super::rules::request::describes_content;
use crate::cache::{Policy, VaryBy, carry};

/// The extensions for a handler: axum's own, those that the service declared, and the one that the policy keys by. `None`
/// if the path's parameters can't be copied, for example because one is not UTF-8.
pub(crate) fn extensions<A>(
    request: &Request<A>,
    policy: &Policy,
    identity: &IdentitySource,
) -> Option<Extensions> {
    let given = request.extensions();
    let mut fresh = routers::parameters_alone(given)?;
    carry::<OriginalUri>(given, &mut fresh);
    carry::<MatchedPath>(given, &mut fresh);
    carry::<NestedPath>(given, &mut fresh);
    identity.extensions.carry(given, &mut fresh);
    let client = policy.identity.vary_by.as_ref().and_then(VaryBy::extension);
    if let Some(client) = client {
        (client.carry)(given, &mut fresh);
    }
    Some(fresh)
}

/// Removes from a request what its key does not hold, except in the query, which [`canonical`](super::canonical) rewrites.
/// `has_content` says whether the key holds the content.
pub(crate) fn withhold<A>(
    request: &mut Request<A>,
    policy: &Policy,
    has_content: bool,
    extensions: &Extensions,
) {
    *request.headers_mut() = headers(request.headers(), policy, has_content);
    *request.uri_mut() = reduced(request.uri(), policy);
    *request.version_mut() = Version::HTTP_11;
    *request.extensions_mut() = extensions.clone();
    if let Some(original) = request.extensions_mut().get_mut::<OriginalUri>() {
        original.0 = reduced(&original.0, policy);
    }
}

fn headers(given: &HeaderMap, policy: &Policy, has_content: bool) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in given {
        if is_handed_over(name, policy) || has_content && describes_content(name) {
            kept.append(name, value.clone());
        }
    }
    if !kept.contains_key(COOKIE)
        && let Some(cookies) = cookies::line(given, policy)
    {
        kept.insert(COOKIE, cookies);
    }
    kept
}

fn is_handed_over(name: &HeaderName, policy: &Policy) -> bool {
    let name = name.as_str();
    let is_of = |fields: &[RequestField]| fields.iter().any(|field| field.name() == name);
    let is_host = policy.host && (HOST == name || is_of(&HOST_LIKE));
    is_host
        || is_of(&PATH_LIKE)
        // The cache evaluates conditions. The handler gets them only in requests for a part.
        || is_of(&RequestField::CONDITIONS)
        || policy.vary.iter().any(|known| known == name)
        || policy.identity.forwards(name)
}

/// A URI without a host that does not count.
fn reduced(uri: &Uri, policy: &Policy) -> Uri {
    if policy.host {
        return uri.clone();
    }
    let mut parts = uri.clone().into_parts();
    (parts.scheme, parts.authority) = (None, None);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}
