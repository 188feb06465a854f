//! What axum's routers have found out about a request.
//!
//! A router adds to a request's extensions, in part with types that are private to axum: the path's parameters are of one.
//! Only axum can read these, so its own extractors are asked.

use axum::extract::{FromRequestParts, RawPathParams};
use futures_util::FutureExt;
use http::{Extensions, Request};

/// The parameters of a path, decoded: of all routers around the layer, in the order in which these have matched the path, and
/// as handlers get them. A layer between two routers may have changed the path, so the URI of the client does not tell them.
#[derive(Debug)]
pub(crate) struct PathParameters(RawPathParams);

impl PathParameters {
    /// Those of a request. `None` if no router has matched it, or if one of them is not UTF-8.
    pub(crate) fn of(extensions: &Extensions) -> Option<Self> {
        let (mut parts, ()) = Request::new(()).into_parts();
        parts.extensions = extensions.clone();
        // It waits for nothing.
        let read = RawPathParams::from_request_parts(&mut parts, &()).now_or_never()?;
        read.ok().map(Self)
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
