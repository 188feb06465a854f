//! The server that a stream connects to, and the columns that it records.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::error::StreamError;
use crate::socket::Address;
use crate::tls::TlsOptions;

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
    pub(crate) address: Address,
    pub(crate) tls: TlsOptions,
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) database: String,
    /// See [`publication`](Self::publication).
    pub(crate) publication: String,
    /// See [`watching`](Self::watching).
    pub(crate) watched: &'static str,
}

impl StreamOptions {
    /// The server, role, password and database of a URL; without a database, the one with the role's name. The role
    /// needs the attribute `REPLICATION`, or on RDS the role `rds_replication`. With the feature `tls`, `sslmode`,
    /// `sslrootcert`, `sslcert` and `sslkey` have the meaning that they have for sqlx; without it, the connection is not
    /// encrypted.
    ///
    /// # Errors
    ///
    /// If it is not the URL of a Postgres server, or its `sslmode` requires TLS and the feature `tls` is not enabled.
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
        let (host, port) = (options.get_host(), options.get_port());
        let folder = options.get_socket().map(PathBuf::as_path);
        let folder = folder.or_else(|| host.starts_with('/').then_some(Path::new(host)));
        let address = match folder {
            Some(folder) => Address::Unix(folder.join(format!(".s.PGSQL.{port}"))),
            None => Address::Tcp { host: host.to_owned(), port },
        };
        // sqlx shows the password and the certificates only as parts of a URL. Names in that URL are not encoded, so it
        // has others.
        let url = options.clone().username("user").host("host").to_url_lossy();
        let password = percent_decode_str(url.password().unwrap_or_default());
        let user = options.get_username();
        Ok(Self {
            address,
            tls: TlsOptions::new(options.get_ssl_mode(), url.query_pairs())?,
            user: user.to_owned(),
            password: password.decode_utf8_lossy().into_owned(),
            database: options.get_database().unwrap_or(user).to_owned(),
            publication: PUBLICATION.to_owned(),
            watched: "''",
        })
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
        name.clone_into(&mut self.publication);
        self
    }
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOptions")
            .field("address", &self.address)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("publication", &self.publication)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_url_gives_address_role_password_and_database() {
        let url = "postgres://so%40me:p%3A%2F%40%20ss@db.example:5433/shop";
        let options = StreamOptions::from_url(url).unwrap();
        let address = Address::Tcp { host: "db.example".to_owned(), port: 5433 };
        assert_eq!(options.address, address);
        assert_eq!((options.user.as_str(), options.password.as_str()), ("so@me", "p:/@ ss"));
        assert_eq!(options.database, "shop");
    }

    #[test]
    fn a_url_may_name_the_folder_of_a_socket() {
        let expected = Address::Unix("/tmp/sockets/.s.PGSQL.5432".into());
        for url in
            ["postgres://a@%2Ftmp%2Fsockets/shop", "postgres://a@db.example/shop?host=/tmp/sockets"]
        {
            assert_eq!(StreamOptions::from_url(url).unwrap().address, expected, "{url}");
        }
    }

    #[test]
    fn other_urls_are_refused() {
        for url in ["", "redis://localhost/0", "postgres://a@localhost/shop?sslmode=perhaps"] {
            assert!(StreamOptions::from_url(url).is_err(), "{url}");
        }
    }

    /// A connection that must be encrypted is never made without.
    #[cfg(not(feature = "tls"))]
    #[test]
    fn tls_is_refused_without_its_feature() {
        for mode in ["require", "verify-ca", "verify-full"] {
            let url = format!("postgres://a@localhost/shop?sslmode={mode}");
            let error = StreamOptions::from_url(&url).unwrap_err().to_string();
            assert!(error.contains("feature `tls`"), "{error}");
        }
    }

    #[test]
    fn the_password_is_not_printed() {
        let options = StreamOptions::from_url("postgres://a:hidden@localhost/shop").unwrap();
        assert!(!format!("{options:?}").contains("hidden"));
    }
}
