//! The cache's link to the database.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::database::Database;
use super::deadline::PATIENCE;
use crate::cache::{DatabaseId, Log, LogError, Requirement};
use crate::entry::{Epoch, LogPosition, Position};

/// Counts the polls of the log. A completed poll has seen every change that was visible when it began.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PollCounter {
    pub(crate) begun: u64,
    pub(crate) done: u64,
    /// The number of polls on the primary.
    pub(crate) polls: u64,
    /// The connection to the log is lost, and no attempt to reconnect has succeeded yet.
    pub(crate) is_lost: bool,
    /// The number of connections to the log that were begun, and of the last one over which the log was read.
    pub(crate) opening: u64,
    pub(crate) opened: u64,
    /// The epoch that is followed.
    pub(crate) epoch: Epoch,
}

/// Connects the cache to its listener and the primary.
pub(crate) struct ListenerLink {
    db: Database,
    requests: Arc<PollRequests>,
    counter: watch::Receiver<PollCounter>,
    has_warned: AtomicBool,
}

/// The polls and connections that the cache requests from its listener.
#[derive(Debug, Default)]
pub(crate) struct PollRequests {
    pub(crate) poll: Notify,
    /// The number of the connection over which a session requires the log to be read: see [`PollCounter::opening`].
    connection: AtomicU64,
    pub(crate) reconnect: Notify,
}

impl PollRequests {
    /// Whether a connection is wanted that was not begun when `opening` connections were.
    pub(crate) fn wants_connection(&self, opening: u64) -> bool {
        self.connection.load(Ordering::Acquire) > opening
    }
}

impl ListenerLink {
    pub(crate) fn new(
        db: Database,
        requests: Arc<PollRequests>,
        counter: watch::Receiver<PollCounter>,
    ) -> Self {
        Self { db, requests, counter, has_warned: AtomicBool::new(false) }
    }

    fn follows(&self, epoch: Epoch) -> bool {
        self.counter.borrow().epoch == epoch
    }

    /// Waits until the log has been read over a connection that was opened after this call.
    async fn reconnect(&self) -> Result<(), LogError> {
        let mut counter = self.counter.clone();
        let next = counter.borrow().opening + 1;
        self.requests.connection.fetch_max(next, Ordering::AcqRel);
        self.requests.reconnect.notify_one();
        let opened = counter.wait_for(|counter| counter.opened >= next).await;
        opened.map(drop).map_err(|stopped| LogError(stopped.into()))
    }

    /// Waits until a poll that has not begun yet is completed, or until `is_abandoned`. All waiters share the poll.
    async fn poll_unless(&self, is_abandoned: fn(&PollCounter) -> bool) -> Result<(), LogError> {
        let mut counter = self.counter.clone();
        let next = counter.borrow().begun + 1;
        self.requests.poll.notify_one();
        let ended = counter.wait_for(|counter| counter.done >= next || is_abandoned(counter)).await;
        ended.map(drop).map_err(|stopped| LogError(stopped.into()))
    }
}

impl Log for ListenerLink {
    fn position(&self) -> BoxFuture<'_, Result<LogPosition, LogError>> {
        Box::pin(async { self.db.observe().await.map_err(|error| LogError(error.into())) })
    }

    fn database(&self) -> DatabaseId {
        self.db.id()
    }

    fn own_writes(&self) -> Option<&Arc<Requirement>> {
        Some(&self.db.inner.own_writes)
    }

    fn connections(&self) -> Option<usize> {
        usize::try_from(self.db.inner.primary.limits.connections).ok()
    }

    fn has_ended(&self) -> bool {
        // The listener's task holds the sender: if it is dropped, the listener or its runtime was stopped.
        self.counter.has_changed().is_err()
    }

    fn warn_if_ended(&self) {
        if self.has_ended() && !self.has_warned.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                server = self.db.inner.listen.label(),
                "nothing follows the change log any more, since the listener was stopped or its runtime has ended: \
                 requests bypass the cache until Listener::spawn is called again"
            );
        }
    }

    fn catch_up(&self, _position: Position) -> BoxFuture<'_, Result<(), LogError>> {
        // No limit here: the policy determines how long a request waits.
        Box::pin(self.poll_unless(|_| false))
    }

    fn catch_up_anew(&self) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async {
            let probed = self.db.inner.listen.probe().await;
            let epoch = probed.map_err(|error| LogError(error.into()))?;
            if self.follows(epoch) {
                return self.poll_unless(|_| false).await;
            }
            self.reconnect().await?;
            match self.follows(epoch) {
                true => Ok(()),
                // Its name alternates between two servers.
                false => Err(LogError(
                    "the new connection leads to another epoch than the previous connection".into(),
                )),
            }
        })
    }

    fn invalidate(&self, tags: Vec<String>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            self.db.invalidate(tags).await.map_err(|error| LogError(error.into()))?;
            // On this node, the invalidation is effective when this returns, unless the node can't poll now. The row is in
            // the log: a later poll finds it, and until then entries are served for at most `max_staleness`.
            let polled = timeout(PATIENCE, self.poll_unless(|counter| counter.is_lost)).await;
            if !matches!(polled, Ok(Ok(()))) {
                tracing::debug!("an invalidation is in the log, and this node has not seen it yet");
            }
            Ok(())
        })
    }
}

impl fmt::Debug for ListenerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListenerLink").finish_non_exhaustive()
    }
}
