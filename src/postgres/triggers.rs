//! Selects the tables whose changes are recorded, and in how much detail.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, PgConnection, Postgres, Transaction};
use tokio::time::sleep;

mod discover;
mod error;
mod migration;
mod schema;
mod slots;
mod source;
mod status;
mod table;

pub use error::SchemaError;
pub use source::ChangeSource;
pub use status::{SchemaStatus, TableStatus, TriggerState, TriggerStatus};

use super::backoff::Backoff;
use super::log;
use super::quote::identifier;
use super::sql_error::sql_state;
use error::within;
use schema::make_schema;
use source::default_source;
use table::{DeclaredFamily, TableFamily, families};

/// Keeps two concurrent installers from interfering with each other. The lock is on a table, so that a role without a right
/// to it can't take it. Before the first install the table does not exist: then one of two installers fails, and retries.
const LOCK: &str = "do $$ begin
        if pg_catalog.to_regclass('tidegate.installation') is not null
            and pg_catalog.has_table_privilege('tidegate.installation', 'update')
        then
            lock table tidegate.installation in share row exclusive mode;
        end if;
    end $$";

/// These override the defaults of the role and the database. Each statement takes its own snapshot, so that statements
/// after the lock see what the previous installer committed; names resolve to `pg_catalog`; and no transaction waits long for
/// a lock, since all later users of the table wait behind it.
const BEGIN: &str = "begin isolation level read committed read write";
const SETTINGS: &str = "select set_config('search_path', 'pg_catalog, pg_temp', true),
    set_config('lock_timeout', '1s', true)";

/// The number of attempts at each step if another installer interferes or a table is in use, and the pauses between them,
/// in which the others go on: about a minute in all.
const ATTEMPTS: usize = 20;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// The tables whose changes are recorded, so that cached results that depend on them are invalidated.
///
/// Each change of a tracked table is recorded under the table's name. If a statement changes few enough rows (see
/// [`row_limit`](Self::row_limit)), the change of each row is also recorded as `table:column=value`, for each column of
/// the primary key and each declared column, with the values before and after. A table in schema `public` is named
/// without its schema, any other as `schema.name`, without quotes. A partition is tracked together with its topmost
/// parent, under the parent's name; if several tables of such a family are named, their columns apply to the whole
/// family.
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
    source: ChangeSource,
}

impl Triggers {
    /// Tracks no table yet.
    pub fn new() -> Self {
        Self { tables: BTreeMap::new(), row_limit: 100, source: default_source() }
    }

    /// Tracks a table.
    #[must_use]
    pub fn table(self, name: &str) -> Self {
        self.columns(name, &[])
    }

    /// Tracks a table, and also keys its changes by the values of these columns.
    ///
    /// A column must have a type whose text form does not depend on a session's settings: an integer, `text`, `varchar`,
    /// `uuid` or an enum. Values of more than 2,000 bytes share one key: a change of one counts as a change of all such
    /// values in its column.
    #[must_use]
    pub fn columns(mut self, table: &str, columns: &[&str]) -> Self {
        let declared = self.tables.entry(table.to_owned()).or_default();
        declared.extend(columns.iter().map(|&column| column.to_owned()));
        self
    }

    /// The maximum number of rows of one statement that are recorded individually; 100 by default. A statement that changes
    /// more rows counts as a change of every row. So does a statement with more than 10,000 values in key and declared
    /// columns, or with more than a megabyte of them.
    ///
    /// With zero, every statement counts as a change of every row, even one that changes none. The triggers then need no
    /// transition tables. With any other limit, Postgres copies all rows that a statement changes to transition tables.
    /// Beyond `work_mem`, these are temporary files, and a large statement fails if it reaches `temp_file_limit`.
    #[must_use]
    pub fn row_limit(mut self, rows: u32) -> Self {
        self.row_limit = rows;
        self
    }

    /// Sets how nodes find out about changes of these tables; [`ChangeSource::Triggers`] by default.
    /// [`install`](Self::install) switches tables from the other source, which invalidates everything that was cached
    /// from the database. So all services that install the same table must set the same source.
    #[must_use]
    pub fn source(mut self, source: ChangeSource) -> Self {
        self.source = source;
        self
    }

