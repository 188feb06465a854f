//! What the cache asks of the database.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, watch};

use super::database::Database;
use crate::cache::{Log, LogError, Requirement};
use crate::entry::{Epoch, Position};

/// Looks at the log, counted: one that is done tells of everything before it was begun.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turns {
    pub(crate) begun: u64,
    pub(crate) done: u64,
    /// How many were looks at the primary.
    pub(crate) looks: u64,
}

/// The way from the cache to its listener and the primary.
pub(crate) struct Link {
    db: Database,
    asked: Arc<Notify>,
    turns: watch::Receiver<Turns>,
}

impl Link {
    pub(crate) fn new(db: Database, asked: Arc<Notify>, turns: watch::Receiver<Turns>) -> Self {
        Self { db, asked, turns }
    }

    /// Waits for a look that has not begun yet. Everyone who waits shares it.
    async fn look(&self) -> Result<(), LogError> {
        let mut turns = self.turns.clone();
        let next = turns.borrow().begun + 1;
        self.asked.notify_one();
        let ended = turns.wait_for(|turns| turns.done >= next).await;
        ended.map(drop).map_err(|stopped| LogError(stopped.into()))
    }
}

impl Log for Link {
    fn position(&self) -> BoxFuture<'_, Result<(Epoch, Position), LogError>> {
        Box::pin(async { self.db.observe().await.map_err(|error| LogError(error.into())) })
    }

    fn own_writes(&self) -> Option<&Arc<Requirement>> {
        Some(&self.db.inner.own_writes)
    }

    fn connections(&self) -> Option<usize> {
        usize::try_from(self.db.inner.limits.connections).ok()
    }

    fn has_ended(&self) -> bool {
        // The task that follows the log keeps the other end: it was stopped, or its runtime was.
        self.turns.has_changed().is_err()
    }

    fn catch_up(&self, _position: Position) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(self.look())
    }

    fn invalidate(&self, tags: Vec<String>) -> BoxFuture<'_, Result<(), LogError>> {
        Box::pin(async move {
            self.db.invalidate(tags).await.map_err(|error| LogError(error.into()))?;
            // Here at least, it is done when this returns.
            self.look().await
        })
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}
