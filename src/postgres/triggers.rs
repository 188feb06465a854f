//! Which tables note their changes, and in how much detail.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};

mod error;
mod migration;
mod status;
mod table;

pub use error::SchemaError;
pub use status::{SchemaStatus, TableStatus, TriggerState, TriggerStatus};

use super::error::sql_state;
use super::log;
use super::quote::identifier;
use error::within;
use table::{TableFamily, families};

/// The version of the SQL in `sql/`. A change there is a new one.
pub(crate) const VERSION: i32 = 8;

/// Two installers at once would trip over each other's half-made schema. The lock is on a table, which a role without a
/// right to it can't take. Before the first install there is none: then one of two installers fails, and tries again.
const LOCK: &str = "do $$ begin
        if pg_catalog.to_regclass('tidegate.installation') is not null
            and pg_catalog.has_table_privilege('tidegate.installation', 'update')
        then
            lock table tidegate.installation in share row exclusive mode;
        end if;
    end $$";

/// What the settings of a role or a database must not change: a snapshot for each statement, so that what is read after
/// the lock is as the last installer left it; and names that mean what they say.
const BEGIN: &str = "begin isolation level read committed read write";
const SETTINGS: &str = "select set_config('search_path', 'pg_catalog, pg_temp', true)";

/// How often an install is tried that another one got in the way of.
const ATTEMPTS: usize = 10;

const SCHEMA: [&str; 9] = [
    include_str!("sql/schema.sql"),
    include_str!("sql/names.sql"),
    include_str!("sql/note.sql"),
    include_str!("sql/wake.sql"),
    include_str!("sql/history.sql"),
    include_str!("sql/own.sql"),
    include_str!("sql/marks.sql"),
    include_str!("sql/ddl.sql"),
    TRACK,
];

/// The last part, which may write to the log.
const TRACK: &str = include_str!("sql/track.sql");

/// What only some roles may make. Where it is made, changes of the schema are noted by it.
const EVENT_TRIGGERS: &str = include_str!("sql/event_trigger.sql");

/// The tables whose changes are noted, so that cached answers that depend on them are found stale.
///
/// Each change of a tracked table is noted as the table's name; for up to a number of rows in one
/// statement also as `table:column=value`, for each column of the primary key and each declared
/// one, with the values before and after. A table of the schema `public` goes by its name, any
/// other by `schema.name`, without quotes. A partition is tracked with its topmost parent and goes
/// by the parent's name; if several tables of one such family are named, their columns count for all of it.
///
/// ```no_run
/// # async fn example(conn: &mut sqlx::PgConnection) -> Result<(), tidegate::SchemaError> {
/// use tidegate::Triggers;
///
/// Triggers::new().table("users").columns("posts", &["author_id"]).install(conn).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Triggers {
    tables: BTreeMap<String, Vec<String>>,
    row_limit: u32,
}

