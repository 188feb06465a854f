//! What axum's routers know about a request.
//!
//! A router adds extensions to a request: the original URI, the route's pattern, the prefix that it strips, and two values
//! of types that are private to axum. These are the path's parameters and, for a nested service, the pattern so far. Only
//! axum can read and write them, so this module uses axum's extractors and routers.

use std::future::ready;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, MatchedPath, OriginalUri, RawPathParams};
use axum::routing::any;
use futures_util::FutureExt;
use http::{Extensions, Request, Response, StatusCode, Uri};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tower_service::Service;

/// The decoded path parameters of all routers around the layer, in the order of matching, as handlers get them. They
/// can't be derived from the client's URI, since a layer between two routers may have changed the path.
#[derive(Debug)]
pub(crate) struct PathParameters(RawPathParams);

impl PathParameters {
    /// Those of a request. `None` if no router has matched it, or if one of them is not UTF-8.
    pub(crate) fn from_extensions(extensions: &Extensions) -> Option<Self> {
        read(extensions)?.ok().map(Self)
    }

    /// The same, without copying the request's other extensions.
    pub(crate) fn from_request<B>(request: &mut Request<B>) -> Option<Self> {
        let extensions = std::mem::take(request.extensions_mut());
        let (read, extensions) = read_from(extensions);
        *request.extensions_mut() = extensions;
        read?.ok().map(Self)
    }

    /// All of them, with their names.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter()
    }

    /// The value of a parameter. `None` if there is none of this name, or more than one: a handler may use either.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(found, _)| *found == name);
        match (named.next(), named.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }
}

/// The parameters, which may be empty; `None` if no router has matched the request.
type ReadParameters = Option<Result<RawPathParams, RawPathParamsRejection>>;

fn read(extensions: &Extensions) -> ReadParameters {
    read_from(extensions.clone()).0
}

/// The parameters, and the extensions that they were read from.
fn read_from(extensions: Extensions) -> (ReadParameters, Extensions) {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.extensions = extensions;
    // It waits for nothing.
    let read = RawPathParams::from_request_parts(&mut parts, &()).now_or_never();
    let is_missing =
        |read: &Result<_, _>| matches!(read, Err(RawPathParamsRejection::MissingPathParams(_)));
    (read.filter(|read| !is_missing(read)), parts.extensions)
}

/// Whether axum's routers have added all of so many extensions whose types are private to axum or not known.
pub(crate) fn have_added(extensions: &Extensions, unknown: usize) -> bool {
    // A router that has found a route adds its pattern together with the path's parameters, and removes what a router
    // around it has noted of a nested service.
    if unknown <= usize::from(is_in::<MatchedPath>(extensions)) {
        return true;
    }
    if unknown > 2 || is_in::<MatchedPath>(extensions) {
        return false;
    }
    let parameters = usize::from(read(extensions).is_some());
    unknown <= parameters || unknown <= parameters + usize::from(is_in_nested_service(extensions))
}

/// Whether a router's route is that of a nested service. A router further in puts this pattern before its own.
fn is_in_nested_service(extensions: &Extensions) -> bool {
    let mut inside = matched("/", "/", extensions.clone());
    let pattern = inside.as_mut().and_then(Extensions::remove::<MatchedPath>);
    pattern.is_some_and(|pattern| pattern.as_str() != "/")
}

pub(crate) fn is_in<T: Send + Sync + 'static>(extensions: &Extensions) -> bool {
    extensions.get::<T>().is_some()
}

/// Extensions with the path's parameters and nothing else; `None` if they can't be written.
pub(crate) fn parameters_alone(given: &Extensions) -> Option<Extensions> {
    let Some(parameters) = read(given) else { return Some(Extensions::new()) };
    // Where a router has matched a path without parameters, a handler finds that there are none.
    let mut written = matched("/", "/", Extensions::new())?;
    // One router for each parameter: two may have the same name, and each router adds its parameters to the existing ones.
    for (name, value) in &parameters.ok()? {
        let is_name = !name.is_empty() && !name.contains(['{', '}', '/', '*']);
        let pattern = is_name.then(|| format!("/{{{name}}}/-"))?;
        let path = format!("/{}/-", utf8_percent_encode(value, NON_ALPHANUMERIC));
        written = matched(&pattern, &path, written)?;
    }
    // With these, the router inside would take this for a nested one.
    written.remove::<MatchedPath>();
    written.remove::<OriginalUri>();
    Some(written)
}

/// The extensions after a router with this one route has matched the path; `None` if it does not match.
fn matched(pattern: &str, path: &str, extensions: Extensions) -> Option<Extensions> {
    let give_back = |mut request: Request<Body>| {
        let mut response = Response::new(Body::empty());
        *response.extensions_mut() = std::mem::take(request.extensions_mut());
        ready(response)
    };
    let mut router = Router::<()>::new().without_v07_checks().route(pattern, any(give_back));
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::try_from(path).ok()?;
    *request.extensions_mut() = extensions;
    let response = router.call(request).now_or_never()?.ok()?;
    let (parts, _) = response.into_parts();
    (parts.status == StatusCode::OK).then_some(parts.extensions)
}

// loom and shuttle have no services.
#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use super::*;

    fn all(extensions: &Extensions) -> Option<Vec<(String, String)>> {
        let read = PathParameters::from_extensions(extensions)?;
        Some(read.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn only_path_parameters_are_copied_and_their_values_are_unchanged() {
        let path = "/%2F%20%25/x%7B%7D";
        let once = matched("/{a}/{*rest}", path, Extensions::new()).unwrap();
        let twice = matched("/{a}/-", "//-", once).unwrap();
        let written = parameters_alone(&twice).unwrap();
        let expected = [("a", "/ %"), ("rest", "x{}"), ("a", "")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(all(&twice), Some(expected.to_vec()));
        assert_eq!(all(&written), Some(expected.to_vec()));
        assert_eq!(written.len(), 1, "and nothing else is");
    }

    #[test]
    fn an_unmatched_request_has_no_parameters_and_a_matched_one_may_have_an_empty_list() {
        assert!(PathParameters::from_extensions(&Extensions::new()).is_none());
        assert!(parameters_alone(&Extensions::new()).unwrap().is_empty());
        let matched = matched("/a", "/a", Extensions::new()).unwrap();
        assert_eq!(all(&parameters_alone(&matched).unwrap()), Some(Vec::new()));
    }

    #[test]
    fn parameters_that_are_not_utf_8_are_not_copied() {
        let odd = matched("/{a}", "/%ff", Extensions::new()).unwrap();
        assert!(
            PathParameters::from_extensions(&odd).is_none() && parameters_alone(&odd).is_none()
        );
    }
}
