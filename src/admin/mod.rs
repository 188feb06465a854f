//! The page for operators.
//!
//! [`Admin`] builds a router to mount beside a service's own: `state` has what the page shows, and `router` the paths.
//! `access` and `limit` control who may use it and how often, `status` shows the node's state, `changes` the recent
//! changes, `history` the last quarter of an hour, and `explain` how the cache would handle a request. `suggest` shows what is worth caching, `switch` has the
//! operators' actions, and `page` is the HTML for people. Programs get the same data as JSON, terminals as text.

mod access;
mod changes;
mod explain;
mod history;
mod limit;
mod page;
#[cfg(feature = "postgres")]
mod primary;
mod respond;
mod router;
mod samples;
mod state;
mod status;
mod suggest;
mod switch;

pub use router::TokenError;
pub use state::Admin;
