//! The page's queries to the primary.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::PgRow;
use tokio::time::timeout;

use crate::postgres::{Database, tag_name};

/// The time limit for a query.
const LIMIT: Duration = Duration::from_secs(2);

/// Runs a read-only query on the primary, within [`LIMIT`].
pub(crate) async fn rows<T>(db: &Database, sql: &'static str) -> Result<Vec<T>, sqlx::Error>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let queried = async {
        let mut transaction = db.inner.primary.begin("BEGIN READ ONLY").await?;
        // The application's path may have other schemas before pg_catalog.
        let path = "select pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true)";
        sqlx::query(path).execute(&mut *transaction).await?;
        let rows = sqlx::query_as(sql).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(rows)
    };
    timeout(LIMIT, queried).await.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Rows written to each table since statistics were reset (PostgreSQL manual, section 27.2.19).
pub(crate) async fn writes(db: &Database) -> Result<BTreeMap<String, i64>, sqlx::Error> {
    let sql = "
        select schemaname::text, relname::text, n_tup_ins + n_tup_upd + n_tup_del
        from pg_stat_user_tables where schemaname <> 'tidegate'";
    let rows = rows::<(String, String, i64)>(db, sql).await?;
    Ok(rows.into_iter().map(|(schema, table, rows)| (tag_name(&schema, &table), rows)).collect())
}
