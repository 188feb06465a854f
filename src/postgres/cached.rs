//! Queries whose answers are kept, without HTTP.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::{Error, Execute, FromRow, Postgres};

use super::database::Database;
use super::executor::RepeatableStatement;
use crate::cache::{Cache, ValuePolicy};
use crate::entry::Key;

/// A database whose reads are answered from a cache, by [`Database::cached`].
#[derive(Clone, Debug)]
pub struct Cached {
    db: Database,
    cache: Cache,
    policy: ValuePolicy,
}

/// What can be read from a row, and kept.
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
    /// Answers queries from a cache that follows this database.
    ///
    /// A query is told from others by its text and its arguments, by the type that its rows are read as, and by
    /// the database, the role and the connection's options that it is for. A query that can't be cached is run
    /// each time, and its reason is logged.
    ///
    /// What it depends on is found as for [`reader`](Self::reader): in its text and its arguments. Both are part of the
    /// key, so they may contain what was read before: the rows are stored for exactly these arguments.
    ///
    /// Rows are stored as values are by [`Cache::get_or_load`]: rows that a node stored with another version of their
    /// type are a miss. A change of how columns become fields, such as `#[sqlx(rename)]`, does not show in the type; raise
    /// the cache's [`version`](Cache::version) with it.
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
    /// What the database says when it is asked.
    pub async fn fetch_all<'q, T: Row>(
        &self,
        query: impl Execute<'q, Postgres>,
    ) -> Result<Vec<T>, Error> {
        let statement = RepeatableStatement::take(query)?;
        let key = self.key::<T>("all", &statement);
        let load = async || resent(&statement).fetch_all(self.db.reader()).await;
        self.cache.get_or_load(&key, &self.policy, load).await
    }

    /// The first row, if there is one. That there is none is kept if the policy has a
    /// [`negative_ttl`](crate::ValuePolicyBuilder::negative_ttl).
    ///
    /// # Errors
    ///
    /// What the database says when it is asked.
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
    /// [`Error::RowNotFound`] if there is none; what the database says when it is asked.
    pub async fn fetch_one<'q, T: Row>(
        &self,
        query: impl Execute<'q, Postgres>,
    ) -> Result<T, Error> {
        self.fetch_optional(query).await?.ok_or(Error::RowNotFound)
    }

    fn key<T>(&self, what: &str, statement: &RepeatableStatement) -> Key {
        let options = &self.db.inner.primary.options;
        Key::new("query")
            .part(self.db.name())
            .part(options.get_username())
            .part(options.get_options().unwrap_or_default())
            .part(what)
            .part(std::any::type_name::<T>())
            .part(statement.sql.as_str())
            // The encoded values and their types: sqlx shows them no other way.
            .part(format!("{:?}", statement.arguments))
            .finish()
    }
}

/// A query by a statement, which may be sent again.
fn resent<T: Row>(statement: &RepeatableStatement) -> QueryAs<'_, Postgres, T, PgArguments> {
    let arguments = statement.arguments.clone().unwrap_or_default();
    sqlx::query_as_with(statement.sql.clone(), arguments).persistent(statement.persistent)
}
