//! The rules of HTTP for caches, one file per topic, with the section of the RFC beside each rule.
//!
//! `fields` finds the relevant fields of a request, `directives` parses `Cache-Control`, and `targeted` parses fields
//! for specific caches. `identity` lists the headers that identify the client, `cookies` parses cookies, and
//! `session_cookie` recognizes those that do not identify the client. `freshness` computes ages and lifetimes from dates,
//! which `http_date` parses. `request` reads what a request requires, and `storable` decides what may be stored and for
//! how long. `audience` decides which clients a response is for, and `vary` and `search_variance` which requests.
//! `precondition` and `range` evaluate conditional and range requests, and `validation` revalidates with the origin.
//! `unsafe_method` says what a write invalidates, `target` names what that is, and `groups` reads the tags that a
//! response names.
//!
//! All rules are those for a shared cache. None of them looks up or stores an entry, and none needs a file beside this
//! folder. Of `crate::cache`, they use the [`Policy`](crate::Policy) as input, and `Freshness`, `AgeLimits`, `PolicyTag`
//! and `Uncacheable` as results; `groups` also marks a `Record` whose tags are unknown. Only the test `oracle` asks the
//! protocol for a verdict.

pub(super) mod audience;
pub(super) mod cookies;
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
pub(super) mod session_cookie;
pub(super) mod storable;
pub(super) mod target;
pub(super) mod targeted;
pub(super) mod unsafe_method;
pub(super) mod validation;
pub(super) mod vary;
