//! Marks and trims the log. Failures here don't stop the listener.

use std::time::Duration;

use sqlx::postgres::PgListener;

use super::pace::HEARTBEAT;
use crate::clock::{self, Instant};
use crate::postgres::backoff::Backoff;
use crate::postgres::deadline::within;
use crate::postgres::log;

/// How often the log is marked, how long changes are retained for nodes that were disconnected, and how often old ones are
/// deleted.
pub(super) const MARK_EVERY: Duration = Duration::from_secs(5);
const RETENTION: Duration = Duration::from_hours(1);
const TRIM_EVERY: Duration = Duration::from_mins(1);

/// How many rows are deleted at a time. If there are more, the next batch follows with the next heartbeat, so that trimming
/// keeps up with the log's growth. The batch is smaller if the server cancels such a large one.
const AT_ONCE: i32 = 10_000;
const AT_ONCE_LEAST: i32 = 100;

/// The longest pause after a failure.
const LONGEST: Duration = Duration::from_mins(1);

/// The housekeeping of the log, once per heartbeat.
#[derive(Debug)]
pub(super) struct Housekeeping {
    mark: HousekeepingTask,
    trim: HousekeepingTask,
    at_once: i32,
}

/// One task of housekeeping, with a backoff of its own.
#[derive(Debug)]
struct HousekeepingTask {
    what: &'static str,
    due: Instant,
    backoff: Backoff,
}

impl Housekeeping {
    pub(super) fn new() -> Self {
        let now = clock::now();
        Self {
            mark: HousekeepingTask::new("marked", now),
            trim: HousekeepingTask::new("trimmed", now + TRIM_EVERY),
            at_once: AT_ONCE,
        }
    }

    #[cfg(test)]
    pub(super) fn trim_now(&mut self) {
        self.trim.due = clock::now();
    }

    /// Runs the tasks that are due.
    ///
    /// # Errors
    ///
    /// Only if the connection is lost. A task that the server refuses is tried again later.
    pub(super) async fn work(
        &mut self,
        conn: &mut PgListener,
        schema: Option<i64>,
    ) -> Result<(), sqlx::Error> {
        if self.mark.is_due() {
            let marked = within(log::mark(&mut *conn, MARK_EVERY, schema)).await;
            self.mark.ended(marked)?;
        }
        if self.trim.is_due() {
            let trimmed = within(log::trim(&mut *conn, RETENTION, self.at_once)).await;
            match self.trim.ended(trimmed)? {
                Some(has_more) => {
                    self.at_once = (self.at_once * 2).min(AT_ONCE);
                    self.trim.due =
                        clock::now() + if has_more { Duration::ZERO } else { TRIM_EVERY };
                }
                None => self.at_once = (self.at_once / 2).max(AT_ONCE_LEAST),
            }
        }
        Ok(())
    }
}

impl HousekeepingTask {
    fn new(what: &'static str, due: Instant) -> Self {
        Self { what, due, backoff: Backoff::new(HEARTBEAT, LONGEST) }
    }

    fn is_due(&self) -> bool {
        self.due <= clock::now()
    }

    /// Records a result: `None` if the server refused, which delays the next attempt.
    fn ended<T>(&mut self, result: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
        match result {
            Ok(done) => {
                self.backoff.reset();
                Ok(Some(done))
            }
            Err(error @ sqlx::Error::Database(_)) => {
                let again = self.backoff.pause();
                self.due = clock::now() + again;
                tracing::warn!(
                    %error, again_in = ?again,
                    "the change log could not be {}: see `tidegate status` and the server's log",
                    self.what
                );
                Ok(None)
            }
            Err(lost) => Err(lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_failing_housekeeping_task_is_retried_after_growing_pauses() {
        let mut task = HousekeepingTask::new("marked", clock::now());
        let refused = || Err::<(), _>(sqlx::Error::Database(Box::new(Refused)));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            assert!(task.is_due() && task.ended(refused()).unwrap().is_none());
            let failed = clock::now();
            while !task.is_due() {
                advance(HEARTBEAT).await;
            }
            pauses.push((clock::now() - failed).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(task.ended(Ok(3)).unwrap(), Some(3));
        assert!(
            task.ended::<()>(Err(sqlx::Error::WorkerCrashed)).is_err(),
            "the connection is lost"
        );
        task.ended(refused()).unwrap();
        assert!(task.due <= clock::now() + HEARTBEAT);
    }

    #[derive(Debug, thiserror::Error)]
    #[error("refused")]
    struct Refused;

    impl sqlx::error::DatabaseError for Refused {
        fn message(&self) -> &'static str {
            "refused"
        }

        fn as_error(&self) -> &(dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn as_error_mut(&mut self) -> &mut (dyn std::error::Error + Send + Sync + 'static) {
            self
        }

        fn into_error(self: Box<Self>) -> Box<dyn std::error::Error + Send + Sync + 'static> {
            self
        }

        fn kind(&self) -> sqlx::error::ErrorKind {
            sqlx::error::ErrorKind::Other
        }
    }
}
