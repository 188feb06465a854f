//! What HTTP says of caches, one file to a topic, each rule with its section beside it.
//!
//! `fields` finds what a request has of all this, `directives` reads `Cache-Control`, `targeted` the fields that are for
//! some caches only. `identity` knows the headers that say who the client is. `freshness` computes ages and lifetimes from
//! dates, which `http_date` reads; `storable` says what may be stored and for how long; `vary` and `search_variance` which
//! requests a response is for. `precondition` and `range` read what a client has or wants of it, and `validation` asks the
//! origin whether it still holds. `unsafe_method` says what a write invalidates, and `groups` reads the names by which a
//! response says what it depends on.
//! All of it is for a shared cache. Nothing here knows the cache itself.

pub(super) mod directives;
pub(super) mod fields;
pub(super) mod freshness;
pub(super) mod groups;
mod http_date;
pub(super) mod identity;
pub(super) mod list;
#[cfg(all(test, not(tidegate_loom), not(tidegate_shuttle)))]
#[allow(clippy::unwrap_used)]
mod oracle;
pub(super) mod precondition;
pub(super) mod range;
pub(super) mod request;
pub(super) mod search_variance;
pub(super) mod storable;
pub(super) mod targeted;
pub(super) mod unsafe_method;
pub(super) mod validation;
pub(super) mod vary;
