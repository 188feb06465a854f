//! What a stream connects to, and what it records.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use pgwire_replication::ReplicationConfig;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::error::StreamError;

/// Settings of the session. The first five are those with which Postgres' own subscribers read values; no role or database
/// can have others then. The last bounds the wait for the end of running transactions.
const SETTINGS: &str = "-c datestyle=ISO -c intervalstyle=postgres -c timezone=UTC -c extra_float_digits=3 \
                        -c bytea_output=hex -c lock_timeout=60s";

/// How many events wait between the connection and the stream, and the largest message, in bytes. A larger one ends the
/// stream.
const BUFFER: usize = 64;
const LARGEST: usize = 512 << 20;

/// How often the position that was read is confirmed.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

/// The publication, unless another one is named.
const PUBLICATION: &str = "tidegate";

/// The columns that changes are keyed by, for each table. A partition is a table of its own.
#[derive(Clone, Debug, Default)]
pub struct KeyColumns(HashMap<u32, Vec<KeyColumn>>);

/// A column that changes are keyed by.
#[derive(Clone, Debug)]
pub(crate) struct KeyColumn {
    pub(crate) name: String,
    pub(crate) label: Arc<str>,
}

impl KeyColumns {
    /// Adds the column `name` of the table with the oid `relation`. [`RowKey::column`](crate::RowKey::column) shows
    /// `label` for it.
    #[must_use]
    pub fn with(mut self, relation: u32, name: &str, label: &str) -> Self {
        let column = KeyColumn { name: name.to_owned(), label: label.into() };
        self.0.entry(relation).or_default().push(column);
        self
    }

    pub(crate) fn of(&self, relation: u32) -> &[KeyColumn] {
        self.0.get(&relation).map_or(&[], Vec::as_slice)
    }
}

/// Where a stream connects to: the primary itself, since poolers and proxies don't pass the replication protocol on.
#[derive(Clone)]
pub struct StreamOptions {
    pub(crate) config: ReplicationConfig,
    /// See [`watching`](Self::watching).
    pub(crate) watched: &'static str,
}

impl StreamOptions {
    /// The server, role, password and database of a URL; without a database, the one with the role's name. The role
    /// needs the attribute `REPLICATION`, or on RDS the role `rds_replication`. The connection is not encrypted.
    ///
    /// # Errors
    ///
    /// If it is not the URL of a Postgres server, or its `sslmode` requires TLS, which this client lacks.
    pub fn from_url(url: &str) -> Result<Self, StreamError> {
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(StreamError::Options("the URL must begin with postgres://".to_owned()));
        }
        let options = PgConnectOptions::from_str(url);
        let options = options.map_err(|error| StreamError::Options(error.to_string()))?;
        Self::from_options(&options)
    }

    /// As [`from_url`](Self::from_url), from the options of sqlx.
    ///
    /// # Errors
    ///
    /// As [`from_url`](Self::from_url).
    pub fn from_options(options: &PgConnectOptions) -> Result<Self, StreamError> {
        if !matches!(
            options.get_ssl_mode(),
            PgSslMode::Disable | PgSslMode::Allow | PgSslMode::Prefer
        ) {
            return Err(StreamError::Options("the stream of changes can't use TLS yet".to_owned()));
        }
        let socket = options.get_socket().map(|path| path.to_string_lossy().into_owned());
        let host = socket.unwrap_or_else(|| options.get_host().to_owned());
        let (user, password) = (options.get_username(), password(options));
        let database = options.get_database().unwrap_or(user);
        let config = ReplicationConfig::new(host, user, password, database, "", PUBLICATION)
            .with_port(options.get_port())
            .with_application_name("tidegate")
            .with_options(SETTINGS)
            .with_buffer_size(BUFFER)
            .with_max_message_size(LARGEST)
            .with_status_interval(CONFIRM_EVERY);
        Ok(Self { config, watched: "''" })
    }

    /// Makes each watermark evaluate this SQL expression, with its own snapshot. If the value differs from the last
    /// watermark's, the watermark says that anything may have changed. It must be of type text, and never NULL.
    #[must_use]
    pub fn watching(mut self, expression: &'static str) -> Self {
        self.watched = expression;
        self
    }

    /// Names the publication, which has the tables to follow. The default is `tidegate`. It must publish all four kinds of
    /// changes, without row filters, and with `publish_via_partition_root = false`: the server sends no TRUNCATE of a
    /// partition otherwise.
    #[must_use]
    pub fn publication(mut self, name: &str) -> Self {
        self.config.publication = name.into();
        self
    }
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ReplicationConfig { host, port, user, database, publication, .. } = &self.config;
        f.debug_struct("StreamOptions")
            .field("host", host)
            .field("port", port)
            .field("user", user)
            .field("database", database)
            .field("publication", publication)
            .finish_non_exhaustive()
    }
}

/// The password, which sqlx shows only as part of a URL. Names in that URL are not encoded, so it has others.
fn password(options: &PgConnectOptions) -> String {
    let url = options.clone().username("user").host("host").to_url_lossy();
    percent_decode_str(url.password().unwrap_or_default()).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_gives_address_role_password_and_database() {
        let url = "postgres://so%40me:p%3A%2F%40%20ss@db.example:5433/shop";
        let config = StreamOptions::from_url(url).unwrap().config;
        assert_eq!((config.host.as_str(), config.port), ("db.example", 5433));
        assert_eq!((config.user.as_str(), config.password.as_str()), ("so@me", "p:/@ ss"));
        assert_eq!(config.database, "shop");
        let socket = StreamOptions::from_url("postgres://a@%2Ftmp%2Fsockets/shop").unwrap().config;
        assert!(socket.is_unix_socket());
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "redis://localhost/0", "postgres://a@localhost/shop?sslmode=verify-full"] {
            assert!(StreamOptions::from_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        let options = StreamOptions::from_url("postgres://a:hidden@localhost/shop").unwrap();
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