    /// Creates or updates the schema `tidegate` and the triggers. Every node can run this at every start: if everything is
    /// in place, it changes and locks nothing.
    ///
    /// Creating a trigger waits until no transaction is open that has written to the table, and later writers wait behind
    /// it. So each table has a transaction of its own, which waits for a second at most and is tried again after a pause.
    ///
    /// # Errors
    ///
    /// - If the server is a standby, is older than Postgres 14, has the schema of a newer version of Tidegate, or (under
    ///   [`ChangeSource::LogicalReplication`]) lacks `wal_level = logical`; or if a table can't be tracked. Nothing has
    ///   been changed in these cases.
    /// - If a right is missing, or if a table stays in use for about a minute. Tables are processed in the order of
    ///   their names, so those before this table are now tracked, and those after it have not been changed.
    pub async fn install(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        check_server(conn, self.source).await?;
        let families = self.check(conn).await?;
        // Nodes read the tables of the schema, so their locks are not held while an application's table is waited for.
        InstallStep::Schema.run(conn).await?;
        InstallStep::Guard.run(conn).await?;
        for DeclaredFamily { table, columns } in &families {
            let step = match self.source {
                ChangeSource::Triggers => InstallStep::Track(table, columns, self.row_limit),
                ChangeSource::LogicalReplication => InstallStep::Publish(table, columns),
            };
            step.run(conn).await?;
        }
        InstallStep::Mark.run(conn).await
    }

    /// Checks whether all tables can be tracked.
    async fn check(&self, conn: &mut PgConnection) -> Result<Vec<DeclaredFamily>, SchemaError> {
        let mut transaction = begin(conn).await?;
        let checked = async {
            let families = families(&mut transaction, &self.tables, self.source).await?;
            for DeclaredFamily { table, columns } in &families {
                table.tagged(&mut transaction, columns).await?;
            }
            Ok(families)
        };
        let checked = checked.await;
        transaction.rollback().await?;
        checked
    }

    /// Drops the triggers of these tables, and invalidates everything cached from them.
    ///
    /// # Errors
    ///
    /// - If a table does not exist. Nothing has been changed in this case.
    /// - If a right is missing, or if a table stays in use for about a minute. Tables are processed in the order of
    ///   their names, so those before this table are no longer tracked, and those after it have not been changed.
    pub async fn uninstall(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        for name in self.tables.keys() {
            let mut transaction = begin(conn).await?;
            let found = TableFamily::find(&mut transaction, name).await;
            transaction.rollback().await?;
            found?;
        }
        for name in self.tables.keys() {
            InstallStep::Untrack(name).run(conn).await?;
        }
        Ok(())
    }

    /// Drops the schema `tidegate` and all its triggers. Stop the nodes first: their reads would wait for this, or fail.
    ///
    /// # Errors
    ///
    /// If a right is missing, or a table stays in use for about a minute.
    pub async fn uninstall_all(conn: &mut PgConnection) -> Result<(), SchemaError> {
        InstallStep::DropAll.run(conn).await
    }

    /// Grants a role what it needs to run a `Listener` and to call `Database::invalidate`. Reading and writing tracked
    /// tables needs no grant. Under [`ChangeSource::LogicalReplication`], the listener's role also needs the attribute
    /// `REPLICATION`, which this does not grant.
    ///
    /// # Errors
    ///
    /// If the role or the schema does not exist, or if the connection's own role lacks a right.
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

    /// Returns what is installed, and any problems with it.
    ///
    /// # Errors
    ///
    /// If the schema is not installed, or can't be read.
    pub async fn status(conn: &mut PgConnection) -> Result<SchemaStatus, SchemaError> {
        status::read(conn).await
    }
}

impl Default for Triggers {
    fn default() -> Self {
        Self::new()
    }
}

/// The part of an install or uninstall that runs in one transaction.
#[derive(Clone, Copy)]
enum InstallStep<'a> {
    /// Creates or updates the schema, and the triggers of an earlier version.
    Schema,
    /// Protects the tables of the schema. While waiting for the log's lock, it must hold no other table's lock: a writer
    /// that has written to the log may be waiting for that one.
    Guard,
    /// Tracks a table, with the columns declared for it and the row limit.
    Track(&'a TableFamily, &'a [String], u32),
    /// Publishes a table, with the columns declared for it.
    Publish(&'a TableFamily, &'a [String]),
    /// Begins the history and writes the first mark, by a snapshot that sees the rows that tracking wrote.
    Mark,
    /// Drops the triggers of a table.
    Untrack(&'a str),
    /// Drops everything.
    DropAll,
}

