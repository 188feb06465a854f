//! Queries whose answers are kept, without HTTP.

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Error, Execute, FromRow, Postgres};

use super::database::Database;
use super::dependencies::{Dependencies, Equality, Family, Given, Parameter};
use super::executor::Statement;
use super::plan::dependencies;
use crate::cache::{Cache, PolicyTag, Record, ValuePolicy};
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
    /// What it depends on is found in its text, as for [`reader`](Self::reader), and in its arguments: where a
    /// condition of a plain SELECT says which rows of a table it is about, as `where id = $1 and ...` does, only
    /// changes to those make the answer invalid. That goes for columns that the triggers tell changes by (see
    /// [`Triggers`](crate::Triggers)) of integers, texts and UUIDs, for a parameter costs a short query more when the
    /// answer is made, and is left to the policy's tags where those narrow the table already. A literal counts if it
    /// is spelled as Postgres writes the value: `7` and `'ann'`, not `07`, `'it''s'` or `E'ann'`.
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
        let statement = Statement::take(query)?;
        let key = self.key::<T>("all", &statement);
        self.cache.get_or_load(&key, &self.policy, async || all(&statement, &self.db).await).await
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
        let statement = Statement::take(query)?;
        let key = self.key::<T>("first", &statement);
        let load = async || Ok(all::<T>(&statement, &self.db).await?.into_iter().next());
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

    fn key<T>(&self, what: &str, statement: &Statement) -> Key {
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

/// Sends a statement, which may be sent again.
async fn all<T: Row>(statement: &Statement, db: &Database) -> Result<Vec<T>, Error> {
    if let Some(record) = Record::current().filter(Record::is_followed) {
        // Without it, the answer depends on whole tables.
        if let Err(error) = narrow(&record, statement, db).await {
            tracing::debug!(%error, "the rows that a query depends on could not be found out");
        }
    }
    let arguments = statement.arguments.clone().unwrap_or_default();
    let query = sqlx::query_as_with(statement.sql.clone(), arguments);
    query.persistent(statement.persistent).fetch_all(db.reader()).await
}

/// Notes which rows of tables the answer to a statement depends on.
async fn narrow(record: &Record, statement: &Statement, db: &Database) -> Result<(), Error> {
    let found = dependencies(db, statement.sql.as_str()).await?;
    let Dependencies::Tables(tables) = &*found else { return Ok(()) };
    for table in tables.iter().filter(|table| !record.is_narrowed(&table.name, &table.columns)) {
        let Some(Equality { column, family, value }) = &table.by else { continue };
        let value = match value {
            Given::Literal(text) => Some(text.clone()),
            Given::Parameter(parameter) => asked(db, parameter, *family, statement).await?,
        };
        if let Some(value) = value {
            record.narrow(PolicyTag::of_column(&table.name, column, &value));
        }
    }
    Ok(())
}

/// The value that a column must have, as a trigger would write it. `None` if it is NULL, which no row has, or of a
/// type that is compared in another way than the column's family.
async fn asked(
    db: &Database,
    parameter: &Parameter,
    family: Family,
    statement: &Statement,
) -> Result<Option<String>, Error> {
    let replica = db.servers().into_iter().find(|server| server.at().is_some());
    let server = replica.as_deref().unwrap_or(&db.inner.primary);
    server.sends();
    let arguments = statement.arguments.clone().unwrap_or_default();
    // Made of a number and of types from a list.
    let query = sqlx::query_as_with::<_, (i64, Option<String>), _>(
        AssertSqlSafe(parameter.query()),
        arguments,
    );
    // A prepared statement is kept by its text alone, and this text is one for parameters of all types.
    let query = query.persistent(false);
    let (oid, value) = query.fetch_one(&mut *server.acquire().await?).await?;
    Ok(value.filter(|_| Family::of(oid) == Some(family)))
}
