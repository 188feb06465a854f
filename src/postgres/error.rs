//! Errors in the configuration of the servers.

use std::borrow::Cow;

use super::log::DatabaseIdentity;
use super::server::Server;

/// Why the database can't be used as configured. Each message says what to do, and none contains a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// An environment variable is missing.
    #[error("{0} is not set: give it a URL such as postgres://user@host/database")]
    Unset(&'static str),
    /// An address that can't be read.
    #[error(
        "`{0}` is not a Postgres URL: write postgres://user:password@host:port/database, with \
             odd characters in the password percent-encoded"
    )]
    Url(String),
    /// A server that can't be reached, or refuses.
    #[error("{server} can't be used: {source}")]
    Connect {
        /// Which.
        server: String,
        /// What the driver said.
        #[source]
        source: sqlx::Error,
    },
    /// The primary's URL leads to a standby.
    #[error("{0} is a standby, not a primary: give the address that takes writes")]
    PrimaryIsStandby(String),
    /// A replica's URL leads to a primary.
    #[error("{0} is a primary, not a replica: give the address of a standby, or leave it out")]
    ReplicaIsPrimary(String),
    /// A server does not report its timeline.
    #[error(
        "{0} does not report its timeline: `grant pg_read_all_stats to` the role that connects"
    )]
    Silent(String),
    /// A replica of another cluster.
    #[error("{0} follows another cluster than the primary's: its data is not this database's")]
    OtherCluster(String),
    /// A replica or the listener in another database.
    #[error(
        "{0} leads to another database of the cluster than the primary's URL: name the same one in each"
    )]
    OtherDatabase(String),
    /// The schema is not there.
    #[error(
        "the schema `tidegate` is missing or incomplete: run `tidegate install TABLE...`, or \
             use Triggers::install ({0})"
    )]
    NoSchema(#[source] sqlx::Error),
    /// The role may not read the log.
    #[error(
        "the role may not follow the log of changes: run `tidegate grant ROLE` as the owner of \
             schema tidegate, or use Triggers::grant ({0})"
    )]
    NoRights(#[source] sqlx::Error),
    /// The connection goes through a pooler.
    #[error(
        "LISTEN does not reach Postgres from here, as behind a transaction-pooling proxy: give \
             the listener a direct address with DatabaseOptions::listen_url"
    )]
    Pooled,
    /// A proxy confuses the prepared statements of its clients.
    #[error(
        "{0} is a proxy that gives one session to several clients and takes one's prepared statements for \
             another's: use PgBouncer 1.21 or later with max_prepared_statements, RDS Proxy, or session pooling"
    )]
    MixedStatements(String),
    /// The cache has a listener.
    #[error("the cache follows a database already; create one cache per database")]
    Attached,
    /// The change log can't be read.
    #[error("the change log can't be followed: {0}")]
    Log(#[source] sqlx::Error),
}

/// The SQLSTATE of an error that the server sent (PostgreSQL manual, appendix A).
pub(crate) fn sql_state(error: &sqlx::Error) -> Option<Cow<'_, str>> {
    error.as_database_error().and_then(sqlx::error::DatabaseError::code)
}

impl DatabaseIdentity {
    /// Says what is wrong about a server whose database is not the one of the primary.
    pub(crate) fn expect(self, primary: Self, server: &Server) -> Result<(), DatabaseError> {
        if self.system_identifier != primary.system_identifier {
            return Err(DatabaseError::OtherCluster(server.label()));
        }
        match self.oid == primary.oid {
            true => Ok(()),
            false => Err(DatabaseError::OtherDatabase(server.label())),
        }
    }
}

impl DatabaseError {
    pub(crate) fn connecting(server: &Server, source: sqlx::Error) -> Self {
        Self::Connect { server: server.label(), source }
    }

    /// What an error of the log means.
    pub(crate) fn from_log(source: sqlx::Error) -> Self {
        match sql_state(&source).as_deref() {
            // undefined_table, invalid_schema_name, undefined_function, undefined_column
            Some("42P01" | "3F000" | "42883" | "42703") => Self::NoSchema(source),
            Some("42501") => Self::NoRights(source),
            _ => Self::Log(source),
        }
    }
}
