//! Reads the change log, over one direct connection to the primary.

use std::time::Duration;

use sqlx::{PgExecutor, Row, postgres::PgRow};

use super::deadline::STATEMENT_TIMEOUT;
use super::identity::oid;
use super::lsn;
use super::sql_error::sql_state;
use crate::entry::{Epoch, Position};

mod budget;
mod detail;
mod drain;
mod load;
#[cfg(test)]
mod tests;

pub(crate) use budget::{drain, load};
pub(crate) use detail::ChangeDetail;
#[cfg(feature = "wal")]
pub(crate) use detail::MOST_KEYS;
pub(crate) use drain::{DrainMode, Drained};
pub(crate) use load::{LoadedLog, cold};
#[cfg(test)]
pub(crate) use tests::FULL_QUEUE;

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

    /// Whether this snapshot sees everything that the other one sees. `false` if either can't be parsed.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let (Some(this), Some(other)) = (self.parts(), other.parts()) else { return false };
        let hidden = |x: u64| other.1.contains(&x);
        let unseen = this.1.iter().all(|x| *x >= other.0 || hidden(*x));
        // Every transaction past this snapshot's end must be in progress in the other one.
        let beyond = other.0.saturating_sub(this.0);
        let under_way = || other.1.iter().filter(|x| (this.0..other.0).contains(x)).count();
        unseen && (beyond == 0 || u64::try_from(under_way()).is_ok_and(|n| n == beyond))
    }

    /// The snapshot's end (its xmax), from which on no transaction is seen, and the earlier transactions that are not seen.
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

/// Up to where a node has read the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogSnapshot {
    pub(crate) epoch: Epoch,
    pub(crate) snapshot: Snapshot,
}

/// Prepares a connection for drains; the settings override all defaults of the role or the database:
///
/// - Sequential and bitmap scans are off: without statistics, the planner would read the whole log. This raises the
///   estimated costs enough for JIT, which takes a hundred times as long as a drain, so JIT is off too.
/// - Plans are generic, since planning once saves half of the time of a drain.
/// - Commits don't wait for standbys: a node must keep reading the log while writers wait for a standby that is gone.
/// - The server cancels a slow statement before the node stops waiting for it: otherwise an abandoned statement would run
///   beside the next attempt.
/// - The search path is `pg_catalog`: a function in another schema whose argument types match exactly would be preferred to
///   a polymorphic system function (PostgreSQL manual, section 10.3).
/// - Row security on a table of the log causes an error, instead of silently hiding changes (section 5.9).
pub(crate) async fn prepare(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let set = "select pg_catalog.set_config(name, value, false) from (values
                   ('enable_seqscan', 'off'), ('enable_bitmapscan', 'off'), ('jit', 'off'),
                   ('plan_cache_mode', 'force_generic_plan'),
                   ('synchronous_commit', 'local'),
                   ('default_transaction_isolation', 'read committed'),
                   ('default_transaction_read_only', 'off'),
                   ('search_path', 'pg_catalog, pg_temp'), ('row_security', 'off'),
                   ('lock_timeout', '0'), ('idle_session_timeout', '0'),
                   ('statement_timeout', $1)) settings (name, value)";
    let limit = format!("{}ms", STATEMENT_TIMEOUT.as_millis());
    sqlx::query(set).bind(limit).execute(conn).await.map(drop)
}

/// Resumes NOTIFY before the next drain, and wakes the other listeners: the transactions whose notifications were
/// suppressed have committed or are still running. It sends nothing while the queue is half full (see `wake.sql`).
///
/// It releases all advisory locks of this session. These are the ones that suppress NOTIFY, however often they were taken.
/// If there are none, no warning appears in the server's log. This writes nothing that must reach the disk, so its commit is
/// asynchronous.
pub(crate) async fn resume_notify(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    let resume_notify = "select set_config('synchronous_commit', 'off', true), pg_advisory_unlock_all(),
                  set_config('idle_session_timeout', '0', false),
                  case when pg_notification_queue_usage() < 0.5 then pg_notify('tidegate', '')::text end";
    sqlx::query(resume_notify).execute(conn).await.map(drop)
}

/// Sends a notification, also to this connection; `false` if the queue of notifications is half full or more, because some
/// session does not read its own: then none is sent.
pub(crate) async fn notify(conn: impl PgExecutor<'_>) -> Result<bool, sqlx::Error> {
    let notify = "select case when pg_notification_queue_usage() < 0.5
                  then pg_notify('tidegate', '')::text end is not null";
    match sqlx::query_scalar(notify).fetch_one(conn).await {
        // The queue has filled up since it was checked: `program_limit_exceeded`.
        Err(error) if sql_state(&error).as_deref() == Some("54000") => Ok(false),
        sent => sent,
    }
}

/// Begins a new history if the server has recovered from a crash or was promoted since the last one began, since positions
/// may then be assigned a second time; also if the database is a copy of another. Call this on each new connection, before
/// reading the log.
pub(crate) async fn begin_history(conn: impl PgExecutor<'_>) -> Result<(), sqlx::Error> {
    sqlx::query("select tidegate.begin_history()").execute(conn).await.map(drop)
}

/// Takes a position past every fence so far, by writing a WAL message without a reader.
pub(crate) async fn announce(conn: impl PgExecutor<'_>) -> Result<Position, sqlx::Error> {
    let announced = "select pg_logical_emit_message(false, 'tidegate', '')::text";
    lsn::read(&sqlx::query_scalar::<_, String>(announced).fetch_one(conn).await?)
}

/// As [`announce`]; returns also whether the schema was still as `snapshot` shows it when the position was taken.
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

/// Writes a mark, if the log has grown and the newest mark is old enough.
pub(crate) async fn mark(
    conn: impl PgExecutor<'_>,
    at_least_every: Duration,
    schema: Option<i64>,
) -> Result<bool, sqlx::Error> {
    let mark = "select tidegate.mark(make_interval(secs => $1), $2)";
    let query = sqlx::query_scalar(mark).bind(at_least_every.as_secs_f64()).bind(schema);
    query.fetch_one(conn).await
}

/// Deletes some of the rows that a mark older than `retention` has seen; returns whether there may be more.
pub(crate) async fn trim(
    conn: impl PgExecutor<'_>,
    retention: Duration,
    most: i32,
) -> Result<bool, sqlx::Error> {
    let trim = "select tidegate.trim(make_interval(secs => $1), $2)";
    let query = sqlx::query_scalar::<_, i64>(trim).bind(retention.as_secs_f64()).bind(most);
    Ok(query.fetch_one(conn).await? >= i64::from(most))
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
    // NULL only if the role may not read it: a history has begun.
    let history: Option<i64> = row.try_get("history")?;
    let history = history.ok_or_else(|| {
        let why = "tidegate.history can't be read: `grant select on tidegate.history to` the role";
        sqlx::Error::Decode(why.into())
    })?;
    Ok(Epoch::for_database(system.cast_unsigned(), oid(row)?, timeline, history.cast_unsigned()))
}

fn position(row: &PgRow, column: &str) -> Result<Position, sqlx::Error> {
    lsn::read(row.try_get(column)?)
}

fn in_progress(row: &PgRow) -> Result<Vec<u64>, sqlx::Error> {
    let ids: Vec<i64> = row.try_get("in_progress")?;
    Ok(ids.into_iter().map(i64::cast_unsigned).collect())
}
