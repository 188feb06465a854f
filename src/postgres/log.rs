//! Reading the log of changes. All of it on one direct connection to the primary.

use std::time::Duration;

use sqlx::{PgExecutor, Row, postgres::PgRow};

use super::lsn;
use crate::clock::{self, Instant};
use crate::entry::{Epoch, Position};

mod budget;
#[cfg(test)]
mod copies;
mod drain;
#[cfg(test)]
mod large;
mod load;
#[cfg(test)]
mod tests;

pub(crate) use budget::{ChangeDetail, drain, load};
pub(crate) use drain::{DrainMode, Drained};
pub(crate) use load::cold;

/// What the server spends on a statement of a listener at most.
pub(crate) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Which transactions were visible at one moment, as Postgres prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot(String);

impl Snapshot {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether all that the other sees is seen by this one. False for what is no snapshot.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (Some(this), Some(other)) = (self.parts(), other.parts()) else { return false };
        let hidden = |x: u64| other.1.contains(&x);
        let unseen = this.1.iter().all(|x| *x >= other.0 || hidden(*x));
        // What begins past this one's end must be under way for the other.
        let beyond = other.0.saturating_sub(this.0);
        let under_way = || other.1.iter().filter(|x| (this.0..other.0).contains(x)).count();
        unseen && (beyond == 0 || u64::try_from(under_way()).is_ok_and(|n| n == beyond))
    }

    /// The first transaction not seen with all that follow, and those before it that are not.
    fn parts(&self) -> Option<(u64, Vec<u64>)> {
        let mut parts = self.0.splitn(3, ':').skip(1);
        let end = parts.next()?.parse().ok()?;
        let list = parts.next()?.split(',').filter(|x| !x.is_empty());
        Some((end, list.map(str::parse).collect::<Result<_, _>>().ok()?))
    }

    /// As if transactions became visible in the order of their numbers.
    fn with_all_ended(&self) -> Self {
        let xmax = self.0.split(':').nth(1).unwrap_or_default();
        Self(format!("{xmax}:{xmax}:"))
    }
}

/// Which server answers, and how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    pub(crate) system_identifier: u64,
    /// The oid of the database.
    pub(crate) database: u32,
    /// `None` if a standby does not say, as to a role without `pg_read_all_stats` while it streams.
    pub(crate) timeline: Option<u32>,
    /// Another one after each recovery and in each copy; zero before the first node has begun one.
    pub(crate) history: u64,
    pub(crate) standby: bool,
    /// Where replay is on a standby, where inserts are on a primary.
    pub(crate) position: Option<Position>,
    /// Seconds since 1970, on the server's clock. Tells a server from one that took its place.
    pub(crate) started: i64,
    pub(crate) address: Option<String>,
    pub(crate) port: Option<i32>,
    /// The server's process that said so.
    pub(crate) process: i32,
    /// When it was asked.
    pub(crate) asked: Instant,
}

/// Which database of which cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseIdentity {
    pub(crate) system_identifier: u64,
    pub(crate) oid: u32,
}

impl ServerIdentity {
    pub(crate) fn database(&self) -> DatabaseIdentity {
        DatabaseIdentity { system_identifier: self.system_identifier, oid: self.database }
    }
}

/// Makes a connection fit for drains: without statistics the planner would read the whole log. With
/// that forbidden its costs look high enough for JIT, which takes a hundred times as long as a drain;
/// and one plan is as good as another, so it is made once, which is half of what a drain takes. And what
/// we note ourselves waits for no standby: a node must not lose sight of the log when writers hang on
/// one that is gone. A statement that takes too long ends on the server too, before we stop waiting for it: else what is
/// given up would go on, beside the next attempt. No default of the role or the database may stand in the way.
///
/// Names mean what is in `pg_catalog`: a function in another schema of the path, with the very types of the arguments,
/// would be preferred to a polymorphic one of the system (PostgreSQL manual, section 10.3). Row security on a table of the
/// log is an error, where it would hide changes without one (section 5.9).
pub(crate) async fn prepare(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let set = "select pg_catalog.set_config(name, value, false) from (values
                   ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('jit', 'off'),
                   ('plan_cache_mode', 'force_generic_plan'),
                   ('synchronous_commit', 'local'),
                   ('default_transaction_isolation', 'read committed'),
                   ('default_transaction_read_only', 'off'),
                   ('search_path', 'pg_catalog, pg_temp'), ('row_security', 'off'),
                   ('lock_timeout', '0'),
                   ('statement_timeout', $1)) settings (name, value)";
    let limit = format!("{}ms", STATEMENT_TIMEOUT.as_millis());
    sqlx::query(set).bind(limit).execute(conn).await.map(drop)
}

/// Sets how long the server spends on each statement that follows.
pub(crate) async fn limit_statements(
    conn: impl PgExecutor<'_>,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    let set = "select pg_catalog.set_config('statement_timeout', $1, false)";
    let limit = format!("{}ms", limit.as_millis());
    sqlx::query(set).bind(limit).execute(conn).await.map(drop)
}

/// Lets commits wake listeners again, before the next drain, and wakes the others: who was kept from it
/// has committed, or is under way. There is nothing in it that would have to wait for the disk.
pub(crate) async fn unhush(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let unhush = "select set_config('synchronous_commit', 'off', true),
                  pg_advisory_unlock(8388065642915395431), pg_notify('tidegate', '')";
    sqlx::query(unhush).execute(conn).await.map(drop)
}

