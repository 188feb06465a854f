//! The same as plain SQL, for tools that run migrations.

use std::fmt::Write;

use super::{EVENT_TRIGGERS, SCHEMA, TRACK, Triggers, VERSION};
use crate::postgres::quote::string;

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
        for part in SCHEMA.into_iter().chain([EVENT_TRIGGERS]) {
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
        let array: Vec<String> = columns.iter().map(|column| string(column)).collect();
        let columns_sql = include_str!("../sql/columns.sql").replace("$1", "family.root");
        include_str!("../sql/migration.sql")
            .replace(":relation", &include_str!("../sql/relation.sql").replace("$1", "wanted"))
            .replace(":columns\n", &columns_sql)
            .replace(":'columns'", &format!("array[{}]::text[]", array.join(", ")))
            .replace(":limit", &limit.to_string())
            .replace(":'table'", &string(table))
    }
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;
    use tidegate_testing::Postgres;

    #[tokio::test]
    async fn a_columns_name_does_not_end_the_migration_it_is_in() {
        let postgres = Postgres::start().await.expect("Postgres");
        let names =
            ["$tidegate$; drop table spared; --", ":limit", ":'table'", "it's", r"\'", "$1"];
        let columns: Vec<String> = names.iter().map(|name| format!("\"{name}\" int")).collect();
        let schema = format!(
            "create table \"a'$tidegate$:limit\" (id int primary key, {}); create table spared (id int)",
            columns.join(", ")
        );
        postgres.psql(&schema).await.expect("schema");
        let sql = Triggers::new().columns("a'$tidegate$:limit", &names).migration();
        postgres.psql(&sql).await.expect("migration");
        postgres.psql("table spared").await.expect("it is still there");
        let told = r"select cardinality(string_to_array(split_part(encode(tgargs, 'escape'), '\000', 2), ' '))
            from pg_trigger where tgname = 'tidegate_update'";
        assert_eq!(postgres.psql(told).await.expect("columns"), "7");
    }
}
