//! Whether the schema is what it was: a number that is another one when anything is that a result can depend on.
//!
//! Where event triggers note changes of the schema in the log's company (`tidegate.ddl`), a drain finds them, and the
//! number only stands for what they can't note. Elsewhere it is made of the catalogue: of each row's oid and of the
//! transaction that wrote it, so that a change is found that was undone within a heartbeat. What leaves no row behind is
//! not found so: an object that came and went, and row security that was on for that long.
//!
//! Left out are temporary objects, which any role may make, and what no result shows: rights, comments, indexes and
//! statistics. TRUNCATE, GRANT, ANALYZE and VACUUM of tables do not change the number. Without event triggers GRANT on
//! other things than tables does: it writes the row of a column, function, type or schema anew.

use sqlx::Row;
use sqlx::postgres::PgListener;

#[cfg(test)]
mod tests;

/// The number, and the snapshot that it was read at. To be begun anew on each connection.
#[derive(Debug, Default)]
pub(crate) struct Fingerprint {
    last: Option<(String, i64)>,
}

impl Fingerprint {
    /// The number as it is now. Reads nothing if no transaction has ended since it was last read.
    pub(crate) async fn read(&mut self, conn: &mut PgListener) -> Result<i64, sqlx::Error> {
        let at = self.last.as_ref().map(|(snapshot, _)| snapshot.as_str());
        let query = sqlx::query(include_str!("sql/fingerprint.sql")).bind(at);
        let row = query.fetch_one(&mut *conn).await?;
        let unnoted: Option<i64> = row.try_get("unnoted")?;
        let number = match (unnoted, &self.last) {
            (None, Some((_, number))) => return Ok(*number),
            (unnoted, _) if row.try_get("noted")? => unnoted.unwrap_or_default(),
            (unnoted, _) => unnoted.unwrap_or_default() ^ catalogue(conn).await?,
        };
        // The catalogue is read later than this snapshot is taken. It is the same only if nothing came between.
        self.last = Some((row.try_get("snapshot")?, number));
        Ok(number)
    }
}

async fn catalogue(conn: &mut PgListener) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(include_str!("sql/catalog.sql")).fetch_one(conn).await
}
