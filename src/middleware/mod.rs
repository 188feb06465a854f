//! The Tower layer.
//!
//! [`CacheLayer`] finds the [`Policy`](crate::Policy) of a request's route and puts the cache in
//! front of the handler. `keying` says which requests are the same, `rules` what HTTP says of caches,
//! `identity` what else says who the client is, `routers` what axum's
//! routers know of it, `variances` which parameters of a query count at a path, `canonical` and `strict`
//! what a handler gets of a request, `cookies` how its cookies are read, `content` how that of a QUERY is,
//! `fill` makes an entry of an answer, while `captured` streams its body to the client and `capture`
//! keeps it. `stored` is the form of an answer's head in an entry; `ready` makes an answer of an entry
//! again, and `answer` says how much of it a client gets. `session` lets a client see its own
//! writes. `audit` compares what is stored with what the handler gives, and
//! `explain` says what would become of a request. `service` answers what is at
//! hand, `passing` leaves to the handler what is not the cache's, and `steps` is the order of all the rest.
//!
//! A hit in memory is answered without a boxed future, a lock that is held for long, or a copy of the body.

mod audit;
mod body;
mod buffer;
mod bypass;
mod canonical;
mod content;
mod context;
mod cookies;
mod date;
mod exchange;
#[cfg(feature = "admin")]
mod explain;
mod fill;
mod future;
#[cfg(fuzzing)]
pub(crate) mod fuzzing;
mod handler;
mod identity;
mod keying;
mod layer;
mod rendered;
mod response;
mod route;
mod routers;
mod rules;
mod service;
mod session;
mod status;
mod stored;
mod strict;
mod tee;
mod timed_buffer;
mod variances;

/// The key of a GET request.
#[cfg(feature = "__internals")]
pub(crate) fn key(
    uri: &http::Uri,
    headers: &http::HeaderMap,
    policy: &crate::cache::Policy,
) -> crate::entry::Key {
    keying::key(("", ""), &keying::KeySource::from_parts(uri, headers), policy)
}

pub use body::Body;
#[cfg(feature = "admin")]
pub(crate) use explain::{Dependency, RequestExplanation, StoredExplanation};
pub use future::ResponseFuture;
pub use layer::CacheLayer;
#[cfg(feature = "admin")]
pub(crate) use layer::LayerSettings;
pub use service::CacheService;
pub use session::Sessions;
