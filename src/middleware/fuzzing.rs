//! The layer's parsers, for `crate::internals::fuzzing`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, Request, StatusCode, Uri};

use super::keying::{self, KeySource};
use super::rules::identity::IdentityHeaders;
pub use super::rules::oracle::{Case, Judged, compare as compare_rules, now};
use super::rules::request::RequestDirectives;
use super::rules::storable::{Times, cacheability};
use super::session::{SessionClaim, Sessions};
use crate::cache::Policy;
use crate::entry::{Entry, Key};

pub(crate) fn head(entry: Entry) {
    let entry = Arc::new(entry);
    let _ = super::rendered::is_rendered(&entry) || super::stored::vary_marker(&entry).is_ok();
}

pub(crate) fn key(uri: &Uri, headers: &HeaderMap, policy: &Policy) -> Key {
    keying::key(&keying::space("", ""), &KeySource::from_parts(uri, headers), policy)
}

pub(crate) fn may_store(status: StatusCode, headers: &HeaderMap, policy: &Policy) -> bool {
    let request = Request::new(axum::body::Body::empty());
    let times = Times { now: SystemTime::UNIX_EPOCH, delay: Duration::ZERO };
    let directives =
        RequestDirectives::new(&request, policy, &IdentityHeaders::default(), || false, None);
    directives
        .is_ok_and(|directives| cacheability(status, headers, &directives, policy, times).is_ok())
}

pub(crate) fn is_trusted(headers: &HeaderMap) -> bool {
    let sessions = Sessions::new("a secret that nobody guesses");
    sessions.is_ok_and(|sessions| matches!(sessions.read(headers), SessionClaim::Position { .. }))
}
