//! Following the log of changes: the task that moves the fences.
//!
//! ```text
//!  connect → LISTEN → load, or drain from where we were → wait ─┐
//!     ↑                                                ↑        │ a notification, a session's
//!     └─────── any error ──────────────────────────────┴─ drain ┘ request, a writer at work, a heartbeat
//! ```
//!
//! A notification only triggers a drain. The log is authoritative, and a drain finds every change in it, even if
//! notifications were lost. While the task is disconnected nothing is confirmed, so the time since the last drain
//! exceeds what the policies allow, and the node bypasses its entries.
//!
//! If nodes share a store that has a `Bus`, one of them does this for all (`relay`), and the others apply the changes that
//! it broadcasts.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::database::Database;
use super::deadline::within;
use super::error::DatabaseError;
use super::identity::identity;
use super::link::{ListenerLink, PollCounter};
use super::published::StreamStart;
use super::relay::{Relay, RelayRole};
use crate::cache::{Cache, Fences};

mod connection;
mod follower;
mod housekeeping;
mod joining;
mod load;
mod pace;
mod poll;
mod recent_fences;
mod relay_state;
mod relaying;
mod sync_requests;
mod task;
#[cfg(test)]
mod tests;
mod wakeups;

pub(super) use connection::{check_notifications, connect, connection_lost};
use follower::Follower;

/// The background task that reads a database's change log and invalidates a cache's entries. A cache that uses Postgres
/// needs exactly one.
///
/// Dropping this handle leaves the task running; call [`stop`](Self::stop) to end it.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use tidegate::{Cache, DatabaseOptions, Listener, Memory};
///
/// let db = DatabaseOptions::new("postgres://app@primary.example/shop").connect().await?;
/// let cache = Cache::new(Memory::new(64 << 20));
/// let listener = Listener::spawn(&db, &cache).await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Listener {
    task: JoinHandle<()>,
    role: watch::Receiver<RelayRole>,
    counter: watch::Receiver<PollCounter>,
}

impl Listener {
    /// Connects to the primary, reads the change log, and follows it in a background task. When this returns, the cache can
    /// prove freshness and is in use.
    ///
    /// # Errors
    ///
    /// If the primary can't be reached; if the schema `tidegate` is missing or the role may not read it; if notifications
    /// do not arrive (as through a transaction-pooling proxy) or the listener's URL leads to another database; or if the
    /// cache already has a running listener.
    pub async fn spawn(db: &Database, cache: &Cache) -> Result<Self, DatabaseError> {
        let mut follower = Follower::new(db.clone(), cache.fences().clone());
        let mut conn = connect(db).await?;
        let database =
            within(identity(&mut conn)).await.map_err(DatabaseError::from_log)?.database();
        database.expect(db.inner.identity, db.inner.listen.label())?;
        check_notifications(db, &mut conn).await?;
        if cache.log().is_some_and(|log| log.has_ended()) {
            // A cache keeps each log that was attached to it. So after a failure, it gets another one only if that can be
            // read.
            let mut trial = Follower::new(db.clone(), Arc::new(Fences::new(0)));
            trial.starts_stream = StreamStart::WithADrain;
            trial.catch_up(&mut conn).await.map_err(DatabaseError::from_log)?;
        }
        let link = ListenerLink::new(
            db.clone(),
            follower.poll_requests.clone(),
            follower.counter.subscribe(),
        );
        cache.attach(Arc::new(link)).map_err(|_second| DatabaseError::Attached)?;
        if cache.bus().is_some() {
            follower.starts_stream = StreamStart::WithADrain;
        }
        // The relay comes first, since another node may share its checkpoint.
        follower.relay = cache.bus().map(|bus| Relay::start(bus, &db.name()));
        follower.catch_up(&mut conn).await.map_err(DatabaseError::from_log)?;
        let (role, counter) = (follower.role.subscribe(), follower.counter.subscribe());
        let closed = db.inner.primary.pool().close_event();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = closed => {}
                () = follower.run(conn) => {}
            }
        });
        Ok(Self { task, role, counter })
    }

    /// Whether this node currently reads the log for itself, relays it to other nodes, or follows a relay.
    pub fn role(&self) -> RelayRole {
        *self.role.borrow()
    }

    /// The number of times that this node has read the log on the primary.
    pub fn polls(&self) -> u64 {
        self.counter.borrow().polls
    }

    /// Stops the listener. The cache still serves entries for the `max_staleness` of each policy, and is bypassed after
    /// that.
    pub fn stop(self) {
        self.task.abort();
    }
}
