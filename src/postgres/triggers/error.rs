//! Why tables can't be tracked.

use crate::postgres::sql_error::sql_state;

/// Why triggers were not installed, and what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// No table has this name.
    #[error(
        "there is no table `{0}`: write `table` if it is in schema public, otherwise `schema.table`"
    )]
    NoTable(String),
    /// The named relation can't be tracked. It may be a view, a temporary table, or a table with foreign partitions.
    #[error("`{0}` is {1} and can't be tracked: track the tables that its rows come from")]
    NotATable(String, String),
    /// The table has several parents, so it is ambiguous under which parent's name its changes would be recorded.
    #[error("`{0}` inherits from several tables: track tables with one parent at most")]
    SeveralParents(String),
    /// Changes that a subscription replicates fire no statement trigger.
    #[error(
        "the subscription `{1}` writes to `{0}`, and replicated changes fire no statement trigger: \
         use Tidegate with the server on which the rows are written, or drop the subscription first"
    )]
    Subscribed(String, String),
    /// A declared column does not exist.
    #[error("table `{0}` has no column `{1}`")]
    NoColumn(String, String),
    /// The column's type has a text form that may depend on the writing session.
    #[error(
        "changes can't be keyed by column `{1}` of `{0}`, which has type {2}: declare only columns of type integer, \
         text, varchar, uuid or enum; they must not be virtual, and their collation must be deterministic"
    )]
    NotTaggable(String, String, String),
    /// A right is missing.
    #[error(
        "no right to change {what}: install as the owner of the tables, with CREATE on the \
         database (GRANT CREATE ON DATABASE ... TO ...)"
    )]
    NoRights {
        /// What could not be changed.
        what: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
    /// Another transaction has a table in use, and has had it for about a minute.
    #[error(
        "{what} stays locked by another transaction: try again once that one has ended \
         (`select * from pg_stat_activity where xact_start < now() - interval '1 minute'`)"
    )]
    Locked {
        /// What could not be locked.
        what: String,
        /// What Postgres said.
        source: sqlx::Error,
    },
    /// `wal_level` is not `logical`, as logical replication needs.
    #[error(
        "wal_level is not logical: set it to logical (on RDS, rds.logical_replication to 1) and restart the server, or \
         install triggers instead"
    )]
    WalLevel,
    /// Standbys take no changes.
    #[error("the server is a standby: connect to the primary")]
    Standby,
    /// The schema is not there.
    #[error("the schema tidegate is not installed: run `tidegate install TABLE...`")]
    NotInstalled,
    /// A newer version of this crate installed the schema.
    #[error("the schema tidegate is of version {0}, newer than this crate knows: upgrade tidegate")]
    Newer(i32),
    /// The server is older than Postgres 14.
    #[error("the server is Postgres {0}: 14 or later is needed")]
    TooOld(i32),
    /// Any other database error.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Maps errors: a missing right, or a lock that is not free, becomes an error that names `what` could not be changed.
pub(super) fn within(what: &str) -> impl FnOnce(sqlx::Error) -> SchemaError + use<'_> {
    move |source| match sql_state(&source).as_deref() {
        Some("42501") => SchemaError::NoRights { what: what.to_owned(), source },
        Some("55P03") => SchemaError::Locked { what: what.to_owned(), source },
        _ => source.into(),
    }
}
