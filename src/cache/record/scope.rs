//! The settings of a record's scope.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::requirement::{DatabaseId, Requirement};
use super::unscoped::EndedUnscopedReads;
use crate::cache::observer::ReadObserver;
use crate::cache::permit::Permit;
use crate::cache::template::PolicyTag;
use crate::entry::LogPosition;

/// The settings with which a record is opened.
#[derive(Debug, Default)]
pub(crate) struct RecordScope {
    pub(crate) tags: Vec<PolicyTag>,
    /// The database that the cache follows.
    pub(crate) database: DatabaseId,
    /// The position of the session's last write there.
    pub(crate) session: Option<LogPosition>,
    /// The response may be stored even if not all of its reads are known.
    pub(crate) untracked: bool,
    /// Reads are recorded, since the response may be stored and a database can invalidate it.
    pub(crate) followed: bool,
    /// How long ago the last drain may be for the node to choose replicas by what it knows.
    pub(crate) max_staleness: Duration,
    /// Who learns what is read.
    pub(crate) observer: Option<Arc<dyn ReadObserver>>,
    /// There is a policy, so the result may be stored. Otherwise the scope only passes its records on.
    pub(crate) is_kept: bool,
    pub(crate) kind: ScopeKind,
    /// Hashes of the keys that are computed in this scope.
    pub(crate) keys: Vec<[u8; 32]>,
    /// The permit of the fill, which inner lookups share until the fill releases it.
    pub(crate) permit: Weak<Permit>,
    /// Reads and lookups outside any scope that had ended when the lookup that opens this scope began.
    pub(crate) unscoped_reads: Option<EndedUnscopedReads>,
}

/// What opens a scope.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ScopeKind {
    /// The computation of a value, within the current scope if there is one.
    #[default]
    Value,
    /// A request to a layer, within the current scope if there is one.
    Request {
        /// The request may write without `Database`.
        may_write: bool,
    },
    /// Work that is not part of any other scope.
    Apart,
}

impl RecordScope {
    /// The requirement of this scope: the outer scope's, to which this scope's session is added, or a new one.
    pub(super) fn requirement(&self, outer: Option<&Arc<Requirement>>) -> Option<Arc<Requirement>> {
        let may_write = self.kind == ScopeKind::Request { may_write: true };
        match outer {
            Some(shared) => {
                self.session.into_iter().for_each(|session| shared.join(self.database, session));
                if may_write {
                    shared.may_write();
                }
                Some(shared.clone())
            }
            None if self.kind == ScopeKind::Value => None,
            None => Some(Arc::new(Requirement::new(self.database, self.session, may_write))),
        }
    }
}
