//! Which rows of a table a result depends on, where a condition of the statement says so.
//!
//! That is sound for a table that the statement names once, and reads in no other way: not through a view, and not
//! through a partition or a parent of it.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::conditions::{Condition, conditions};
use super::name::Name;
use super::tracked_table::{Equality, TrackedTable, tag_name};
use super::value::{CastType, Family};

/// Finds the rows that the result of a statement depends on, of the tables that it reads.
pub(super) async fn narrow(
    conn: &mut PgConnection,
    sql: &str,
    tables: &mut [TrackedTable],
) -> Result<(), sqlx::Error> {
    let Some(said) = conditions(sql).filter(|said| !said.conditions.is_empty()) else {
        return Ok(());
    };
    let Some(named) = tags_of(conn, &said.relations).await? else { return Ok(()) };
    let read: BTreeSet<&str> = tables.iter().map(|table| table.name.as_str()).collect();
    if !named.keys().map(String::as_str).eq(read) {
        return Ok(());
    }
    for condition in said.conditions {
        let Some((name, family)) = column(conn, &condition).await? else { continue };
        let table = tables.iter_mut().find(|table| table.name == name);
        if let Some(table) = table.filter(|table| named.get(&table.name) == Some(&1)) {
            table.take(condition, family);
        }
    }
    Ok(())
}

impl TrackedTable {
    fn take(&mut self, condition: Condition, family: Family) {
        let Condition { column, values, .. } = condition;
        let Self { columns, by, compared, .. } = self;
        let values: Option<Vec<_>> = values.iter().map(|value| value.given(family)).collect();
        let Some(values) = values else { return };
        if columns.contains(&column) {
            by.push(Equality { column, family, values });
            // The primary key's columns come first, and are the most selective.
            by.sort_by_key(|by| columns.iter().position(|column| *column == by.column));
        } else if !compared.contains(&column) {
            compared.push(column);
        }
    }
}

/// The tags of tables by their names, and how often each is named; `None` if one of the names is not a table's.
async fn tags_of(
    conn: &mut PgConnection,
    names: &[Name],
) -> Result<Option<BTreeMap<String, usize>>, sqlx::Error> {
    let sql = "select case when c.relkind in ('r', 'p') then s.nspname::text end, c.relname::text
        from pg_catalog.unnest($1::text[]) n
        left join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(n)::oid
        left join pg_catalog.pg_namespace s on s.oid = c.relnamespace";
    let names: Vec<String> = names.iter().map(Name::quoted).collect();
    let found: Vec<(Option<String>, Option<String>)> =
        sqlx::query_as(sql).bind(names).fetch_all(conn).await?;
    let mut tags = BTreeMap::new();
    for (schema, table) in found {
        let (Some(schema), Some(table)) = (schema, table) else { return Ok(None) };
        *tags.entry(tag_name(&schema, &table)).or_default() += 1;
    }
    Ok(Some(tags))
}

/// The tag name of a condition's table, and the family of the column's type, if it has one. `None` if a user has defined an
/// `=` that could be meant, or a type with the name of a known one; or if the server's encoding could write a text
/// differently than the client's.
async fn column(
    conn: &mut PgConnection,
    condition: &Condition,
) -> Result<Option<(String, Family)>, sqlx::Error> {
    let sql = "
        select n.nspname::text, c.relname::text, a.atttypid::int8
        from pg_catalog.pg_class c
        join pg_catalog.pg_namespace n on n.oid = c.relnamespace
        join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attname = $2 and a.attnum > 0
            and not a.attisdropped
        left join pg_catalog.pg_collation o on o.oid = a.attcollation
        where c.oid = pg_catalog.to_regclass($1)::oid and coalesce(o.collisdeterministic, true)
            and (a.atttypid not in ('25'::oid, '1043'::oid)
                or pg_catalog.current_setting('server_encoding') = 'UTF8')
            and not exists (select from pg_catalog.pg_operator p
                join pg_catalog.pg_type t on t.oid in (p.oprleft, p.oprright)
                where p.oprname = '=' and p.oid >= '16384'::oid
                    and (t.typtype = 'p' or t.typname = any ($3) and t.oid < '16384'::oid))
            and not exists (select from pg_catalog.pg_type t
                where t.typname = any ($3) and t.oid >= '16384'::oid
                    and pg_catalog.pg_type_is_visible(t.oid))";
    let query = sqlx::query_as(sql).bind(condition.relation.quoted()).bind(&condition.column);
    let found: Option<(String, String, i64)> =
        query.bind(CastType::WORDS.as_slice()).fetch_optional(conn).await?;
    let known = |(schema, table, oid): (String, String, i64)| {
        Some((tag_name(&schema, &table), Family::from_oid(oid)?))
    };
    Ok(found.and_then(known))
}