impl Triggers {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { tables: BTreeMap::new(), row_limit: 100 }
    }

    /// Tracks a table.
    #[must_use]
    pub fn table(self, name: &str) -> Self {
        self.columns(name, &[])
    }

    /// Tracks a table, and tells its changes by the values of these columns as well.
    ///
    /// A column must be of a type whose text does not depend on a session's settings: an integer,
    /// `text`, `varchar`, `uuid` or an enum. Values of more than 2,000 bytes are not told apart: a change of one counts
    /// as a change of all such values of its column.
    #[must_use]
    pub fn columns(mut self, table: &str, columns: &[&str]) -> Self {
        let declared = self.tables.entry(table.to_owned()).or_default();
        declared.extend(columns.iter().map(|&column| column.to_owned()));
        self
    }

    /// The most rows that one statement's change is told by, 100 if not set; above it counts as a
    /// change of every row. So does, whatever the number of rows, a statement with more than 10,000 values in key and
    /// declared columns, or a megabyte of them.
    ///
    /// With zero each statement counts as such, also one that changes no row. Then the triggers ask for no transition
    /// tables, in which Postgres holds all rows that a statement changes: in temporary files beyond `work_mem`, so that a
    /// large statement fails at `temp_file_limit`.
    #[must_use]
    pub fn row_limit(mut self, rows: u32) -> Self {
        self.row_limit = rows;
        self
    }

    /// Makes the schema `tidegate` and the triggers, where they are not as they should be. Can be
    /// run by every node at every start: where all is in place, it changes and locks nothing.
    ///
    /// # Errors
    ///
    /// What can't be tracked, or what right is missing. Then nothing has been changed.
    pub async fn install(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        let mut left = ATTEMPTS;
        loop {
            let done = self.install_once(conn).await;
            left -= 1;
            match done {
                Err(SchemaError::Database(error)) if left > 0 && is_conflict(&error) => {
                    tracing::debug!(%error, "another install is under way: trying again");
                }
                done => return done,
            }
        }
    }

    async fn install_once(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        check_server(conn).await?;
        let mut transaction = begin(conn).await?;
        if let Err(error) = self.make(&mut transaction).await {
            // When it is only dropped, its locks last until the connection is used again.
            transaction.rollback().await?;
            return Err(error);
        }
        transaction.commit().await?;
        guard(conn).await?;
        // Only now does a snapshot see the rows that tracking wrote.
        let mut transaction = begin(conn).await?;
        log::begin_history(&mut *transaction).await?;
        let first =
            "select tidegate.mark('0', null) where not exists (select from tidegate.own_marks)";
        sqlx::query(first).execute(&mut *transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn make(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        lock(conn).await?;
        make_schema(conn).await?;
        for (table, declared) in families(conn, &self.tables).await? {
            let columns = table.tagged(conn, &declared).await?;
            table.track(conn, &columns, self.row_limit).await?;
        }
        Ok(())
    }

    /// Takes the triggers off these tables. What is cached of them is stale from then on.
    ///
    /// # Errors
    ///
    /// If a table is not there, or a right is missing.
    pub async fn uninstall(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        let mut transaction = begin(conn).await?;
        lock(&mut transaction).await?;
        for name in self.tables.keys() {
            TableFamily::find(&mut transaction, name).await?.untrack(&mut transaction).await?;
        }
        Ok(transaction.commit().await?)
    }

    /// Drops the schema `tidegate` and every trigger with it. Stop the nodes first: their reads would wait for it, or fail.
    ///
    /// # Errors
    ///
    /// If a right is missing.
    pub async fn uninstall_all(conn: &mut PgConnection) -> Result<(), SchemaError> {
        let drop_all = "drop schema if exists tidegate cascade";
        let mut done = sqlx::query(drop_all).execute(&mut *conn).await;
        for _ in 1..ATTEMPTS {
            // Nodes and writers that use the schema lock its tables in an order of their own.
            if !done.as_ref().is_err_and(|error| sql_state(error).as_deref() == Some("40P01")) {
                break;
            }
            done = sqlx::query(drop_all).execute(&mut *conn).await;
        }
        done.map(drop).map_err(within("the schema tidegate"))
    }

    /// Lets a role follow the log, as a listener does. Writers and readers need no right at all.
    ///
    /// # Errors
    ///
    /// If there is no such role or schema.
    pub async fn grant(conn: &mut PgConnection, role: &str) -> Result<(), SchemaError> {
        let role = identifier(role);
        let sql = format!(
            "grant usage on schema tidegate to {role};
             grant select on tidegate.log, tidegate.own_marks, tidegate.meta, tidegate.history, tidegate.ddl to {role};
             grant execute on function tidegate.mark(interval, bigint), tidegate.invalidate(text[]), tidegate.trim(interval, int),
                 tidegate.no_wakeups(), tidegate.begin_history(), tidegate.no_event_trigger() to {role};"
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(conn).await.map_err(within(&role))?;
        Ok(())
    }

    /// What is installed, and what is wrong with it.
    ///
    /// # Errors
    ///
    /// If the schema is not there.
    pub async fn status(conn: &mut PgConnection) -> Result<SchemaStatus, SchemaError> {
        status::read(conn).await
    }
}

impl Default for Triggers {
    fn default() -> Self {
        Self::new()
    }
}

async fn begin(conn: &mut PgConnection) -> Result<Transaction<'_, Postgres>, SchemaError> {
    let mut transaction = conn.begin_with(BEGIN).await?;
    sqlx::query(SETTINGS).execute(&mut *transaction).await?;
    Ok(transaction)
}

async fn lock(conn: &mut PgConnection) -> Result<(), SchemaError> {
    // A block without parameters can't be prepared by name.
    sqlx::raw_sql(LOCK).execute(conn).await.map(drop).map_err(within("the schema tidegate"))
}

/// Whether another transaction made what this one was about to make, or waited for it: `unique_violation`,
/// `duplicate_*`, `deadlock_detected`, `serialization_failure`, and "tuple concurrently updated", which has no code of
/// its own.
fn is_conflict(error: &sqlx::Error) -> bool {
    const CODES: [&str; 7] = ["23505", "42P06", "42P07", "42710", "42723", "40P01", "40001"];
    sql_state(error).is_some_and(|code| CODES.contains(&code.as_ref()) || code == "XX000")
}

async fn check_server(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let query = "select current_setting('server_version_num')::int, pg_is_in_recovery()";
    let (version, standby): (i32, bool) = sqlx::query_as(query).fetch_one(conn).await?;
    match (version, standby) {
        (..140_000, _) => Err(SchemaError::TooOld(version / 10_000)),
        (_, true) => Err(SchemaError::Standby),
        _ => Ok(()),
    }
}

async fn make_schema(conn: &mut PgConnection) -> Result<(), SchemaError> {
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
    sqlx::query("delete from tidegate.meta").execute(&mut *conn).await?;
    let note = "insert into tidegate.meta (version) values ($1)";
    sqlx::query(note).bind(VERSION).execute(conn).await?;
    Ok(())
}

/// In a transaction of its own: who waits for the log's lock must hold no table's, for which a writer may wait that has
/// noted something in the log.
async fn guard(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let mut transaction = begin(conn).await?;
    lock(&mut transaction).await?;
    let done = sqlx::query("select tidegate.guard()").execute(&mut *transaction).await;
    done.map_err(within("the tables of the schema tidegate"))?;
    Ok(transaction.commit().await?)
}

async fn installed_version(conn: &mut PgConnection) -> Result<Option<i32>, SchemaError> {
    let there = "select to_regclass('tidegate.meta') is not null";
    let there = sqlx::query_scalar(there).fetch_one(&mut *conn).await;
    if !there.map_err(within("the schema tidegate"))? {
        return Ok(None);
    }
    let version = sqlx::query_scalar("select max(version) from tidegate.meta").fetch_one(conn);
    version.await.map_err(within("tidegate.meta"))
}
