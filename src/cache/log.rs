//! The source of changes, as the cache sees it.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;

use super::record::{DatabaseId, Requirement};
use crate::entry::{Epoch, Position};

/// A database whose changes move the fences; `Listener` attaches one.
///
/// A cache without one is its own: `Cache::invalidate` moves the fences directly.
pub(crate) trait Log: Debug + Send + Sync + 'static {
    /// A position at or past every commit that is visible now: a session's token after a write.
    fn position(&self) -> BoxFuture<'_, Result<(Epoch, Position), LogError>>;

    /// Which database it is of.
    fn database(&self) -> DatabaseId {
        DatabaseId::default()
    }

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

    /// Whether nobody follows the log for this any more: another may be attached in its place.
    fn has_ended(&self) -> bool {
        false
    }

    /// Follows the log until it is known up to `position`. Shared by all who ask at once.
    fn catch_up(&self, position: Position) -> BoxFuture<'_, Result<(), LogError>>;

    /// Writes a change to these tags into the log, for every node.
    fn invalidate(&self, tags: Vec<String>) -> BoxFuture<'_, Result<(), LogError>>;
}

/// The log of a cache: the last one attached. Those before it have ended, and stay in place, so that reading which one it
/// is takes no lock.
#[derive(Debug, Default)]
pub(super) struct AttachedLog(OnceLock<Box<LogAttachment>>);

#[derive(Debug)]
struct LogAttachment {
    log: Arc<dyn Log>,
    next: AttachedLog,
}

impl AttachedLog {
    pub(super) fn log(&self) -> Option<&Arc<dyn Log>> {
        let mut last = self.0.get()?;
        while let Some(next) = last.next.0.get() {
            last = next;
        }
        Some(&last.log)
    }

    /// Attaches a log, unless there is one that has not ended.
    pub(super) fn attach(&self, log: Arc<dyn Log>) -> Result<(), Arc<dyn Log>> {
        let mut end = self;
        while let Some(attachment) = end.0.get() {
            end = &attachment.next;
            if end.0.get().is_none() && !attachment.log.has_ended() {
                return Err(log);
            }
        }
        let attachment = Box::new(LogAttachment { log, next: Self::default() });
        end.0.set(attachment).map_err(|another| another.log)
    }
}

/// Why the log could not be asked.
#[derive(Debug, thiserror::Error)]
#[error("the database's log of changes could not be reached")]
pub struct LogError(#[source] pub Box<dyn Error + Send + Sync>);
