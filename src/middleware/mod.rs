//! The Tower layer.
//!
//! [`CacheLayer`] finds the [`Policy`](crate::Policy) of a request's route and puts the cache in front of the handler.
//!
//! - The key: `keying` computes it, with `content` for the content of a QUERY, and `variances` for the query parameters
//!   that count at a path. `identity` and `routers` find what identifies the client.
//! - The routes: `layer` is what users configure, and `settings` what services share of it. `pattern` checks the
//!   patterns of policies, and `unmatched` warns about those that no request matches.
//! - HTTP: `rules` has the rules of the standards, and `context` applies them to one request.
//! - The flow: `service` serves hits in memory, and `lookup` looks up all other responses. `compute` calls the handler
//!   and fills the cache, `bypass` passes requests to the handler uncached, and `writes` does what follows if they
//!   wrote. `exchange` has what these steps share.
//! - The handler's request: `canonical` and `strict` reduce it to what the key holds.
//! - A fill: `fill` turns a response into an entry, while `tee` streams the body to the client and `buffer` and
//!   `timed_buffer` collect it, within the `budget` of all bodies. `stored` is the form of the head in an entry.
//! - A response: `rendered` has the head of a stored one ready to send, `response` selects all, a part, or a 304, and
//!   `status` tells the client in `Cache-Status` what the cache did.
//! - `session` lets clients read their own writes, and `scope` gives the layers around the cache a scope. `audit` has a
//!   stored response compared with the handler's, by `comparison`, and `explain` says how a request would be handled.
//!
//! A hit in memory takes no boxed future, no long-held lock, and no copy of the body.

mod audit;
mod body;
mod budget;
mod buffer;
mod bypass;
mod canonical;
mod comparison;
mod compute;
mod content;
mod context;
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
mod lookup;
mod pattern;
mod rendered;
mod response;
mod route;
mod routers;
mod rules;
mod scope;
mod service;
mod session;
mod settings;
mod status;
mod stored;
mod strict;
mod tee;
mod timed_buffer;
mod unmatched;
mod variances;
mod writes;

/// The key of a GET request.
#[cfg(feature = "__internals")]
pub(crate) fn key(
    uri: &http::Uri,
    headers: &http::HeaderMap,
    policy: &crate::cache::Policy,
) -> crate::entry::Key {
    keying::key(&keying::space("", ""), &keying::KeySource::from_parts(uri, headers), policy)
}

pub use body::Body;
#[cfg(feature = "admin")]
pub(crate) use explain::{Dependency, RequestExplanation, StoredExplanation};
pub use future::ResponseFuture;
pub use layer::CacheLayer;
pub use scope::{ScopeLayer, ScopeService};
pub use service::CacheService;
pub use session::Sessions;
#[cfg(feature = "admin")]
pub(crate) use settings::LayerSettings;
