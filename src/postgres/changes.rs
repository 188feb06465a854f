//! The change log as a stream, for observers.

use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::time::sleep;

use super::database::Database;
use super::deadline::within;
use super::error::DatabaseError;
use super::fingerprint::Fingerprint;
use super::listener::{check_notifications, connect};
use super::log::{self, ChangeDetail, DrainMode, Snapshot};
use super::published::{DrainRequest, PublishedDrain, PublishedStream, StreamStart};
use crate::entry::{Epoch, Position};

/// The maximum delay until a change without a notification is read.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// The same beside a stream, each of whose watermarks writes to the primary.
const STREAM_HEARTBEAT: Duration = Duration::from_secs(1);

/// A stream of the changes to tracked tables, as they become visible; for observers and other systems. The cache itself
/// does not use it.
///
/// ```no_run
/// # async fn example(db: tidegate::Database) -> Result<(), tidegate::DatabaseError> {
/// let mut changes = tidegate::Changes::follow(&db).await?;
/// loop {
///     let change = changes.next().await?;
///     println!("{} {:?}", change.fence, change.tags);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Changes {
    conn: PgListener,
    snapshot: Snapshot,
    schema: i64,
    fingerprint: Fingerprint,
    detail: ChangeDetail,
    published: PublishedStream,
    db: Database,
}

/// The changes that became visible between two reads of the log.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Change {
    /// The epoch of `fence`.
    pub epoch: Epoch,
    /// The fence: data that was read at an earlier position, and depends on one of the tags, may lack the change.
    pub fence: Position,
    /// The changed tags, without duplicates: a table, `table:column=value`, or a tag of the application's own. `table!`
    /// means that any row of the table may have changed, not only those with tags here.
    pub tags: Vec<String>,
    /// Anything may have changed: the schema was changed, changes were trimmed from the log before they were read, or there
    /// were too many of them.
    pub all: bool,
}

impl Changes {
    /// Follows the changes from now on, on a separate connection to the primary.
    ///
    /// # Errors
    ///
    /// As [`Listener::spawn`](crate::Listener::spawn).
    pub async fn follow(db: &Database) -> Result<Self, DatabaseError> {
        let mut conn = connect(db).await?;
        check_notifications(db, &mut conn).await?;
        let mut fingerprint = Fingerprint::default();
        let schema = fingerprint.read(&mut conn).await.map_err(DatabaseError::from_log)?;
        let mut published = PublishedStream::default();
        let loaded = async {
            let cold = within(log::cold(&mut conn)).await?;
            published.begin(db, &mut conn, cold, StreamStart::WithTheLog).await
        };
        let snapshot = loaded.await.map_err(DatabaseError::from_log)?.snapshot;
        let (detail, db) = (ChangeDetail::default(), db.clone());
        Ok(Self { conn, snapshot, schema, fingerprint, detail, published, db })
    }

    /// Waits for the next change. This is cancel safe: if the call is cancelled, no change is lost.
    ///
    /// # Errors
    ///
    /// If the connection is lost. Call [`follow`](Self::follow) again then; it does not return the changes made in between.
    pub async fn next(&mut self) -> Result<Change, DatabaseError> {
        loop {
            if let Some(change) = self.poll().await.map_err(DatabaseError::Log)? {
                return Ok(change);
            }
            let pause = if self.published.is_running() { STREAM_HEARTBEAT } else { HEARTBEAT };
            tokio::select! {
                notification = self.conn.try_recv() => {
                    let lost = || DatabaseError::Log(super::listener::connection_lost());
                    notification.map_err(DatabaseError::Log)?.ok_or_else(lost)?;
                }
                () = self.published.changed() => {}
                () = sleep(pause) => {}
            }
        }
    }

    async fn poll(&mut self) -> Result<Option<Change>, sqlx::Error> {
        let schema = self.fingerprint.read(&mut self.conn).await?;
        let (conn, detail) = (&mut self.conn, &mut self.detail);
        let mode = DrainMode::default();
        let request = DrainRequest { prev: &self.snapshot, epoch: None, mode };
        let drained = self.published.drain(&self.db, conn, request, detail).await?;
        let PublishedDrain { log: mut drained, published } = drained;
        published.add_to(&mut drained);
        let schema_changed = drained.schema_changed || schema != self.schema;
        let all = drained.is_all() || schema_changed;
        (self.snapshot, self.schema) = (drained.snapshot, schema);
        let change = Change { epoch: drained.epoch, fence: drained.fence, tags: drained.tags, all };
        Ok((change.all || !change.tags.is_empty()).then_some(change))
    }
}
