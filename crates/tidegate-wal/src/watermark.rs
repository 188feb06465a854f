//! A watermark: a point up to which all changes are known.

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::error::StreamError;
use crate::snapshot::Snapshot;
use crate::transaction::Change;

/// The prefix of the messages by which the stream recognizes its watermarks.
pub(crate) const PREFIX: &str = "tidegate-watermark";

/// A point up to which all changes are known.
#[derive(Debug)]
pub struct Watermark {
    /// A position, in bytes. Every change in this watermark, or in an earlier one, was committed before it.
    pub fence: u64,
    /// The position of the watermark's message, after the fence.
    pub message: u64,
    /// Everything that this snapshot sees is part of this watermark, or of an earlier one.
    pub snapshot: Snapshot,
    /// The changes of rows of published tables that this snapshot sees, and that the last watermark's snapshot did not
    /// see. They do not include attaching, detaching or dropping a partition, nor a rewrite by ALTER TABLE.
    pub changes: Vec<Change>,
    /// Anything may have changed: this is the stream's first watermark; the publication or what is
    /// [watched](crate::StreamOptions::watching) has changed; too much has changed at a time; or the snapshot sees a
    /// transaction that had its commit record before the stream began.
    pub all: bool,
    /// The publication or what is [watched](crate::StreamOptions::watching) has changed since the last watermark. Then
    /// `all` is set too.
    pub is_altered: bool,
}

/// Which server and database a connection leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) system_identifier: String,
    pub(crate) timeline: u32,
    pub(crate) database: String,
}

/// A watermark whose message was written.
#[derive(Debug)]
pub(crate) struct Announced {
    pub(crate) snapshot: Snapshot,
    pub(crate) fence: u64,
    pub(crate) message: u64,
    /// What the publication and its tables are, as a hash. If it differs between two watermarks, changes in between may be
    /// missing: the server takes an altered publication into account from one change to the next.
    pub(crate) fingerprint: String,
    pub(crate) origin: Origin,
}

/// Takes a snapshot, then a position, and then writes a message.
///
/// The message is part of a transaction, so that the server writes it to disk with the commit: on an idle server, another
/// message would be written, and so delivered, when the WAL writer next runs. It does not wait for standbys.
pub(crate) async fn announce(
    conn: &mut PgConnection,
    publication: &str,
    watched: &'static str,
    nonce: &str,
) -> Result<Announced, StreamError> {
    if conn.is_in_transaction() {
        return Err(StreamError::InTransaction);
    }
    // The subquery with `offset 0` keeps the order; the snapshot is the statement's. Since Postgres 16,
    // pg_get_publication_tables locks each table, and would wait for whoever alters one.
    let sql = format!("select before.*, pg_catalog.pg_logical_emit_message(true, $2, $3)::text as message
        from (select pg_catalog.pg_current_snapshot()::text as snapshot,
            pg_catalog.pg_current_wal_insert_lsn()::text as fence,
            pg_catalog.set_config('synchronous_commit', 'local', true),
            (select system_identifier::text from pg_catalog.pg_control_system()) as system_identifier,
            pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()) as file,
            pg_catalog.current_database()::text as database,
            coalesce((select pg_catalog.md5(pg_catalog.concat_ws(' ', p.oid, p.xmin,
                    (select pg_catalog.string_agg(pg_catalog.concat(r.oid, '/', r.xmin), ' ' order by r.oid)
                        from pg_catalog.pg_publication_rel r where r.prpubid = p.oid),
                    (with recursive listed (oid) as (
                        select r.prrelid from pg_catalog.pg_publication_rel r where r.prpubid = p.oid
                        union select i.inhrelid from listed l join pg_catalog.pg_inherits i
                            on i.inhparent = l.oid and not i.inhdetachpending
                            join pg_catalog.pg_class c on c.oid = i.inhrelid and c.relispartition)
                    select pg_catalog.string_agg(pg_catalog.concat(c.oid, '/', c.relreplident), ' ' order by c.oid)
                        from listed l join pg_catalog.pg_class c on c.oid = l.oid)))
                from pg_catalog.pg_publication p where p.pubname = $1), '') as fingerprint,
            {watched} as watched
            offset 0) before");
    let query = sqlx::query(AssertSqlSafe(sql)).bind(publication).bind(PREFIX).bind(nonce);
    let row = query.fetch_one(conn).await.map_err(StreamError::Announce)?;
    let text = |column| row.try_get::<&str, _>(column).map_err(StreamError::Announce);
    let timeline = text("file")?.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok());
    Ok(Announced {
        snapshot: text("snapshot")?.parse()?,
        fence: position(text("fence")?)?,
        message: position(text("message")?)?,
        fingerprint: format!("{} {}", text("fingerprint")?, text("watched")?),
        origin: Origin {
            system_identifier: text("system_identifier")?.to_owned(),
            timeline: timeline.ok_or(StreamError::Decode("a WAL file without a timeline"))?,
            database: text("database")?.to_owned(),
        },
    })
}

/// A position as Postgres prints it.
pub(crate) fn position(text: &str) -> Result<u64, StreamError> {
    let parsed = text.split_once('/').and_then(|(high, low)| {
        let half = |digits| u32::from_str_radix(digits, 16).ok().map(u64::from);
        Some((half(high)? << 32) | half(low)?)
    });
    parsed.ok_or(StreamError::Decode("the position of a watermark is invalid"))
}
