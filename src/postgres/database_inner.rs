//! The state that all clones of a `Database` share.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use super::dependencies::DependencyCache;
use super::identity::DatabaseIdentity;
use super::lag::Lag;
use super::monitor::Monitor;
use super::options::ConnectionSettings;
use super::server::Server;
use super::session::OwnSession;
use super::statements::Statements;
use crate::cache::Requirement;
use crate::expiring::ExpiringLock;

pub(crate) struct DatabaseInner {
    pub(crate) primary: Server,
    pub(crate) listen: Server,
    pub(crate) known: DependencyCache,
    pub(crate) statements: Statements,
    /// Held while a statement's dependencies are looked up in the background.
    pub(super) learning: ExpiringLock,
    /// The primary's database, as found at the first connection.
    pub(crate) identity: DatabaseIdentity,
    pub(crate) lag: Arc<Lag>,
    /// The writes made outside any scope, which reads outside any scope must see.
    pub(super) own_writes: Arc<Requirement>,
    pub(super) watch: Monitor,
    pub(super) replicas: RwLock<Vec<Replica>>,
    /// The number of statements sent to each replica, by name, including removed replicas: if a name is reused, its counter
    /// continues, as monitoring expects.
    pub(super) sent: Mutex<HashMap<Arc<str>, Arc<AtomicU64>>>,
    pub(super) settings: ConnectionSettings,
    pub(super) sample_every: Duration,
    pub(super) own_session: tokio::sync::Mutex<OwnSession>,
}

/// A replica in use.
pub(super) struct Replica {
    /// Distinguishes it from others: see [`ServerOptions::url`](super::options::ServerOptions::url).
    pub(super) url: String,
    pub(super) server: Arc<Server>,
    pub(super) _monitor: Monitor,
}
