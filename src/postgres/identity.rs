//! Which server and which database a connection leads to.

use sqlx::{PgExecutor, Row, postgres::PgRow};

use super::lsn;
use crate::clock::{self, Instant};
use crate::entry::Position;

/// The identity of the server behind a connection, and its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerIdentity {
    pub(crate) system_identifier: u64,
    /// The oid of the database.
    pub(crate) database: u32,
    /// `None` if a standby does not report it: while it streams, the role needs `pg_read_all_stats`.
    pub(crate) timeline: Option<u32>,
    /// The history: a different number after each recovery and in each copy; zero before a node has begun one.
    pub(crate) history: u64,
    pub(crate) standby: bool,
    /// The replay position on a standby, the insert position on a primary.
    pub(crate) position: Option<Position>,
    /// The start time in microseconds since 1970, on the server's clock. Distinguishes a server from its replacement, and
    /// from others behind the same address.
    pub(crate) started: i64,
    pub(crate) address: Option<String>,
    pub(crate) port: Option<i32>,
    /// The server process of the connection.
    pub(crate) process: i32,
    /// When the query was sent.
    pub(crate) queried: Instant,
}

/// A database of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatabaseIdentity {
    pub(crate) system_identifier: u64,
    pub(crate) oid: u32,
}

/// A timeline of a cluster. Each promotion begins one with a higher number (PostgreSQL manual, section 26.3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeline {
    pub(crate) system_identifier: u64,
    pub(crate) number: u32,
}

impl ServerIdentity {
    pub(crate) fn database(&self) -> DatabaseIdentity {
        DatabaseIdentity { system_identifier: self.system_identifier, oid: self.database }
    }

    /// The timeline, if the server reports it.
    pub(crate) fn timeline(&self) -> Option<Timeline> {
        let system_identifier = self.system_identifier;
        self.timeline.map(|number| Timeline { system_identifier, number })
    }
}

impl Timeline {
    /// Whether a promotion lies between the two. Timelines of different clusters have no order.
    pub(crate) fn is_before(self, other: Self) -> bool {
        self.system_identifier == other.system_identifier && self.number < other.number
    }
}

/// Queries the identity of the server behind this connection, which may be a standby.
pub(crate) async fn identity(conn: impl PgExecutor<'_>) -> Result<ServerIdentity, sqlx::Error> {
    let queried = clock::now();
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
        queried,
    })
}

/// The database of a row of what such queries return.
pub(super) fn oid(row: &PgRow) -> Result<u32, sqlx::Error> {
    let oid: i64 = row.try_get("database")?;
    u32::try_from(oid).map_err(|error| sqlx::Error::Decode(error.into()))
}
