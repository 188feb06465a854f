//! The same as plain SQL, for tools that run migrations.

use std::fmt::Write;

use super::{SCHEMA, TRACK, Triggers, VERSION};

/// The first mark is made by the first node to start: it must see what the migration has committed.
const VERSIONED: &str = "delete from tidegate.meta;\ninsert into tidegate.meta (version) values";

impl Triggers {
    /// What [`install`](Self::install) does, as SQL for a tool that runs migrations (`sqlx migrate`, Flyway,
    /// Prisma and others), in the transaction that the tool makes of it.
    ///
    /// ```
    /// let sql = tidegate::Triggers::new().columns("posts", &["author_id"]).migration();
    /// assert!(sql.contains("create schema if not exists tidegate"));
    /// ```
    pub fn migration(&self) -> String {
        let mut sql = "-- Made by tidegate; run it as the owner of the tables.\n\n".to_owned();
        for part in SCHEMA {
            if part == TRACK {
                // Before the log has rows whose deferred triggers wait for the end of the transaction.
                sql.push_str("select tidegate.guard();\n\n");
            }
            sql.push_str(part);
            sql.push('\n');
        }
        // A string can be written to without fail.
        let _ = writeln!(sql, "{VERSIONED} ({VERSION});");
        for (table, columns) in &self.tables {
            sql.push('\n');
            sql.push_str(&self.of_table(table, columns));
        }
        sql
    }

    fn of_table(&self, table: &str, columns: &[String]) -> String {
        let limit = i32::try_from(self.row_limit).unwrap_or(i32::MAX);
        let array: Vec<String> = columns.iter().map(|column| literal(column)).collect();
        let columns_sql = include_str!("../sql/columns.sql").replace("$1", "family.root");
        include_str!("../sql/migration.sql")
            .replace(":relation", &include_str!("../sql/relation.sql").replace("$1", "wanted"))
            .replace(":columns\n", &columns_sql)
            .replace(":'columns'", &format!("array[{}]::text[]", array.join(", ")))
            .replace(":limit", &limit.to_string())
            .replace(":'table'", &literal(table))
    }
}

/// A string as SQL has it, whatever `standard_conforming_strings` is (PostgreSQL manual, 4.1.2.2).
fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