impl InstallStep<'_> {
    /// Runs the step, again if another transaction interferes.
    async fn run(self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        for _ in 1..ATTEMPTS {
            match self.attempt(conn).await {
                Err(error) if is_conflict(&error) => {
                    tracing::debug!(%error, "another transaction is in the way: trying again");
                    sleep(backoff.jittered()).await;
                }
                done => return done,
            }
        }
        self.attempt(conn).await
    }

    async fn attempt(self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        let mut transaction = begin(conn).await?;
        if let Err(error) = self.work(&mut transaction).await {
            // Roll back explicitly: a dropped transaction holds its locks until the connection is used again.
            transaction.rollback().await?;
            return Err(error);
        }
        transaction.commit().await?;
        match self {
            Self::DropAll => slots::drop_all(conn).await,
            _ => Ok(()),
        }
    }

    async fn work(self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        match self {
            Self::DropAll => {
                // An earlier version lacks the function.
                let unpublish = "do $$ begin
                    if pg_catalog.to_regprocedure('tidegate.unpublish_all()') is not null then
                        perform tidegate.unpublish_all();
                    end if;
                end $$";
                execute(conn, unpublish).await?;
                execute(conn, "drop schema if exists tidegate cascade").await
            }
            Self::Mark => {
                let begun = log::begin_history(&mut *conn).await;
                begun.map_err(within("the schema tidegate"))?;
                let first = "select tidegate.mark('0', null) where not exists (select from tidegate.own_marks)";
                execute(conn, first).await
            }
            Self::Schema => {
                lock(conn).await?;
                make_schema(conn).await
            }
            Self::Guard => {
                lock(conn).await?;
                execute(conn, "select tidegate.guard()").await
            }
            Self::Track(table, columns, row_limit) => {
                lock(conn).await?;
                let columns = table.tagged(conn, columns).await?;
                table.track(conn, &columns, row_limit).await
            }
            Self::Publish(table, columns) => {
                lock(conn).await?;
                let columns = table.tagged(conn, columns).await?;
                table.publish(conn, &columns).await
            }
            Self::Untrack(name) => {
                lock(conn).await?;
                TableFamily::find(conn, name).await?.untrack(conn).await
            }
        }
    }
}

async fn execute(conn: &mut PgConnection, sql: &'static str) -> Result<(), SchemaError> {
    let done = sqlx::query(sql).execute(conn).await;
    done.map(drop).map_err(within("the schema tidegate"))
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

/// Whether a concurrent transaction holds a lock, created the same object, or deadlocked with this one: `unique_violation`,
/// `duplicate_*`, `deadlock_detected`, `serialization_failure`, `lock_not_available`, and "tuple concurrently updated", which
/// has no specific code.
fn is_conflict(error: &SchemaError) -> bool {
    const CODES: [&str; 8] =
        ["23505", "42P06", "42P07", "42710", "42723", "40P01", "40001", "55P03"];
    match error {
        SchemaError::Locked { .. } => true,
        SchemaError::Database(error) => {
            sql_state(error).is_some_and(|code| CODES.contains(&code.as_ref()) || code == "XX000")
        }
        _ => false,
    }
}

async fn check_server(conn: &mut PgConnection, source: ChangeSource) -> Result<(), SchemaError> {
    let query = "select current_setting('server_version_num')::int, pg_is_in_recovery(),
        current_setting('wal_level') = 'logical'";
    let (version, standby, logical): (i32, bool, bool) =
        sqlx::query_as(query).fetch_one(conn).await?;
    match (version, standby, source) {
        (..140_000, _, _) => Err(SchemaError::TooOld(version / 10_000)),
        (_, true, _) => Err(SchemaError::Standby),
        (_, _, ChangeSource::LogicalReplication) if !logical => Err(SchemaError::WalLevel),
        _ => Ok(()),
    }
}
