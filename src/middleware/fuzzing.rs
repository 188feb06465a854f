//! The layer's parsers, for `crate::fuzzing`.

use http::{HeaderMap, StatusCode, Uri};

use super::session::{Claim, Sessions};
use crate::cache::Policy;
use crate::entry::{Entry, Key};

pub(crate) fn head(entry: &Entry) {
    let _ = super::stored::is_readable(entry);
}

pub(crate) fn key(uri: &Uri, headers: &HeaderMap, policy: &Policy) -> Key {
    super::keying::key("", uri, headers, policy)
}

pub(crate) fn may_store(status: StatusCode, headers: &HeaderMap, policy: &Policy) -> bool {
    super::storable::may_store(status, headers, policy).is_ok()
}

pub(crate) fn is_trusted(headers: &HeaderMap) -> bool {
    let sessions = Sessions::new("a secret that nobody guesses");
    sessions.is_ok_and(|sessions| matches!(sessions.read(headers), Claim::Position(..)))
}
