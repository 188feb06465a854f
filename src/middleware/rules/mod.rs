//! The rules of HTTP for caches, one file per topic, with the section of the RFC beside each rule.
//!
//! `fields` finds the relevant fields of a request, `directives` parses `Cache-Control`, and `targeted` parses fields
//! for specific caches. `identity` lists the headers that identify the client. `freshness` computes ages and lifetimes
//! from dates, which `http_date` parses. `request` reads what a request requires, and `storable` decides what may be
//! stored and for how long. `audience` decides which clients a response is for, and `vary` and `search_variance` which
//! requests. `precondition` and `range` evaluate conditional and range requests, and `validation` revalidates with the
//! origin. `unsafe_method` says what a write invalidates, `target` names what that is, and `groups` reads the tags that
//! a response names.
//!
//! All rules are those for a shared cache. Nothing here depends on the cache itself.

pub(super) mod audience;
pub(super) mod directives;
pub(super) mod fields;
pub(super) mod freshness;
pub(super) mod groups;
mod http_date;
pub(super) mod identity;
pub(super) mod list;
#[cfg(any(all(test, not(tidegate_loom), not(tidegate_shuttle)), fuzzing))]
#[cfg_attr(test, allow(clippy::unwrap_used))]
pub(super) mod oracle;
pub(super) mod precondition;
pub(super) mod range;
pub(super) mod request;
pub(super) mod search_variance;
pub(super) mod storable;
pub(super) mod target;
pub(super) mod targeted;
pub(super) mod unsafe_method;
pub(super) mod validation;
pub(super) mod vary;