/// Releases all advisory locks of this session, which are those that suppress notifications, however often they were taken.
/// Without a warning in the server's log if there is none. Listeners are woken as by [`unhush`], since a commit may have
/// found the lock.
async fn release_locks(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let release = "select set_config('synchronous_commit', 'off', true),
                   pg_advisory_unlock_all(), pg_notify('tidegate', '')";
    sqlx::query(release).execute(conn).await.map(drop)
}

/// Begins another history if the server has recovered from a crash, or been promoted, since the last began, so that
/// positions may come a second time; or if the database is a copy of another. To be asked on each new connection, before
/// anything is read of the log.
pub(crate) async fn begin_history(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("select tidegate.begin_history()").execute(conn).await.map(drop)
}

/// A position past every fence so far, made by writing a message that nobody reads.
pub(crate) async fn announce(conn: impl PgExecutor<'_>) -> Result<Position, sqlx::Error> {
    let announced = "select pg_logical_emit_message(false, 'tidegate', '')::text";
    lsn::read(&sqlx::query_scalar::<_, String>(announced).fetch_one(conn).await?)
}

/// The same, and whether the schema was still what `snapshot` shows when the position was taken.
pub(crate) async fn announce_since(
    conn: impl PgExecutor<'_>,
    snapshot: &Snapshot,
) -> Result<(Position, bool), sqlx::Error> {
    let query =
        "select announced, tidegate.ddl_since($1::text::pg_snapshot, announced) as unsettled
        from (select pg_logical_emit_message(false, 'tidegate', '')::text as announced offset 0) a";
    let row = sqlx::query(query).bind(snapshot.as_str()).fetch_one(conn).await?;
    Ok((position(&row, "announced")?, !row.try_get::<bool, _>("unsettled")?))
}

/// Notes how far the log has come, if there is news and the newest mark is old enough.
pub(crate) async fn mark(
    conn: impl PgExecutor<'_>,
    at_least_every: Duration,
    schema: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let mark = "select tidegate.mark(make_interval(secs => $1), $2)";
    let query = sqlx::query_scalar(mark).bind(at_least_every.as_secs_f64()).bind(schema);
    query.fetch_one(conn).await
}

/// Drops some of the rows that were marked as seen longer ago than `retention`; returns whether there
/// may be more.
pub(crate) async fn trim(
    conn: impl PgExecutor<'_>,
    retention: Duration,
    most: i32,
) -> Result<bool, sqlx::Error> {
    let trim = "select tidegate.trim(make_interval(secs => $1), $2)";
    let query = sqlx::query_scalar::<_, i64>(trim).bind(retention.as_secs_f64()).bind(most);
    Ok(query.fetch_one(conn).await? >= i64::from(most))
}

/// Who answers on this connection. For standbys as well.
pub(crate) async fn identity(conn: impl PgExecutor<'_>) -> Result<ServerIdentity, sqlx::Error> {
    let asked = clock::now();
    let row = sqlx::query(include_str!("sql/identity.sql")).fetch_one(conn).await?;
    let position: Option<String> = row.try_get("position")?;
    Ok(ServerIdentity {
        system_identifier: row.try_get::<i64, _>("system_identifier")?.cast_unsigned(),
        database: oid(&row)?,
        timeline: row.try_get::<Option<i32>, _>("timeline")?.map(i32::cast_unsigned),
        history: row.try_get::<i64, _>("history")?.cast_unsigned(),
        standby: row.try_get("standby")?,
        position: position.as_deref().map(lsn::read).transpose()?,
        started: row.try_get("started")?,
        address: row.try_get("address")?,
        port: row.try_get("port")?,
        process: row.try_get("process")?,
        asked,
    })
}

/// Writes a change to these tags into the log. A name without a value may be a table's, and then
/// covers its rows: `tidegate.invalidate` adds their tag.
pub(crate) async fn invalidate(
    conn: impl PgExecutor<'_>,
    tags: &[String],
) -> Result<(), sqlx::Error> {
    sqlx::query("select tidegate.invalidate($1)").bind(tags).execute(conn).await.map(drop)
}

fn epoch(row: &PgRow) -> Result<Epoch, sqlx::Error> {
    let system: i64 = row.try_get("system_identifier")?;
    let file: &str = row.try_get("wal_file")?;
    let timeline = file.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let timeline = timeline.ok_or_else(|| sqlx::Error::Decode("no WAL file name".into()))?;
    // Only if it may not be read: one has begun.
    let history: Option<i64> = row.try_get("history")?;
    let history = history.ok_or_else(|| {
        let why = "tidegate.history can't be read: `grant select on tidegate.history to` the role";
        sqlx::Error::Decode(why.into())
    })?;
    Ok(Epoch::for_database(system.cast_unsigned(), oid(row)?, timeline, history.cast_unsigned()))
}

fn oid(row: &PgRow) -> Result<u32, sqlx::Error> {
    let oid: i64 = row.try_get("database")?;
    u32::try_from(oid).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn position(row: &PgRow, column: &str) -> Result<Position, sqlx::Error> {
    lsn::read(row.try_get(column)?)
}

fn in_progress(row: &PgRow) -> Result<Vec<u64>, sqlx::Error> {
    let ids: Vec<i64> = row.try_get("in_progress")?;
    Ok(ids.into_iter().map(i64::cast_unsigned).collect())
}
