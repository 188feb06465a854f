//! Errors in the configuration of the servers.

use super::identity::DatabaseIdentity;
use super::sql_error::sql_state;

/// Why the database can't be used as configured. A message contains its cause, so the error has no `source`. Most
/// messages also say what to do. None contains a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatabaseError {
    /// An environment variable is missing.
    #[error("{0} is not set: give it a URL such as postgres://user@host/database")]
    Unset(&'static str),
    /// An address that can't be parsed.
    #[error(
        "`{0}` is not a Postgres URL: write postgres://user:password@host:port/database, with \
             special characters in the password percent-encoded"
    )]
    Url(String),
    /// A server that can't be reached, or that refuses the connection.
    #[error("{server} can't be used: {error}")]
    Connect {
        /// The server: its name, host and port.
        server: String,
        /// The driver's error.
        error: sqlx::Error,
    },
    /// A server that requires TLS, in a build without it.
    #[error("{0} requires TLS: enable the feature `tls` of tidegate in Cargo.toml")]
    NoTls(String),
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
    #[error("{0} does not belong to the cluster of the primary, so it has other data")]
    OtherCluster(String),
    /// A replica or the listener in another database.
    #[error(
        "{0} and the primary's URL lead to different databases of one cluster: name the same database in both"
    )]
    OtherDatabase(String),
    /// The schema is not there.
    #[error(
        "the schema `tidegate` is missing or incomplete: run `tidegate install TABLE...`, or \
             use Triggers::install ({0})"
    )]
    NoSchema(sqlx::Error),
    /// The role may not read the log.
    #[error(
        "the role lacks rights to follow the change log: run `tidegate grant ROLE` as the owner of \
             schema tidegate, or use Triggers::grant ({0})"
    )]
    NoRights(sqlx::Error),
    /// The connection goes through a pooler.
    #[error(
        "LISTEN does not reach Postgres from here, probably because of a transaction-pooling proxy: give \
             the listener a direct address with DatabaseOptions::listen_url"
    )]
    Pooled,
    /// A proxy confuses the prepared statements of its clients.
    #[error(
        "{0} is a proxy that gives one session to several clients and mixes up their prepared statements: \
             use PgBouncer 1.21 or later with max_prepared_statements, RDS Proxy, or session pooling"
    )]
    MixedStatements(String),
    /// The sessions of a pool that the application passed have other settings, or another role, than Tidegate's.
    #[error(
        "the sessions of the application's pool for {0} differ from Tidegate's in {1}: if the pool has an \
             after_connect function, pass it to DatabaseOptions::after_connect as well"
    )]
    Session(String, String),
    /// The cache already has a listener.
    #[error("the cache follows a database already; create one cache per database")]
    Attached,
    /// The change log can't be read.
    #[error("the change log can't be followed: {0}")]
    Log(sqlx::Error),
}

impl DatabaseIdentity {
    /// Says what is wrong about a server whose database is not the one of the primary.
    pub(crate) fn expect(self, primary: Self, server: String) -> Result<(), DatabaseError> {
        if self.system_identifier != primary.system_identifier {
            return Err(DatabaseError::OtherCluster(server));
        }
        match self.oid == primary.oid {
            true => Ok(()),
            false => Err(DatabaseError::OtherDatabase(server)),
        }
    }
}

impl DatabaseError {
    pub(crate) fn connecting(server: String, error: sqlx::Error) -> Self {
        match &error {
            // The driver has no kind of its own for this.
            sqlx::Error::Tls(why) if why.to_string().contains("without TLS support") => {
                Self::NoTls(server)
            }
            _ => Self::Connect { server, error },
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_tls_names_the_feature() {
        let server = || "primary (db:5432)".to_owned();
        // As in `maybe_upgrade` of sqlx-postgres 0.9.0, connection/tls.rs.
        let why = "TLS upgrade required by connect options but SQLx was built without TLS support enabled";
        let error = DatabaseError::connecting(server(), sqlx::Error::Tls(why.into()));
        assert!(error.to_string().contains("feature `tls`"), "{error}");
        let error = DatabaseError::connecting(server(), sqlx::Error::Tls("bad certificate".into()));
        assert!(error.to_string().contains("bad certificate"), "{error}");
    }
}
