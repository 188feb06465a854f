//! The schema's fingerprint: a number that changes when anything changes in the schema that a result can depend on.
//!
//! If event triggers record schema changes (in `tidegate.ddl`, beside the log), a drain finds them, and the fingerprint
//! covers only what they can't record. Otherwise it covers the catalogue: each row's oid and the transaction that wrote it,
//! so that a change is found even if it was undone within a heartbeat. Changes that leave no row behind are not found this
//! way: an object that was created and dropped, or row security that was switched on and off, within a heartbeat.
//!
//! Temporary objects are left out, since any role may create them, and so is everything that no result shows: rights,
//! comments, indexes and statistics. Rights on schemas are covered, since a role's search path depends on them. TRUNCATE,
//! GRANT, ANALYZE and VACUUM of tables don't change the fingerprint. Without event triggers, GRANT on other objects does,
//! since it rewrites the row of a column, function, type or schema.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgListener, PgRow};

use super::deadline::{PATIENCE, STATEMENT_TIMEOUT, limit_statements, within, within_limit};
use super::sql_error::sql_state;
use crate::clock::{self, Instant, Moment};

#[cfg(test)]
mod tests;

/// How long reading the catalogue may take, if it takes long. It may be large, or locked by a command that changes it.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(30);

/// After the catalogue or the settings were read, they are not read again for this many times the duration of the read, but at most for
/// `MOST_REST`, since part of the read may have been a wait for a lock. So reading uses at most a tenth of a core of the
/// primary, if one read takes less than half a second.
const REST: u32 = 9;
const MOST_REST: Duration = Duration::from_secs(4);

/// The code of a statement that the server cancelled (`query_canceled`).
const CANCELLED: &str = "57014";

/// Within this time after a change of the fingerprint, each node has noticed it, or no longer confirms positions past the
/// change. It is longer than a typical read of the catalogue, the pause after it and a heartbeat together.
pub(crate) const FINGERPRINT_KNOWN_WITHIN: Duration = Duration::from_secs(15);

/// The part of that time reserved for using a fingerprint that was just checked to be current.
const MARGIN: Duration = Duration::from_secs(1);

/// The fingerprint, and the snapshot at which it was read. Start with a new one on each connection.
#[derive(Debug, Default)]
pub(crate) struct Fingerprint {
    last: Option<(String, i64)>,
    /// Until when the catalogue is not read again.
    rests: Option<Instant>,
    /// Until when the settings are not read again.
    settings_rest: Option<Instant>,
    /// When the last read began that determined the fingerprint as of then.
    read: Option<Moment>,
    /// Whether statements on the connection may take as long as reading the catalogue. A cancelled read leaves it so.
    is_unlimited: bool,
}

impl Fingerprint {
    /// The current fingerprint, or the one from the last read of the catalogue if that was very recent. Reads nothing if no
    /// transaction has ended since the last read.
    pub(crate) async fn read(&mut self, conn: &mut PgListener) -> Result<i64, sqlx::Error> {
        self.limit(conn).await?;
        let is_resting = self.settings_rest.is_some_and(|until| clock::now() < until);
        if let Some((_, number)) = self.last.as_ref().filter(|_| is_resting) {
            return Ok(*number);
        }
        let began = clock::moment();
        let row = self.read_settings(conn).await?;
        let unnoted: Option<i64> = row.try_get("unnoted")?;
        self.settings_rest = unnoted.map(|_| rest_after(began.elapsed()));
        let number = match (unnoted, &self.last) {
            (None, Some((_, number))) => {
                self.read = Some(began);
                return Ok(*number);
            }
            (unnoted, _) if row.try_get("noted")? => unnoted.unwrap_or_default(),
            (_, Some((_, number))) if self.rests.is_some_and(|until| clock::now() < until) => {
                return Ok(*number);
            }
            (unnoted, _) => unnoted.unwrap_or_default() ^ self.read_catalogue(conn).await?,
        };
        // The catalogue is read after this snapshot. If a transaction ends in between, the next snapshot differs, and the
        // catalogue is read again.
        self.last = Some((row.try_get("snapshot")?, number));
        self.read = Some(began);
        Ok(number)
    }

    /// Whether the fingerprint was read recently enough for positions that are seen now to count: see [`is_recent`].
    pub(crate) fn is_current(&self) -> bool {
        self.read.as_ref().is_some_and(is_recent)
    }

    async fn read_catalogue(&mut self, conn: &mut PgListener) -> Result<i64, sqlx::Error> {
        let began = clock::now();
        self.unlimit(conn).await?;
        let query = sqlx::query_scalar(include_str!("sql/catalog.sql"));
        // The server ends the statement earlier than this, so if it has not, it is gone.
        let number =
            within_limit(CATALOGUE_TIMEOUT + PATIENCE, query.fetch_one(&mut *conn)).await?;
        self.limit(conn).await?;
        let took = began.elapsed();
        if took > FINGERPRINT_KNOWN_WITHIN / 2 {
            tracing::warn!(
                ?took,
                "reading the catalogue takes so long that responses are not stored for part of the time: let event triggers \
                 record changes of the schema (`tidegate install` as a superuser)"
            );
        }
        self.rests = Some(rest_after(took));
        Ok(number)
    }

    /// Reads what event triggers can't record. If that takes so long that the server cancels it, it is given the time that
    /// the catalogue is given: otherwise each attempt would be cancelled.
    async fn read_settings(&mut self, conn: &mut PgListener) -> Result<PgRow, sqlx::Error> {
        let at = self.last.as_ref().map(|(snapshot, _)| snapshot.clone());
        let query = || sqlx::query(include_str!("sql/fingerprint.sql")).bind(at.clone());
        let read = within(query().fetch_one(&mut *conn)).await;
        if !read.as_ref().is_err_and(|error| sql_state(error).as_deref() == Some(CANCELLED)) {
            return read;
        }
        tracing::debug!("reading roles and their settings takes long");
        self.unlimit(conn).await?;
        let row = within_limit(CATALOGUE_TIMEOUT + PATIENCE, query().fetch_one(&mut *conn)).await?;
        self.limit(conn).await?;
        Ok(row)
    }

    /// Lets statements take as long as reading the catalogue may.
    async fn unlimit(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        self.is_unlimited = true;
        within(limit_statements(&mut *conn, CATALOGUE_TIMEOUT)).await
    }

    /// Restores the limit of statements.
    async fn limit(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        if self.is_unlimited {
            within(limit_statements(&mut *conn, STATEMENT_TIMEOUT)).await?;
            self.is_unlimited = false;
        }
        Ok(())
    }
}

/// The end of the pause after reading took this long.
fn rest_after(took: Duration) -> Instant {
    clock::now() + (took * REST).min(MOST_REST)
}

/// Whether so little time has passed since this moment that no other node has raised its floor for the second time yet, for
/// a change of the schema that came later than the moment.
pub(super) fn is_recent(moment: &Moment) -> bool {
    moment.elapsed() + MARGIN < FINGERPRINT_KNOWN_WITHIN
}
