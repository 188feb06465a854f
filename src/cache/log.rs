//! The source of changes that a cache follows.

use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use futures_util::future::BoxFuture;

use super::record::{DatabaseId, Requirement};
use crate::entry::{LogPosition, Position};

/// A database whose changes raise the fences; `Listener` attaches one.
///
/// In a cache without one, `Cache::invalidate` raises the fences directly.
pub(crate) trait Log: Debug + Send + Sync + 'static {
    /// A position at or past every commit that is visible now. After a write, it becomes the session's token.
    fn position(&self) -> BoxFuture<'_, Result<LogPosition, LogError>>;

    /// The database that has the log.
    fn database(&self) -> DatabaseId {
        DatabaseId::default()
    }

    /// The requirement that covers the process's own writes outside any scope, if they are tracked.
    #[doc(hidden)]
    fn own_writes(&self) -> Option<&Arc<Requirement>> {
        None
    }

    /// The most connections that reads may use at a time, if there is a limit.
    #[cfg(feature = "postgres")]
    #[doc(hidden)]
    fn connections(&self) -> Option<usize> {
        None
    }

    /// Whether nothing follows the log any more, so that another one may be attached in its place.
    #[cfg(feature = "postgres")]
    fn has_ended(&self) -> bool {
        false
    }

    /// Logs a warning, once, if nothing follows the log any more.
    fn warn_if_ended(&self) {}

    /// Follows the log up to `position`. Concurrent callers share the work.
    fn catch_up(&self, position: Position) -> BoxFuture<'_, Result<(), LogError>>;

    /// Like [`catch_up`](Self::catch_up), but first opens a connection to see which primary the name leads to now, and
    /// follows the log of that one. Concurrent callers share the work.
    fn catch_up_anew(&self) -> BoxFuture<'_, Result<(), LogError>>;

    /// Writes a change to these tags into the log, for every node.
    fn invalidate(&self, tags: Vec<String>) -> BoxFuture<'_, Result<(), LogError>>;
}

/// The log of a cache: the last one that was attached. Earlier ones have ended and remain in this list, so that reading
/// the last one takes no lock.
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
}

#[cfg(feature = "postgres")]
impl AttachedLog {
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

    /// How many logs have been attached.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.0.get().map_or(0, |attachment| 1 + attachment.next.count())
    }
}

/// The change log could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("the database's change log could not be read or written: run `tidegate doctor`")]
pub struct LogError(#[source] pub Box<dyn Error + Send + Sync>);
