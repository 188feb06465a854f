//! The options of a lookup.

use std::sync::Arc;

use super::freshness::AgeLimits;
use super::observer::ReadObserver;
use super::record::{Arrival, EndedUnscopedReads, UnscopedRead};
use super::template::PolicyTag;
use crate::entry::{Entry, LogPosition};
use crate::store::Found;

/// What a look in memory found under a key.
#[derive(Clone, Debug, Default)]
pub(crate) enum Peeked {
    /// Nobody has looked.
    #[default]
    Unknown,
    Absent,
    /// An entry that takes more than a look to serve, if it can be served at all.
    Found(Found),
}

/// The options of a lookup, in addition to the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct LookupOptions {
    pub(crate) tags: Vec<PolicyTag>,
    /// The session's last write: the entry must include everything up to this position.
    pub(crate) session: Option<LogPosition>,
    /// How old or stale an entry the client accepts.
    pub(crate) limits: AgeLimits,
    /// Who learns what is read.
    pub(crate) observer: Option<Arc<dyn ReadObserver>>,
    /// Checks that an entry contains a value of the requested type; `None` if every entry under the key does.
    pub(crate) holds: Option<fn(&Entry) -> bool>,
    /// What was in memory under the key a moment ago. The lookup begins with it, and looks in memory again only under the
    /// key's flight.
    pub(crate) peeked: Peeked,
    /// This is a request to a layer. Unless it is made within another scope, it need not see the process's own writes.
    pub(crate) is_request: bool,
    /// The request identifies its client, so the response may be for this client alone.
    pub(crate) is_identified: bool,
    /// Reads and lookups outside any scope that had ended before this call; if `None`, they are counted when the lookup
    /// begins.
    pub(crate) unscoped_reads: Option<EndedUnscopedReads>,
    /// When the call that includes this lookup began; `None` if it begins with the lookup.
    pub(crate) arrival: Option<Arrival>,
}

impl LookupOptions {
    /// The options of a request to a layer.
    pub(crate) fn for_request(session: Option<LogPosition>) -> Self {
        Self { session, is_request: true, ..Self::default() }
    }

    /// The options of a value's lookup. `unscoped` is its mark if the lookup is outside any scope.
    pub(crate) fn for_value(unscoped: Option<&UnscopedRead>) -> Self {
        Self { unscoped_reads: Some(EndedUnscopedReads::within(unscoped)), ..Self::default() }
    }
}
