//! The stream of the changes of published tables.

use std::collections::BTreeSet;
use std::time::Duration;

use sqlx::Acquire;
use sqlx::postgres::{PgConnectOptions, PgListener};
use tidegate_wal::{
    Change, KeyColumns, KeyValue, Stream, StreamError, StreamOptions, StreamPoint, TableChange,
    Watermark,
};
use tokio::time::sleep;

use super::changes::PublishedChanges;
use super::kept::{KeptStream, SlotKind};
use super::resume_point::ResumePoint;
use crate::broken::is_broken;
use crate::postgres::database::Database;
use crate::postgres::deadline::{within, within_limit};
use crate::postgres::log::{MOST_KEYS, Snapshot};

/// How long creating a slot may take. The server waits twice for the end of all transactions that are then writing, up to a
/// minute for each; see [`Stream::start`].
const START_WITHIN: Duration = Duration::from_secs(130);

/// How long continuing a stream may take, and how often and with which pauses to try it: the server may have no connection
/// left while the one before ends.
const CONTINUE_WITHIN: Duration = Duration::from_secs(10);
const ATTEMPTS: u32 = 3;
const AGAIN: Duration = Duration::from_millis(200);

/// How long until the server has delivered the first watermark of a stream that was continued: it reads again what it had
/// read for the connection before.
const CATCH_UP_WITHIN: Duration = Duration::from_mins(1);

/// How long until the server has delivered a watermark, which it does after all that was written before.
const REACH_WITHIN: Duration = Duration::from_secs(30);

/// The SQLSTATE code of a missing right.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// By which columns changes are keyed, and the names of all columns, as the triggers `tidegate_published` show them. If it
/// changes, so may the columns of the query below.
const COLUMNS_HASH: &str = "
    coalesce((select pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.oid, t.xmin, (
            select pg_catalog.string_agg(pg_catalog.concat(a.attnum, '/', a.attname), ' ' order by a.attnum)
            from pg_catalog.pg_attribute a where a.attrelid = t.tgrelid and a.attnum > 0 and not a.attisdropped
        )), ',' order by t.oid))
    from pg_catalog.pg_trigger t where t.tgname = 'tidegate_published'), '')";

/// Each column by which changes of a table are keyed, with the key that names it in the log (see names.sql).
const COLUMNS: &str = r"
    select t.tgrelid::int8, c.attname::text, c.attnum::text || '/' || c.place::text
    from pg_trigger t cross join lateral (
        select attname, attnum, row_number() over (order by attnum) as place
        from pg_attribute where attrelid = t.tgrelid and attnum > 0 and not attisdropped) c
    where t.tgname = 'tidegate_published'
        and c.attnum::text = any (string_to_array(split_part(encode(t.tgargs, 'escape'), E'\\000', 2), ' '))";

/// Translates keys into tags, as a drain of the log does.
const TAGS: &str = "
    select distinct unnest(tidegate.named(k.relation, k.keys, $3::text::pg_snapshot))
    from (select relation::oid, array_agg(key) as keys from unnest($1::int8[], $2::text[]) k (relation, key) group by 1) k";

/// The stream of the changes of published tables. It is empty until a drain finds that a table is published.
#[derive(Debug, Default)]
pub(crate) struct PublishedStream {
    stream: Option<Stream>,
    /// Why it has ended, if [`changed`](Self::changed) has noticed: the next watermark abandons it.
    ended: Option<StreamError>,
    /// Why the stream before was abandoned.
    why: Option<String>,
    /// Whether a table was published when the log was last read.
    is_expected: bool,
    /// The snapshot of its last watermark.
    seen: Option<Snapshot>,
    /// The columns by which changes are keyed may have changed.
    are_columns_due: bool,
    /// A watermark is due, since it may show changes.
    is_due: bool,
    unreported: PublishedChanges,
    kept: KeptStream,
}

