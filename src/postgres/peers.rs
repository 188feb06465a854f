//! The `Database`s of this process that are of one database: code in no scope finds what it wrote by any of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use super::database::Inner;
use super::log::DatabaseIdentity;
use crate::cache::Requirement;

static ALL: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

/// Makes a `Database` that shares what is written in no scope with those of the same database.
pub(super) fn join(
    identity: DatabaseIdentity,
    make: impl FnOnce(Arc<Requirement>) -> Inner,
) -> Arc<Inner> {
    let mut all = all();
    all.retain(|one| one.strong_count() > 0);
    let mut others = all.iter().filter_map(Weak::upgrade);
    let peer = others.find(|other| other.identity == identity);
    let own = peer.map(|peer| peer.own_writes.clone());
    drop(others);
    let inner = Arc::new(make(own.unwrap_or_else(|| Arc::new(Requirement::of_process()))));
    all.push(Arc::downgrade(&inner));
    inner
}

/// Whether no connection is in use by which any of those could write that share what is written in no scope.
pub(super) fn are_pools_idle(own_writes: &Arc<Requirement>) -> bool {
    let shares = |one: &Arc<Inner>| Arc::ptr_eq(&one.own_writes, own_writes);
    let of_these = all().iter().filter_map(Weak::upgrade).filter(shares).collect::<Vec<_>>();
    of_these.iter().all(|one| one.primary.is_idle())
}

fn all() -> MutexGuard<'static, Vec<Weak<Inner>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}
