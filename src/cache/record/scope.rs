//! What a record is opened with.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::{DatabaseId, EndedStrays, Record, Requirement};
use crate::cache::permit::Permit;
use crate::cache::template::PolicyTag;
use crate::entry::{Epoch, Position};
use crate::traffic::Traffic;

/// What a record is opened with.
#[derive(Debug, Default)]
pub(crate) struct RecordScope {
    pub(crate) tags: Vec<PolicyTag>,
    /// The database that the cache follows.
    pub(crate) database: DatabaseId,
    /// What the session has written there.
    pub(crate) session: Option<(Epoch, Position)>,
    /// The answer may be kept though reads are not known.
    pub(crate) untracked: bool,
    /// Reads are worth noting: there is an answer to keep, and a database that can invalidate it.
    pub(crate) followed: bool,
    /// How old what the node knows of changes may be for it to choose replicas by.
    pub(crate) max_staleness: Duration,
    /// Where what is read is noted for those who look on.
    pub(crate) watch: Option<Arc<Traffic>>,
    /// There is a policy by which the answer may be kept. Else the scope only passes on what it notes.
    pub(crate) is_kept: bool,
    pub(crate) kind: ScopeKind,
    /// Hashes of the keys whose answers are computed in it.
    pub(crate) keys: Vec<[u8; 32]>,
    /// What is computed in it holds this permit, until the fill gives it back.
    pub(crate) permit: Weak<Permit>,
    /// Reads and lookups in no scope that had ended when the lookup began that opens it.
    pub(crate) strays: Option<EndedStrays>,
}

/// Where a scope begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ScopeKind {
    /// With a value, within the present scope if there is one.
    #[default]
    Value,
    /// With a request to a layer, within the present scope if there is one.
    Request {
        /// It may write by other means than `Database`.
        may_write: bool,
    },
    /// With work that is part of nothing.
    Apart,
}

/// What the reads of a scope must see: what those of the outer one must, which hears of this one's session.
pub(super) fn requirement_of(
    scope: &RecordScope,
    outer: Option<&Record>,
) -> Option<Arc<Requirement>> {
    let may_write = scope.kind == ScopeKind::Request { may_write: true };
    match outer.and_then(Record::requirement) {
        Some(shared) => {
            scope.session.into_iter().for_each(|session| shared.join(scope.database, session));
            if may_write {
                shared.may_write();
            }
            Some(shared.clone())
        }
        None if scope.kind == ScopeKind::Value => None,
        None => Some(Arc::new(Requirement::new(scope.database, scope.session, may_write))),
    }
}

/// The reads and lookups in no scope that had ended when the work began. It began with what it is part of, which may
/// have spawned what it uses; but a job in the background may go on for as long as the process.
pub(super) fn strays_of(scope: &RecordScope, present: Option<&Record>) -> EndedStrays {
    let is_apart = |kind| kind == ScopeKind::Apart;
    let outer = present.filter(|outer| !is_apart(scope.kind) && !is_apart(outer.0.scope.kind));
    outer.map(|outer| outer.0.strays).or(scope.strays).unwrap_or_else(EndedStrays::now)
}
