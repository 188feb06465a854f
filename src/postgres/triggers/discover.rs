//! Finds tables and the columns by which rows are usually selected.

use sqlx::PgConnection;

use super::error::SchemaError;
use super::table::TableFamily;
use super::{ChangeSource, Triggers, begin};

const TABLES: &str = include_str!("../sql/discover.sql");

impl Triggers {
    /// Returns `Triggers` for all tables of the application that can be tracked, and the reasons why the others can't.
    /// Changes of each table are keyed by its primary key, its foreign keys and the columns that an earlier install
    /// declared. So a query with `where author_id = $1` depends only on the rows of one author, without a declaration.
    ///
    /// Two kinds of tables are ignored: those of extensions, and those owned by a role of which this role is not a
    /// member.
    ///
    /// ```no_run
    /// # async fn example(conn: &mut sqlx::PgConnection) -> Result<(), tidegate::SchemaError> {
    /// use tidegate::Triggers;
    ///
    /// let (triggers, untrackable) = Triggers::discover(conn).await?;
    /// for reason in untrackable {
    ///     eprintln!("{reason}");
    /// }
    /// triggers.columns("posts", &["slug"]).install(conn).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// If the database can't be queried.
    pub async fn discover(
        conn: &mut PgConnection,
    ) -> Result<(Self, Vec<SchemaError>), SchemaError> {
        let (mut found, mut untrackable) = (Self::new(), Vec::new());
        let mut transaction = begin(conn).await?;
        let names: Vec<String> = sqlx::query_scalar(TABLES).fetch_all(&mut *transaction).await?;
        for name in names {
            match TableFamily::find(&mut transaction, &name)
                .await?
                .trackable(ChangeSource::Triggers)
            {
                Ok(_) => found = found.table(&name),
                Err(reason) => untrackable.push(reason),
            }
        }
        transaction.commit().await?;
        Ok((found.foreign_keys(conn).await?, untrackable))
    }

    /// Keys the changes of each table by its foreign keys too, as far as their types allow it
    /// (see [`columns`](Self::columns)), and by the columns that its installed triggers use.
    ///
    /// # Errors
    ///
    /// If a table does not exist, or the database can't be queried.
    pub async fn foreign_keys(mut self, conn: &mut PgConnection) -> Result<Self, SchemaError> {
        let mut transaction = begin(conn).await?;
        for (name, columns) in &mut self.tables {
            let table = TableFamily::find(&mut transaction, name).await?;
            let mut found = table.foreign_keys(&mut transaction).await?;
            found.extend(table.installed(&mut transaction).await?);
            found.retain(|column| !columns.contains(column));
            columns.append(&mut found);
        }
        transaction.commit().await?;
        Ok(self)
    }
}
