//! Without the feature `wal`.

use sqlx::postgres::PgListener;

use super::changes::PublishedChanges;
use super::resume_point::ResumePoint;
use crate::postgres::database::Database;
use crate::postgres::log::Snapshot;

/// The stream of the changes of published tables, which this build can't read.
#[derive(Debug, Default)]
pub(crate) struct PublishedStream {
    unreported: PublishedChanges,
    is_expected: bool,
}

#[expect(clippy::unused_async, clippy::unused_self, reason = "as with the feature")]
impl PublishedStream {
    pub(super) async fn start(
        &mut self,
        _db: &Database,
        _conn: &mut PgListener,
        _read: Option<&Snapshot>,
    ) -> Result<(), sqlx::Error> {
        let why = "changes of some tables are read from the write-ahead log: enable the feature `wal` of tidegate, or have \
                   triggers record them (`tidegate install`)";
        Err(sqlx::Error::Configuration(why.into()))
    }

    pub(super) fn ended_at_once(&mut self) -> sqlx::Error {
        sqlx::Error::Protocol("there is no stream of changes".into())
    }

    pub(crate) fn stop(&mut self) {}

    pub(crate) async fn clean_up(&mut self, _conn: &mut PgListener) -> Result<(), sqlx::Error> {
        Ok(())
    }

    pub(crate) fn pause(&mut self) {}

    pub(crate) fn may_keep(&mut self, _may: bool) {}

    pub(crate) fn is_kept(&self) -> bool {
        false
    }

    pub(crate) fn point(&self) -> Option<&ResumePoint> {
        None
    }

    pub(crate) fn set_point(&mut self, _point: Option<ResumePoint>) {}

    pub(super) fn begin_cold(&mut self) {}

    pub(super) fn reach_point(&mut self) {}

    pub(super) fn is_resuming(&self) -> bool {
        false
    }

    pub(super) async fn resume(
        &mut self,
        _db: &Database,
        _conn: &mut PgListener,
        _read: &Snapshot,
    ) -> Result<bool, sqlx::Error> {
        Ok(false)
    }

    pub(crate) fn is_running(&self) -> bool {
        false
    }

    pub(crate) fn is_expected(&self) -> bool {
        self.is_expected
    }

    pub(super) fn expect(&mut self, published: bool) {
        self.is_expected = published;
    }

    pub(crate) fn is_due(&self) -> bool {
        false
    }

    pub(super) async fn watermark(&mut self, _conn: &mut PgListener) -> Result<bool, sqlx::Error> {
        Ok(false)
    }

    pub(super) fn unreported(&mut self) -> &mut PublishedChanges {
        &mut self.unreported
    }

    pub(crate) async fn changed(&mut self) {
        std::future::pending::<()>().await;
    }
}
