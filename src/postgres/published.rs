//! Tables whose changes are read from the write-ahead log, beside those that triggers record.
//!
//! The publication `tidegate` has these tables. A watermark of the stream is taken before each drain of the log. Every change
//! that was visible when the watermark was taken is in one of the two.

use sqlx::postgres::PgListener;

use super::database::Database;
use super::deadline::{is_late, within};
use super::log::{self, ChangeDetail, DrainMode, Drained, LoadedLog, Snapshot};
use crate::entry::Epoch;

mod changes;
#[cfg(feature = "wal")]
mod kept;
mod resume_point;
#[cfg(feature = "wal")]
mod stream;
#[cfg(not(feature = "wal"))]
mod without;

pub(crate) use changes::PublishedChanges;
pub(crate) use resume_point::ResumePoint;
#[cfg(feature = "wal")]
pub(crate) use stream::PublishedStream;
#[cfg(not(feature = "wal"))]
pub(crate) use without::PublishedStream;

/// When a node starts a stream of the changes of published tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamStart {
    /// When it begins to read the log.
    WithTheLog,
    /// The same if it takes no longer than a statement may, and otherwise with a drain.
    Soon,
    /// With the first drain after that: another node may read the stream for this one.
    WithADrain,
}

/// Where a drain begins, and its options.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DrainRequest<'a> {
    /// The snapshot of the previous drain.
    pub(crate) prev: &'a Snapshot,
    /// The epoch of that snapshot. If the log is of another one, only the log is read.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) mode: DrainMode,
}

/// A drain of the log, and the changes of published tables that complete it.
#[derive(Debug)]
pub(crate) struct PublishedDrain {
    pub(crate) log: Drained,
    pub(crate) published: PublishedChanges,
}

impl PublishedStream {
    /// Reads the log as [`log::drain`] does, and a watermark before it if any table is published.
    pub(crate) async fn drain(
        &mut self,
        db: &Database,
        conn: &mut PgListener,
        request: DrainRequest<'_>,
        detail: &mut ChangeDetail,
    ) -> Result<PublishedDrain, sqlx::Error> {
        let DrainRequest { prev, epoch, mode } = request;
        let mut has_started = false;
        loop {
            let is_running = self.watermark(conn).await?;
            let announce = mode.announce || self.unreported().has_changes();
            let log = log::drain(conn, prev, DrainMode { announce, ..mode }, detail).await?;
            if epoch.is_some_and(|epoch| epoch != log.epoch) {
                return Ok(PublishedDrain { log, published: PublishedChanges::default() });
            }
            if is_running || !log.published {
                // From here to the caller's use of it, nothing is awaited, so it can't be lost.
                let mut changes = std::mem::take(self.unreported());
                self.reach_point();
                if !log.published && (is_running || self.is_expected()) {
                    // What changed the publication may be younger than the watermark.
                    (changes.all, changes.is_altered) = (true, true);
                    self.stop();
                }
                self.expect(log.published);
                return Ok(PublishedDrain { log, published: changes });
            }
            if log.notify_suppressed {
                within(log::resume_notify(&mut *conn)).await?;
            }
            if has_started {
                return Err(self.ended_at_once());
            }
            self.start(db, conn, Some(prev)).await?;
            // A continued stream may have ended because of a message that it would have delivered.
            has_started = !self.is_resuming();
        }
    }

    /// Another node reads the stream for this one, and this is where it was.
    pub(crate) fn follow(&mut self, point: Option<ResumePoint>) {
        self.stop();
        self.expect(true);
        self.set_point(point);
    }

    /// Continues the stream of a relay that is gone from where it was after a drain that saw what `read` sees. Returns whether
    /// it can.
    pub(crate) async fn take_over(
        &mut self,
        db: &Database,
        conn: &mut PgListener,
        point: Option<ResumePoint>,
        read: &Snapshot,
    ) -> Result<bool, sqlx::Error> {
        self.follow(point);
        self.may_keep(true);
        self.resume(db, conn, read).await
    }

    async fn start_now(&mut self, db: &Database, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        self.start(db, conn, None).await?;
        match self.watermark(conn).await? {
            true => Ok(()),
            false => Err(self.ended_at_once()),
        }
    }

    /// Begins with the state at a node's start. If a table is published, it is not known what changed in it before, so
    /// everything that was stored before is invalid.
    pub(crate) async fn begin(
        &mut self,
        db: &Database,
        conn: &mut PgListener,
        loaded: LoadedLog,
        starts: StreamStart,
    ) -> Result<LoadedLog, sqlx::Error> {
        self.stop();
        self.begin_cold();
        self.expect(loaded.published);
        if !loaded.published {
            return Ok(loaded);
        }
        match starts {
            StreamStart::WithTheLog => Box::pin(self.start_now(db, conn)).await?,
            StreamStart::Soon => {
                if let Err(error) = within(Box::pin(self.start_now(db, conn))).await {
                    self.stop();
                    if is_late(&error) {
                        tracing::debug!(%error, "the stream of changes has not started yet: trying again");
                    } else {
                        tracing::warn!(%error, "the stream of changes can't be started: trying again");
                    }
                }
            }
            StreamStart::WithADrain => {}
        }
        let is_settling = loaded.is_settling;
        let cold = LoadedLog { is_settling, ..within(log::cold(conn)).await? };
        // The changes of the first watermark are older than this snapshot.
        *self.unreported() = PublishedChanges::default();
        Ok(cold)
    }
}
