//! Whether the schema is what it was: a number that is another one when anything is that a result can depend on.
//!
//! Where event triggers note changes of the schema in the log's company (`tidegate.ddl`), a drain finds them, and the
//! number only stands for what they can't note. Elsewhere it is made of the catalogue: of each row's oid and of the
//! transaction that wrote it, so that a change is found that was undone within a heartbeat. What leaves no row behind is
//! not found so: an object that came and went, and row security that was on for that long.
//!
//! Left out are temporary objects, which any role may make, and what no result shows: rights, comments, indexes and
//! statistics. Rights on schemas count, since a role's search path depends on them. TRUNCATE, GRANT, ANALYZE and VACUUM of
//! tables do not change the number. Without event triggers GRANT on other things than tables does: it writes the row of a
//! column, function, type or schema anew.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::PgListener;

use super::deadline::{PATIENCE, within, within_limit};
use super::log::{STATEMENT_TIMEOUT, limit_statements};
use crate::clock::{self, Instant, Moment};

#[cfg(test)]
mod tests;

/// How long reading the catalogue may take. It may be large, or locked by a command that changes it.
const CATALOGUE_TIMEOUT: Duration = Duration::from_secs(30);

/// For how many times as long as reading the catalogue took it is not read again, and for how long at most, since some of
/// that may have been a wait for a lock: a tenth of a core of the primary, while reading takes less than half a second.
const REST: u32 = 9;
const MOST_REST: Duration = Duration::from_secs(4);

/// How long after a change of the number each node knows of it, or no longer takes what it sees of the log for newer than the
/// change. Longer than a read of the catalogue mostly takes and its rest, and a heartbeat.
pub(crate) const FINGERPRINT_KNOWN_WITHIN: Duration = Duration::from_secs(15);

/// Of that, what is left for a number to be used by whoever has just found it to be known.
const MARGIN: Duration = Duration::from_secs(1);

/// The number, and the snapshot that it was read at. To be begun anew on each connection.
#[derive(Debug, Default)]
pub(crate) struct Fingerprint {
    last: Option<(String, i64)>,
    /// Until when the catalogue is not read again.
    rests: Option<Instant>,
    /// When the last read began that found the number as it was then.
    read: Option<Moment>,
}

impl Fingerprint {
    /// The number as it is now, or was when the catalogue was read a moment ago. Reads nothing if no transaction has ended
    /// since it was last read.
    pub(crate) async fn read(&mut self, conn: &mut PgListener) -> Result<i64, sqlx::Error> {
        let began = clock::moment();
        let at = self.last.as_ref().map(|(snapshot, _)| snapshot.as_str());
        let query = sqlx::query(include_str!("sql/fingerprint.sql")).bind(at);
        let row = within(query.fetch_one(&mut *conn)).await?;
        let unnoted: Option<i64> = row.try_get("unnoted")?;
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
        // The catalogue is read later than this snapshot is taken. It is the same only if nothing came between.
        self.last = Some((row.try_get("snapshot")?, number));
        self.read = Some(began);
        Ok(number)
    }

    /// Whether the number was read so lately that no other node counts on this one to know of a later change.
    pub(crate) fn is_current(&self) -> bool {
        self.read.is_some_and(|read| read.elapsed() + MARGIN < FINGERPRINT_KNOWN_WITHIN)
    }

    async fn read_catalogue(&mut self, conn: &mut PgListener) -> Result<i64, sqlx::Error> {
        let began = clock::now();
        within(limit_statements(&mut *conn, CATALOGUE_TIMEOUT)).await?;
        let query = sqlx::query_scalar(include_str!("sql/catalog.sql"));
        // Longer than the server would spend on it: the server is gone.
        let number =
            within_limit(CATALOGUE_TIMEOUT + PATIENCE, query.fetch_one(&mut *conn)).await?;
        within(limit_statements(&mut *conn, STATEMENT_TIMEOUT)).await?;
        self.rests = Some(clock::now() + (began.elapsed() * REST).min(MOST_REST));
        Ok(number)
    }
}
