//! The installation as plain SQL, for migration tools.

use std::fmt::Write;

use super::schema::{EVENT_TRIGGERS, SCHEMA, TRACK, VERSION};
use super::{ChangeSource, Triggers};
use crate::postgres::quote::string;

/// Records the version. The migration writes no mark: the first node that starts does, after the migration has committed.
const VERSIONED: &str = "delete from tidegate.meta;\ninsert into tidegate.meta (version) values";

const HEAD: &str = "-- Made by tidegate; run it as the owner of the tables.

-- While this script waits for a lock on a table, all later statements that use the table wait too. So the script gives
-- up after a while: then run it again when no transaction is open for long.
do $$ begin
    if pg_catalog.current_setting('lock_timeout') = '0' then
        set local lock_timeout = '5001ms';
    end if;
end $$;

";

/// Later migrations of the same transaction wait as they would without this one.
const TAIL: &str = "
do $$ begin
    if pg_catalog.current_setting('lock_timeout') = '5001ms' then
        set local lock_timeout = 0;
    end if;
end $$;
";

impl Triggers {
    /// Returns SQL that does the same as [`install`](Self::install), for a migration tool (`sqlx migrate`, Flyway,
    /// Prisma and others) that runs it in one transaction. That transaction fails if it has to wait longer than five
    /// seconds for a lock, because another open transaction has written to a table. Run it again when there is no such
    /// long transaction.
    ///
    /// ```
    /// let sql = tidegate::Triggers::new().columns("posts", &["author_id"]).migration();
    /// assert!(sql.contains("create schema if not exists tidegate"));
    /// ```
    pub fn migration(&self) -> String {
        let mut sql = HEAD.to_owned();
        for part in SCHEMA.into_iter().chain([EVENT_TRIGGERS]) {
            if part == TRACK {
                // Before rows are written to the log, whose deferred triggers stay pending until the commit.
                sql.push_str("select tidegate.guard();\n\n");
            }
            sql.push_str(part);
            sql.push('\n');
        }
        // Writing to a string can't fail.
        let _ = writeln!(sql, "{VERSIONED} ({VERSION});");
        if !self.tables.is_empty() {
            sql.push('\n');
            sql.push_str(&self.of_tables());
        }
        sql.push_str(TAIL);
        sql
    }

    fn of_tables(&self) -> String {
        let limit = i32::try_from(self.row_limit).unwrap_or(i32::MAX);
        let (change, is_published) = match self.source {
            ChangeSource::Triggers => {
                (format!("track(family.root, coalesce(tagged, '{{}}'), {limit})"), false)
            }
            ChangeSource::LogicalReplication => {
                ("publish(family.root, coalesce(tagged, '{}'))".to_owned(), true)
            }
        };
        let relation = include_str!("../sql/relation.sql");
        let columns_sql = include_str!("../sql/columns.sql").replace("$1", "family.root");
        let declared = self.tables.iter().flat_map(|(table, columns)| {
            columns.iter().map(move |column| (table.as_str(), column.as_str()))
        });
        let (owners, columns): (Vec<_>, Vec<_>) = declared.unzip();
        include_str!("../sql/migration.sql")
            .replace(":relation_of_owner", &relation.replace("$1", "d.owner"))
            .replace(":relation", &relation.replace("$1", "wanted"))
            .replace(":columns\n", &columns_sql)
            .replace(":change", &change)
            .replace(":is_published", if is_published { "true" } else { "false" })
            .replace(
                ":names",
                &format!(
                    "    tables text[] := {};\n    owners text[] := {};\n    columns text[] := {};",
                    array(self.tables.keys().map(String::as_str)),
                    array(owners),
                    array(columns),
                ),
            )
    }
}

/// An array of texts, as SQL.
fn array<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let texts: Vec<_> = texts.into_iter().map(string).collect();
    format!("array[{}]::text[]", texts.join(", "))
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use sqlx::{Connection, PgConnection};

    use super::*;
    use tidegate_testing::Postgres;

    /// A table and its partition, each by its name, have the columns of both, and a second run changes nothing.
    #[tokio::test]
    async fn columns_given_for_a_table_and_its_partitions_are_combined() {
        let triggers = Triggers::new().columns("orders", &["customer_id"]).table("orders_2024");
        let triggers = triggers.columns("orders_2025", &["shop_id"]);
        let setup =
            "create table orders (id int, customer_id int, shop_id int, primary key (id, shop_id))
                partition by range (id);
            create table orders_2024 partition of orders for values from (0) to (9);
            create table orders_2025 partition of orders for values from (9) to (99)";
        let columns = r"select distinct split_part(encode(tgargs, 'escape'), '\000', 2)
            from pg_trigger where tgname like 'tidegate_%' and tgname <> 'tidegate_truncate' order by 1";
        let made =
            "select string_agg(xmin::text, ' ' order by oid), (select count(*) from tidegate.log)
            from pg_trigger where tgname like 'tidegate_%'";
        for by_migration in [false, true] {
            let postgres = Postgres::start().await.expect("Postgres");
            postgres.psql(setup).await.expect("tables");
            let mut before = None;
            for _ in 0..2 {
                if by_migration {
                    postgres.psql(&triggers.migration()).await.expect("migration");
                } else {
                    let mut conn =
                        PgConnection::connect(&postgres.url()).await.expect("connection");
                    triggers.install(&mut conn).await.expect("install");
                }
                assert_eq!(postgres.psql(columns).await.expect("columns"), "1 2 3");
                let made = postgres.psql(made).await.expect("triggers");
                assert_eq!(before.get_or_insert(made.clone()), &made, "{by_migration}");
            }
        }
    }

    #[tokio::test]
    async fn special_characters_in_names_do_not_break_out_of_the_migration() {
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
        let columns = r"select cardinality(string_to_array(split_part(encode(tgargs, 'escape'), '\000', 2), ' '))
            from pg_trigger where tgname = 'tidegate_update'";
        assert_eq!(postgres.psql(columns).await.expect("columns"), "7");
    }
}
