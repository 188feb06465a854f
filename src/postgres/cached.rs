//! Queries whose answers are kept, without HTTP.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::{Error, Execute, FromRow, Postgres, SqlStr};

use super::database::Database;
use crate::cache::{Cache, Policy};
use crate::entry::Key;

/// A database whose reads are answered from a cache, by [`Database::cached`].
#[derive(Clone, Debug)]
pub struct Cached {
    db: Database,
    cache: Cache,
    policy: Policy,
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
    /// the database and the role that it is for. What it depends on is found in its text, as for
    /// [`reader`](Self::reader); the policy's tags can make that narrower. A query that can't be cached is run
    /// each time, and its reason is logged.
    ///
    /// Rows are kept in bincode's form, as with [`Cache::get_or_load`]. Nodes of two versions of a service may share
    /// a Redis: a type whose fields have changed, under the same name and for the same query, wants another
    /// prefix in Redis.
    ///
    /// ```no_run
    /// # async fn example(db: tidegate::Database, cache: tidegate::Cache) -> Result<(), sqlx::Error> {
    /// use std::time::Duration;
    /// use tidegate::Policy;
    ///
    /// let cached = db.cached(&cache, Policy::ttl(Duration::from_secs(600)));
    /// let names: Vec<(i32, String)> =
    ///     cached.fetch_all(sqlx::query("select id, name from users where org = $1").bind(7)).await?;
    /// # Ok(()) }
    /// ```
    pub fn cached(&self, cache: &Cache, policy: Policy) -> Cached {
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
        let query = Query::take(query)?;
        let key = self.key::<T>("all", &query);
        self.cache.get_or_load(&key, &self.policy, async || query.all(&self.db).await).await
    }

    /// The first row, if there is one. That there is none is kept if the policy has a
    /// [`negative_ttl`](Policy::negative_ttl).
    ///
    /// # Errors
    ///
    /// What the database says when it is asked.
    pub async fn fetch_optional<'q, T: Row>(
        &self,
        query: impl Execute<'q, Postgres>,
    ) -> Result<Option<T>, Error> {
        let query = Query::take(query)?;
        let key = self.key::<T>("first", &query);
        let load = async || Ok(query.all::<T>(&self.db).await?.into_iter().next());
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

    fn key<T>(&self, what: &str, query: &Query) -> Key {
        let options = &self.db.inner.primary.options;
        Key::new("query")
            .part(self.db.name())
            .part(options.get_username())
            .part(options.get_options().unwrap_or_default())
            .part(what)
            .part(std::any::type_name::<T>())
            .part(query.sql.as_str())
            // The encoded values and their types: sqlx shows them no other way.
            .part(format!("{:?}", query.arguments))
            .finish()
    }
}

/// A query that can be sent whenever it is needed.
struct Query {
    sql: SqlStr,
    arguments: Option<PgArguments>,
    persistent: bool,
}

impl Query {
    fn take<'q>(mut query: impl Execute<'q, Postgres>) -> Result<Self, Error> {
        let arguments = query.take_arguments().map_err(Error::Encode)?;
        let persistent = query.persistent();
        Ok(Self { sql: query.sql(), arguments, persistent })
    }

    async fn all<T: Row>(&self, db: &Database) -> Result<Vec<T>, Error> {
        let arguments = self.arguments.clone().unwrap_or_default();
        let query = sqlx::query_as_with(self.sql.clone(), arguments);
        query.persistent(self.persistent).fetch_all(db.reader()).await
    }
}
