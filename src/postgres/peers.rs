//! The writes made outside any scope, by database: all `Database` values for the same database share them, and learn of a
//! new epoch together.

use std::sync::{Arc, Mutex, MutexGuard, Weak};

use futures_util::FutureExt;
use sqlx::pool::CloseEvent;

use super::database_inner::DatabaseInner;
use super::identity::DatabaseIdentity;
use crate::cache::Requirement;
use crate::sync::MutexExt;

/// One element for each database that the process has connected to. It remains when the last `Database` is dropped, since a
/// replica may still lack its writes.
static ALL: Mutex<Vec<PeerDatabase>> = Mutex::new(Vec::new());

struct PeerDatabase {
    identity: DatabaseIdentity,
    own_writes: Arc<Requirement>,
    peers: Vec<Peer>,
}

/// One `Database`.
struct Peer {
    inner: Weak<DatabaseInner>,
    /// The close event of the primary's pool. A transaction or a clone of the pool may outlive the `Database`.
    closed: CloseEvent,
}

/// Creates a `Database` that shares the writes made outside any scope with all others for the same database.
pub(super) fn join(
    identity: DatabaseIdentity,
    make: impl FnOnce(Arc<Requirement>) -> DatabaseInner,
) -> Arc<DatabaseInner> {
    let mut all = all();
    let shared = find(&mut all, identity);
    let inner = Arc::new(make(shared.own_writes.clone()));
    let closed = inner.primary.pool().close_event();
    shared.peers.retain_mut(|peer| !peer.is_gone());
    shared.peers.push(Peer { inner: Arc::downgrade(&inner), closed });
    inner
}

fn find(all: &mut Vec<PeerDatabase>, identity: DatabaseIdentity) -> &mut PeerDatabase {
    let at = all.iter().position(|shared| shared.identity == identity);
    let at = at.unwrap_or_else(|| {
        let own_writes = Arc::new(Requirement::for_process());
        all.push(PeerDatabase { identity, own_writes, peers: Vec::new() });
        all.len() - 1
    });
    &mut all[at]
}

/// Whether no connection is in use through which one of the `Database` values that share `own_writes` could write.
pub(super) fn are_pools_idle(own_writes: &Arc<Requirement>) -> bool {
    let mut all = all();
    let shares = |shared: &&mut PeerDatabase| Arc::ptr_eq(&shared.own_writes, own_writes);
    all.iter_mut().find(shares).is_none_or(|shared| shared.peers.iter_mut().all(Peer::is_idle))
}

/// Renews the primary's connections of every `Database` that shares `own_writes`.
pub(super) fn renew(own_writes: &Arc<Requirement>) {
    for shared in all().iter().filter(|shared| Arc::ptr_eq(&shared.own_writes, own_writes)) {
        let inners = shared.peers.iter().filter_map(|peer| peer.inner.upgrade());
        inners.for_each(|inner| inner.primary.renew());
    }
}

impl Peer {
    fn is_idle(&mut self) -> bool {
        match self.inner.upgrade() {
            Some(inner) => inner.primary.is_idle(),
            None => self.is_gone(),
        }
    }

    /// Whether neither the `Database` nor its pool is in use any more.
    fn is_gone(&mut self) -> bool {
        self.inner.strong_count() == 0 && (&mut self.closed).now_or_never().is_some()
    }
}

fn all() -> MutexGuard<'static, Vec<PeerDatabase>> {
    ALL.lock_unpoisoned()
}
