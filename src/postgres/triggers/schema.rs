//! The SQL of the schema `tidegate`, and its version.

use sqlx::PgConnection;

use super::error::{SchemaError, within};

/// The version of the SQL in `sql/`. Bump it with each change there.
pub(super) const VERSION: i32 = 12;

pub(super) const SCHEMA: [&str; 10] = [
    include_str!("../sql/schema.sql"),
    include_str!("../sql/names.sql"),
    include_str!("../sql/note.sql"),
    include_str!("../sql/wake.sql"),
    include_str!("../sql/history.sql"),
    include_str!("../sql/own.sql"),
    include_str!("../sql/marks.sql"),
    include_str!("../sql/ddl.sql"),
    include_str!("../sql/publish.sql"),
    TRACK,
];

/// The last part, which may write to the log.
pub(super) const TRACK: &str = include_str!("../sql/track.sql");

/// The event triggers, which only some roles may create. If they exist, they record schema changes.
pub(super) const EVENT_TRIGGERS: &str = include_str!("../sql/event_trigger.sql");

/// Creates the schema, or updates it.
pub(super) async fn make_schema(conn: &mut PgConnection) -> Result<(), SchemaError> {
    match installed_version(conn).await? {
        Some(version) if version > VERSION => Err(SchemaError::Newer(version)),
        Some(VERSION) => Ok(()),
        _ => write_schema(conn).await,
    }?;
    let made = sqlx::raw_sql(EVENT_TRIGGERS).execute(conn).await;
    made.map(drop).map_err(within("the schema tidegate"))
}

async fn write_schema(conn: &mut PgConnection) -> Result<(), SchemaError> {
    for sql in SCHEMA {
        let made = sqlx::raw_sql(sql).execute(&mut *conn).await;
        made.map_err(within("the schema tidegate"))?;
    }
    let old = sqlx::query("delete from tidegate.meta").execute(&mut *conn).await;
    old.map_err(within("tidegate.meta"))?;
    let note = "insert into tidegate.meta (version) values ($1)";
    let noted = sqlx::query(note).bind(VERSION).execute(conn).await;
    noted.map(drop).map_err(within("tidegate.meta"))
}

/// The version of the schema that a database has; `None` if it has none.
pub(super) async fn installed_version(conn: &mut PgConnection) -> Result<Option<i32>, SchemaError> {
    let there = "select to_regclass('tidegate.meta') is not null";
    let there = sqlx::query_scalar(there).fetch_one(&mut *conn).await;
    if !there.map_err(within("the schema tidegate"))? {
        return Ok(None);
    }
    let version = sqlx::query_scalar("select max(version) from tidegate.meta").fetch_one(conn);
    version.await.map_err(within("tidegate.meta"))
}
