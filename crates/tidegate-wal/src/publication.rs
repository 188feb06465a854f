//! The publication, which determines the tables and changes that the server sends.

use crate::connection::{ReplicationConnection, Row};
use crate::error::StreamError;

/// Fails if the publication is missing or hides changes.
pub(crate) async fn check(
    connection: &mut ReplicationConnection,
    name: &str,
) -> Result<(), StreamError> {
    // Versions before 15 have no row filters, and no column for them.
    let sql = format!(
        "SELECT p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate, NOT p.pubviaroot,
            NOT EXISTS (SELECT FROM pg_catalog.pg_publication_rel r
                WHERE r.prpubid = p.oid AND pg_catalog.to_jsonb(r) ->> 'prqual' IS NOT NULL)
        FROM pg_catalog.pg_publication p WHERE p.pubname = '{}'",
        name.replace('\'', "''")
    );
    let rows = connection.query(&sql).await?;
    let is_true = |row: &Row, at: usize| row.get(at).is_some_and(|it| it.as_deref() == Some("t"));
    let why = match rows.first() {
        None => "it does not exist: CREATE PUBLICATION",
        Some(row) if !is_true(row, 0) => "it must publish insert, update, delete and truncate",
        Some(row) if !is_true(row, 1) => "set publish_via_partition_root to false",
        Some(row) if !is_true(row, 2) => "it must have no row filters",
        Some(_) => return Ok(()),
    };
    Err(StreamError::Publication { name: name.to_owned(), why })
}