impl PublishedStream {
    /// Starts a stream. If its slot may outlive the connection, it continues from where the last drain was, which saw what
    /// `read` sees.
    pub(super) async fn start(
        &mut self,
        db: &Database,
        conn: &mut PgListener,
        read: Option<&Snapshot>,
    ) -> Result<(), sqlx::Error> {
        self.stop();
        if let Some(read) = read
            && self.resume(db, conn, read).await?
        {
            return Ok(());
        }
        let name = self.kept.prepare(conn).await?;
        let name = name.as_deref();
        let start = db.inner.listen.connector.attempt(|options| async move {
            let options = watching(&options).map_err(failed)?;
            let stream = match name {
                Some(name) => Stream::create(&options, name).await,
                None => Stream::start(&options).await,
            };
            stream.map_err(failed)
        });
        self.stream = Some(within_limit(START_WITHIN, Box::pin(start)).await?);
        self.kept.has_started(if name.is_some() { SlotKind::Kept } else { SlotKind::Temporary });
        tracing::info!("reading changes of published tables from the write-ahead log");
        Ok(())
    }

    /// Continues the stream from where the last drain was. If it can't, it abandons that point, and returns `false`.
    pub(super) async fn resume(
        &mut self,
        db: &Database,
        conn: &mut PgListener,
        read: &Snapshot,
    ) -> Result<bool, sqlx::Error> {
        let Some(point) = self.kept.point.clone() else { return Ok(false) };
        if !self.kept.is_allowed(conn).await? {
            return Ok(false);
        }
        for attempt in 1.. {
            let resumed = Box::pin(resumed(db, conn, &point, read));
            match within_limit(CONTINUE_WITHIN, resumed).await {
                Ok(stream) => {
                    (self.stream, self.seen) = (Some(stream), Some(read.clone()));
                    self.kept.has_started(SlotKind::Resumed);
                    tracing::info!("continuing to read changes from the write-ahead log");
                    break;
                }
                Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                    tracing::debug!(%error, "can't continue the stream of changes yet");
                    sleep(AGAIN).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "can't continue the stream of changes; starting another one");
                    self.kept.abandon_point();
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Ends the stream. A slot that outlives the connection remains.
    pub(crate) fn stop(&mut self) {
        let mut kept = std::mem::take(&mut self.kept);
        kept.slot = SlotKind::default();
        *self = Self { is_expected: self.is_expected, kept, ..Self::default() };
    }

    /// Ends the stream if it can be continued. A server that shuts down waits until a stream has confirmed everything.
    pub(crate) fn pause(&mut self) {
        if self.is_kept() {
            self.stop();
        }
    }

    /// Sets whether the next stream's slot may outlive its connection, for the next node that reads for all.
    pub(crate) fn may_keep(&mut self, may: bool) {
        self.kept.may = may;
    }

    /// Whether the slot outlives the connection.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.slot != SlotKind::Temporary
    }

    /// At intervals, drops unneeded slots; ends a stream whose slot must no longer outlive its connection.
    pub(crate) async fn clean_up(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        if self.kept.clean_up(conn, self.is_expected).await? {
            return Ok(());
        }
        self.stop();
        Ok(())
    }

    /// Where the stream was after the last drain; `None` if it can't be continued from there.
    pub(crate) fn point(&self) -> Option<&ResumePoint> {
        self.kept.point.as_ref()
    }

    /// Notes that nothing that was stored before is valid.
    pub(super) fn begin_cold(&mut self) {
        self.kept.abandon_point();
        self.kept.begins = true;
    }

    /// Notes where another node's stream was after the drain that this node has applied.
    pub(crate) fn set_point(&mut self, point: Option<ResumePoint>) {
        self.kept.set_point(point);
    }

    /// Notes where the stream is, once the changes of its last watermark are part of a drain.
    pub(super) fn reach_point(&mut self) {
        if let Some(stream) = &self.stream {
            self.kept.reach(stream);
        }
    }

    /// Whether the stream was continued, and has had no watermark since.
    pub(super) fn is_resuming(&self) -> bool {
        self.kept.slot == SlotKind::Resumed
    }

    fn abandon(&mut self, error: &dyn std::error::Error) {
        tracing::warn!(%error, "lost the stream of changes; starting another one");
        if self.is_resuming() {
            // The message that ended it may be delivered again each time.
            self.kept.abandon_point();
        }
        self.stop();
        self.why = Some(error.to_string());
    }

    /// The error if a stream that was just started has ended.
    pub(super) fn ended_at_once(&mut self) -> sqlx::Error {
        let why = self.why.take().unwrap_or_default();
        sqlx::Error::Protocol(format!("the stream of changes ended at once: {why}"))
    }

    pub(crate) fn is_running(&self) -> bool {
        self.stream.is_some() && self.ended.is_none()
    }

    /// Whether a table was published when the log was last read.
    pub(crate) fn is_expected(&self) -> bool {
        self.is_expected
    }

    pub(super) fn expect(&mut self, published: bool) {
        self.is_expected = published;
    }

    /// Whether [`changed`](Self::changed) has returned since the last watermark.
    pub(crate) fn is_due(&self) -> bool {
        self.is_due
    }

    /// The changes that watermarks have shown and no drain has returned.
    pub(super) fn unreported(&mut self) -> &mut PublishedChanges {
        &mut self.unreported
    }

    /// Takes a watermark, and adds its changes to the unreported ones. Returns whether there is a stream: it may have
    /// ended.
    pub(super) async fn watermark(&mut self, conn: &mut PgListener) -> Result<bool, sqlx::Error> {
        if is_broken("watermark") && !self.is_due && self.is_running() && self.seen.is_some() {
            return Ok(true);
        }
        self.is_due = false;
        if let Some(error) = self.ended.take() {
            self.abandon(&error);
        }
        let Some(stream) = &mut self.stream else { return Ok(false) };
        // If this is late, the connection for it is dead.
        let announced = within(async { Ok(stream.announce((&mut *conn).acquire().await?).await) });
        let announced = announced.await?;
        let reached = async {
            announced?;
            stream.reach().await
        };
        let limit =
            if self.kept.slot == SlotKind::Resumed { CATCH_UP_WITHIN } else { REACH_WITHIN };
        let watermark = match within_limit(limit, async { Ok(reached.await) }).await {
            Ok(Ok(watermark)) => watermark,
            Ok(Err(StreamError::Announce(error))) => return Err(error),
            Ok(Err(error)) => {
                self.abandon(&error);
                return Ok(false);
            }
            // The connection of the stream may be dead.
            Err(late) => {
                self.abandon(&late);
                return Ok(false);
            }
        };
        self.kept.had_watermark();
        // If this is cancelled or fails below, the changes of the watermark are lost, so anything may have changed.
        let is_first = self.seen.is_none();
        // Alterations that an earlier stream would have noticed are unknown.
        let is_altered = watermark.is_altered || is_first && !std::mem::take(&mut self.kept.begins);
        self.are_columns_due |= is_altered || is_first;
        let all = PublishedChanges { all: true, is_altered, ..PublishedChanges::default() };
        let before = std::mem::replace(&mut self.unreported, all);
        let shown = self.learn(conn, watermark, is_altered).await?;
        self.unreported = before.with(shown);
        Ok(true)
    }

    async fn learn(
        &mut self,
        conn: &mut PgListener,
        watermark: Watermark,
        is_altered: bool,
    ) -> Result<PublishedChanges, sqlx::Error> {
        if self.are_columns_due
            && let Some(stream) = &self.stream
        {
            // With a later snapshot than the watermark's, so it misses nothing that made the difference.
            stream.key_by(columns(conn).await?);
            self.are_columns_due = false;
        }
        let now = Snapshot::new(watermark.snapshot.to_string());
        let seen = self.seen.replace(now.clone());
        let all = PublishedChanges { all: true, is_altered, tags: Vec::new(), snapshot: Some(now) };
        let Some(seen) = seen.filter(|_| !watermark.all) else { return Ok(all) };
        let (relations, keys) = keys(&watermark.changes);
        if relations.is_empty() {
            return Ok(PublishedChanges { all: false, ..all });
        }
        let query = sqlx::query_scalar::<_, Option<String>>(TAGS);
        let query = query.bind(relations).bind(keys).bind(seen.as_str());
        let tags = within(query.fetch_all(conn)).await?;
        // A name may have changed since the last watermark.
        let tags: Option<Vec<String>> = tags.into_iter().collect();
        Ok(match tags {
            Some(tags) => PublishedChanges { tags, all: false, ..all },
            None => all,
        })
    }

    /// Waits until a watermark may show changes; never returns without a stream. After it has returned, it does not return
    /// again before the next watermark.
    pub(crate) async fn changed(&mut self) {
        let Some(stream) = self.stream.as_mut().filter(|_| !self.is_due) else {
            return std::future::pending().await;
        };
        self.ended = stream.changed().await.err();
        self.is_due = true;
    }
}

/// The keys of changes, as log rows have them (see names.sql), each with its table.
fn keys(changes: &[Change]) -> (Vec<i64>, Vec<String>) {
    let mut keys = BTreeSet::new();
    for Change { relation, change, .. } in changes {
        let relation = i64::from(*relation);
        keys.insert((relation, String::new()));
        let TableChange::Rows(rows) = change else {
            keys.insert((relation, "!".to_owned()));
            continue;
        };
        keys.extend(rows.iter().filter_map(|row| match &row.value {
            KeyValue::Null => None,
            KeyValue::Text(value) => Some((relation, format!("{}={value}", row.column))),
            KeyValue::Large => Some((relation, format!("{}>", row.column))),
        }));
    }
    if i64::try_from(keys.len()).unwrap_or(i64::MAX) > MOST_KEYS {
        let tables: BTreeSet<_> = keys.into_iter().map(|(relation, _)| relation).collect();
        keys =
            tables.into_iter().flat_map(|it| [(it, String::new()), (it, "!".to_owned())]).collect();
    }
    keys.into_iter().unzip()
}

fn watching(options: &PgConnectOptions) -> Result<StreamOptions, StreamError> {
    Ok(StreamOptions::from_options(options)?.watching(COLUMNS_HASH))
}

/// Whether continuing the stream may succeed a little later.
fn may_pass(error: &sqlx::Error) -> bool {
    let sqlx::Error::Configuration(source) = error else { return true };
    match source.downcast_ref() {
        Some(StreamError::Connection(_)) => true,
        Some(StreamError::Server { code, .. }) => {
            // Too many connections; not accepting any; the slot is in use.
            ["53300", "57P03", "55006"].contains(&code.as_str())
        }
        _ => false,
    }
}

/// Continues a stream from a point.
async fn resumed(
    db: &Database,
    conn: &mut PgListener,
    point: &ResumePoint,
    read: &Snapshot,
) -> Result<Stream, sqlx::Error> {
    let ResumePoint { slot, position, fingerprint } = point.clone();
    let point = StreamPoint { slot, position, fingerprint };
    let snapshot: tidegate_wal::Snapshot =
        read.as_str().parse().map_err(|error| failed(StreamError::Snapshot(error)))?;
    // If these are not the columns of that point, the first watermark says so.
    let keyed = columns(conn).await?;
    let options = db.inner.listen.connector.attempt(|options| async { Ok(options) }).await?;
    let options = watching(&options).map_err(failed)?;
    let conn = conn.acquire().await?;
    Stream::resume(&options, conn, &point, snapshot, keyed).await.map_err(failed)
}

/// By which columns changes are keyed.
async fn columns(conn: &mut PgListener) -> Result<KeyColumns, sqlx::Error> {
    let query = sqlx::query_as::<_, (i64, String, String)>(COLUMNS).fetch_all(&mut *conn);
    let columns = within(query).await?.into_iter();
    Ok(columns.fold(KeyColumns::default(), |keyed, (relation, name, key)| {
        keyed.with(oid(relation), &name, &key)
    }))
}

fn oid(number: i64) -> u32 {
    // Postgres' oids have 32 bits.
    u32::try_from(number).unwrap_or_default()
}

fn failed(error: StreamError) -> sqlx::Error {
    let lacks_right =
        matches!(&error, StreamError::Server { code, .. } if code == INSUFFICIENT_PRIVILEGE);
    match lacks_right {
        true => sqlx::Error::Configuration(
            format!(
                "{error}: give the listener's role the attribute REPLICATION (on RDS the role rds_replication)"
            )
            .into(),
        ),
        false => sqlx::Error::Configuration(error.into()),
    }
}
