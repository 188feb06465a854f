//! Cached queries, without HTTP.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{Error, Execute, FromRow, Postgres};

use super::database::Database;
use super::statement::RepeatableStatement;
use crate::cache::{Cache, ValuePolicy};
use crate::entry::Key;

/// Runs queries through a cache; created by [`Database::cached`].
///
/// ```no_run
/// # async fn example(cached: tidegate::Cached) -> Result<(), sqlx::Error> {
/// let query = sqlx::query("select name from users where id = $1").bind(7);
/// let user: Option<(String,)> = cached.fetch_optional(query).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Cached {
    db: Database,
    cache: Cache,
    policy: ValuePolicy,
}

/// A type that can be read from a row and stored in a cache. Implemented for all types with these traits.
pub trait Row:
    for<'r> FromRow<'r, PgRow> + Serialize + DeserializeOwned + Clone + Send + Sync + Unpin + 'static
{
}

impl<T> Row for T where
    T: for<'r> FromRow<'r, PgRow>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + Unpin
        + 'static
{
}

impl Database {
    /// Runs queries through a cache that follows this database.
    ///
    /// The cache key is the query's text and arguments, the type that its rows are decoded as, and the database, role,
    /// options and settings of the connection. A query that can't be cached is run each time, and the reason is logged.
    ///
    /// The dependencies of a query are found as for [`reader`](Self::reader): in its text and arguments. Both are part
    /// of the key, so arguments may come from earlier reads: the rows are stored for exactly these arguments.
    ///
    /// Rows are stored like the values of [`Cache::get_or_load`]: rows that were stored by a node with another version
    /// of their type are a miss. A change in how columns map to fields, such as `#[sqlx(rename)]`, does not show in
    /// the type; bump the cache's [`version`](Cache::version) with such a change.
    ///
    /// ```no_run
    /// # async fn example(db: tidegate::Database, cache: tidegate::Cache) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::time::Duration;
    /// use tidegate::ValuePolicy;
    ///
    /// let cached = db.cached(&cache, ValuePolicy::ttl(Duration::from_secs(600)).build()?);
    /// let names: Vec<(i32, String)> =
    ///     cached.fetch_all(sqlx::query("select id, name from users where org = $1").bind(7)).await?;
    /// # Ok(()) }
    /// ```
    pub fn cached(&self, cache: &Cache, policy: ValuePolicy) -> Cached {
        Cached { db: self.clone(), cache: cache.clone(), policy }
    }
}

impl Cached {
    /// All rows.
    ///
    /// # Errors
    ///
    /// The error of the database, if the query fails.
    pub async fn fetch_all<'q, T: Row>(
        &self,
        query: impl Execute<'q, Postgres>,
    ) -> Result<Vec<T>, Error> {
        let statement = RepeatableStatement::take(query)?;
        let key = self.key::<T>("all", &statement);
        let load = async || resent(&statement).fetch_all(self.db.reader()).await;
        self.cache.get_or_load(&key, &self.policy, load).await
    }

    /// The first row, if there is one. An empty result is stored if the policy has a
    /// [`negative_ttl`](crate::ValuePolicyBuilder::negative_ttl).
    ///
    /// # Errors
    ///
    /// The error of the database, if the query fails.
    pub async fn fetch_optional<'q, T: Row>(
        &self,
        query: impl Execute<'q, Postgres>,
    ) -> Result<Option<T>, Error> {
        let statement = RepeatableStatement::take(query)?;
        let key = self.key::<T>("first", &statement);
        let load = async || resent::<T>(&statement).fetch_optional(self.db.reader()).await;
        self.cache.find_or_load(&key, &self.policy, load).await
    }

    /// The first row.
    ///
    /// # Errors
    ///
    /// [`Error::RowNotFound`] if there is no row; the error of the database, if the query fails.
    pub async fn fetch_one<'q, T: Row>(
        &self,
        query: impl Execute<'q, Postgres>,
    ) -> Result<T, Error> {
        self.fetch_optional(query).await?.ok_or(Error::RowNotFound)
    }

    fn key<T>(&self, what: &str, statement: &RepeatableStatement) -> Key {
        let primary = &self.db.inner.primary;
        let options = primary.connector.configured();
        Key::new("query")
            .part(self.db.name())
            .part(options.get_username())
            .part(options.get_options().unwrap_or_default())
            .part(format!("{:?}", primary.session()))
            .part(what)
            .part(std::any::type_name::<T>())
            .part(statement.sql.as_str())
            // The encoded values and their types: sqlx exposes them only in the debug text.
            .part(format!("{:?}", statement.arguments))
            .finish()
    }
}

/// A query by a statement, which may be sent again.
fn resent<T: Row>(statement: &RepeatableStatement) -> QueryAs<'_, Postgres, T, PgArguments> {
    let arguments = statement.arguments.clone().unwrap_or_default();
    sqlx::query_as_with(statement.sql.clone(), arguments).persistent(statement.persistent)
}
