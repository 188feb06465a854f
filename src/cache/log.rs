//! The source of changes, as the cache sees it.

use std::error::Error;
use std::fmt::Debug;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::record::Requirement;
use crate::entry::{Epoch, Position};

/// A database whose changes move the fences; `Listener` attaches one.
///
/// A cache without one is its own: `Cache::invalidate` moves the fences directly.
pub(crate) trait Log: Debug + Send + Sync + 'static {
    /// A position at or past every commit that is visible now: a session's token after a write.
    fn position(&self) -> BoxFuture<'_, Result<(Epoch, Position), LogError>>;

    /// What the process has written to the database outside of any scope, if anybody keeps count.
    #[doc(hidden)]
    fn own_writes(&self) -> Option<&Arc<Requirement>> {
        None
    }

    /// How many connections reads may use at a time, if anybody says.
    #[doc(hidden)]
    fn connections(&self) -> Option<usize> {
        None
    }

    /// Follows the log until it is known up to `position`. Shared by all who ask at once.
    fn catch_up(&self, position: Position) -> BoxFuture<'_, Result<(), LogError>>;

    /// Writes a change to these tags into the log, for every node.
    fn invalidate(&self, tags: Vec<String>) -> BoxFuture<'_, Result<(), LogError>>;
}

/// Why the log could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the database's log of changes could not be reached")]
pub struct LogError(#[source] pub Box<dyn Error + Send + Sync>);
