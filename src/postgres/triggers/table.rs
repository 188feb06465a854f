//! A table and all tables that inherit from it.

use std::collections::BTreeMap;

use sqlx::PgConnection;
use sqlx::postgres::types::Oid;

use super::error::{SchemaError, within};
use super::source::ChangeSource;

/// The root of a family of tables.
pub(super) struct TableFamily {
    root: Oid,
    name: String,
    /// Why it can't be tracked.
    untrackable: Option<SchemaError>,
    /// The subscription that writes to it, which triggers don't see.
    subscription: Option<String>,
}

/// A family to install, with the columns that the application declares for it.
pub(super) struct DeclaredFamily {
    pub(super) table: TableFamily,
    pub(super) columns: Vec<String>,
}

/// The root, its name, the kinds of relations in the family that can't be tracked, whether a table has several parents, and
/// a subscription that writes to any table of the family.
type FamilyRow = (Oid, String, Vec<String>, bool, Option<String>);

struct TrackedColumn {
    name: String,
    r#type: String,
    taggable: bool,
    key: bool,
}

/// The tables with their columns, each family once: if a table and its partition are both named, the columns declared for
/// either apply to both.
pub(super) async fn families(
    conn: &mut PgConnection,
    tables: &BTreeMap<String, Vec<String>>,
    source: ChangeSource,
) -> Result<Vec<DeclaredFamily>, SchemaError> {
    let mut families: Vec<DeclaredFamily> = Vec::new();
    for (name, columns) in tables {
        let table = TableFamily::find(conn, name).await?.trackable(source)?;
        match families.iter_mut().find(|known| known.table.root == table.root) {
            Some(known) => known.columns.extend_from_slice(columns),
            None => families.push(DeclaredFamily { table, columns: columns.clone() }),
        }
    }
    Ok(families)
}

impl TableFamily {
    /// Finds a table by the name that it has in tags.
    pub(super) async fn find(conn: &mut PgConnection, name: &str) -> Result<Self, SchemaError> {
        let query = sqlx::query_as(include_str!("../sql/relation.sql")).bind(name);
        let found: Option<FamilyRow> = query.fetch_optional(conn).await?;
        let (root, root_name, untrackable, several_parents, subscription) =
            found.ok_or_else(|| SchemaError::NoTable(name.to_owned()))?;
        let name = name.to_owned();
        let untrackable = if let Some(kind) = untrackable.into_iter().next() {
            Some(SchemaError::NotATable(name, kind))
        } else if several_parents {
            Some(SchemaError::SeveralParents(name))
        } else {
            None
        };
        Ok(Self { root, name: root_name, untrackable, subscription })
    }

    /// Returns `self`, or the error why it can't be tracked.
    pub(super) fn trackable(mut self, source: ChangeSource) -> Result<Self, SchemaError> {
        match (self.untrackable.take(), self.subscription.take(), source) {
            (Some(why), ..) => Err(why),
            (None, Some(by), ChangeSource::Triggers) => {
                Err(SchemaError::Subscribed(self.name.clone(), by))
            }
            _ => Ok(self),
        }
    }

    /// The columns that changes are keyed by: those of the primary key whose type allows it, then the declared ones.
    pub(super) async fn tagged(
        &self,
        conn: &mut PgConnection,
        declared: &[String],
    ) -> Result<Vec<String>, SchemaError> {
        let columns = self.columns(conn).await?;
        for wanted in declared {
            self.check(wanted, columns.iter().find(|column| column.name == *wanted))?;
        }
        let tagged = columns
            .into_iter()
            .filter(|column| declared.contains(&column.name) || (column.key && column.taggable));
        Ok(tagged.map(|column| column.name).collect())
    }

    /// The columns of foreign keys whose type allows that changes are keyed by them.
    pub(super) async fn foreign_keys(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<String>, SchemaError> {
        self.taggable(include_str!("../sql/foreign_keys.sql"), conn).await
    }

    /// The columns that the present triggers key changes by, if they can still be declared.
    pub(super) async fn installed(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<String>, SchemaError> {
        self.taggable(include_str!("../sql/installed.sql"), conn).await
    }

    /// Those columns of a query's result that changes can be keyed by.
    async fn taggable(
        &self,
        sql: &'static str,
        conn: &mut PgConnection,
    ) -> Result<Vec<String>, SchemaError> {
        let query = sqlx::query_scalar(sql).bind(self.root);
        let found: Vec<String> = query.fetch_all(&mut *conn).await?;
        let columns = self.columns(conn).await?.into_iter();
        let fits = columns.filter(|column| column.taggable && found.contains(&column.name));
        Ok(fits.map(|column| column.name).collect())
    }

    /// Creates or replaces the triggers that are missing or outdated.
    pub(super) async fn track(
        &self,
        conn: &mut PgConnection,
        columns: &[String],
        row_limit: u32,
    ) -> Result<(), SchemaError> {
        let limit = i32::try_from(row_limit).unwrap_or(i32::MAX);
        let track = sqlx::query("select tidegate.track($1, $2, $3)");
        let track = track.bind(self.root).bind(columns).bind(limit);
        track.execute(conn).await.map_err(within(&self.name))?;
        Ok(())
    }

    /// Publishes the table, instead of recording its changes by triggers.
    pub(super) async fn publish(
        &self,
        conn: &mut PgConnection,
        columns: &[String],
    ) -> Result<(), SchemaError> {
        let publish = sqlx::query("select tidegate.publish($1, $2)").bind(self.root).bind(columns);
        publish.execute(conn).await.map_err(within(&self.name))?;
        Ok(())
    }

    /// Drops the triggers.
    pub(super) async fn untrack(&self, conn: &mut PgConnection) -> Result<(), SchemaError> {
        let untrack = sqlx::query("select tidegate.untrack($1)").bind(self.root);
        untrack.execute(conn).await.map_err(within(&self.name))?;
        Ok(())
    }

    async fn columns(&self, conn: &mut PgConnection) -> Result<Vec<TrackedColumn>, SchemaError> {
        let query = sqlx::query_as(include_str!("../sql/columns.sql")).bind(self.root);
        let rows: Vec<(String, String, bool, bool)> = query.fetch_all(conn).await?;
        let column = |(name, r#type, taggable, key)| TrackedColumn { name, r#type, taggable, key };
        Ok(rows.into_iter().map(column).collect())
    }

    fn check(&self, wanted: &str, column: Option<&TrackedColumn>) -> Result<(), SchemaError> {
        let (table, wanted) = (self.name.clone(), wanted.to_owned());
        match column {
            None => Err(SchemaError::NoColumn(table, wanted)),
            Some(column) if !column.taggable => {
                Err(SchemaError::NotTaggable(table, wanted, column.r#type.clone()))
            }
            Some(_) => Ok(()),
        }
    }
}
