//! Which rows of a table an answer depends on, where a condition says so.
//!
//! In `select .. from t join u .. where t.c = $1 and ..`, rows of `t` with another `c` have no part in the answer:
//! whatever the join makes of them, the condition drops. That holds if the statement names `t` once, so only the
//! plainest are looked at: one SELECT, of tables by their names, without a query within it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, Query, Select, SetExpr, Statement, TableFactor, Visit, Visitor,
};
use sqlx::PgConnection;

use super::catalog::{Table, tag_name};
use super::name::{Name, fold};
use super::parse::statement;
use super::value::{Compared, Family, Given, Kind};

/// Rows with this value in this column are all that the answer depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Equality {
    pub(crate) column: String,
    /// The column's.
    pub(crate) family: Family,
    pub(crate) value: Given,
}

/// A condition of a statement: relation, column, value.
#[derive(Debug, PartialEq, Eq)]
struct Condition {
    relation: Name,
    column: String,
    value: Compared,
}

/// What a plain statement says of its tables.
#[derive(Debug, Default)]
struct Plain {
    /// By alias.
    relations: BTreeMap<String, Name>,
    conditions: Vec<Condition>,
}

/// Finds the rows that the answer to a statement depends on, of the tables that it reads.
pub(super) async fn narrow(
    conn: &mut PgConnection,
    sql: &str,
    tables: &mut [Table],
) -> Result<(), sqlx::Error> {
    let Some(plain) = plain(sql).filter(|plain| !plain.conditions.is_empty()) else {
        return Ok(());
    };
    // A view, or two partitions of one table, would make one table stand in two places.
    if plain.relations.len() != tables.len() || !are_tables(conn, &plain).await? {
        return Ok(());
    }
    for condition in plain.conditions {
        let Some((name, family)) = column(conn, &condition).await? else { continue };
        let table = tables.iter_mut().find(|table| table.name == name);
        let Some(table) = table.filter(|table| table.columns.contains(&condition.column)) else {
            continue;
        };
        let Condition { column, value, .. } = condition;
        let Some(value) = value.given(family) else { continue };
        let rank = |column: &String| table.columns.iter().position(|known| known == column);
        // The primary key's columns come first, and tell most.
        if table.by.as_ref().is_none_or(|by| rank(&column) < rank(&by.column)) {
            table.by = Some(Equality { column, family, value });
        }
    }
    Ok(())
}

async fn are_tables(conn: &mut PgConnection, plain: &Plain) -> Result<bool, sqlx::Error> {
    let names: Vec<String> = plain.relations.values().map(Name::quoted).collect();
    let sql = "select coalesce(bool_and(c.relkind in ('r', 'p')), false) from unnest($1::text[]) n
        left join pg_catalog.pg_class c on c.oid = pg_catalog.to_regclass(n)";
    sqlx::query_scalar(sql).bind(names).fetch_one(conn).await
}

/// The tag's name of a condition's table, and the family of the column's type, if it is one. None if somebody has
/// defined another `=` that could be meant, or a type by the name of one of these.
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
        where c.oid = pg_catalog.to_regclass($1) and coalesce(o.collisdeterministic, true)
            and not exists (select from pg_catalog.pg_operator p
                join pg_catalog.pg_type t on t.oid in (p.oprleft, p.oprright)
                where p.oprname = '=' and p.oid >= 16384
                    and (t.typtype = 'p' or t.typname = any ($3) and t.oid < 16384))
            and not exists (select from pg_catalog.pg_type t
                where t.typname = any ($3) and t.oid >= 16384
                    and pg_catalog.pg_type_is_visible(t.oid))";
    let query = sqlx::query_as(sql).bind(condition.relation.quoted()).bind(&condition.column);
    let found: Option<(String, String, i64)> =
        query.bind(Kind::WORDS.as_slice()).fetch_optional(conn).await?;
    let known = |(schema, table, oid): (String, String, i64)| {
        Some((tag_name(&schema, &table), Family::of(oid)?))
    };
    Ok(found.and_then(known))
}

/// What a statement says of its tables, if it is plain enough.
fn plain(sql: &str) -> Option<Plain> {
    let Statement::Query(query) = statement(sql).ok()? else { return None };
    if query.with.is_some() || queries_in(&query) != 1 {
        return None;
    }
    let SetExpr::Select(select) = &*query.body else { return None };
    let mut plain = Plain { relations: relations(select)?, conditions: Vec::new() };
    if let Some(condition) = &select.selection {
        plain.add(condition);
    }
    Some(plain)
}

/// The relations of a FROM that has each but once, by what they are called there.
fn relations(select: &Select) -> Option<BTreeMap<String, Name>> {
    let mut relations = BTreeMap::new();
    let joined = select.from.iter().flat_map(|item| item.joins.iter().map(|join| &join.relation));
    for factor in select.from.iter().map(|item| &item.relation).chain(joined) {
        let TableFactor::Table { name, alias, args: None, .. } = factor else { return None };
        let parts: Option<Vec<String>> =
            name.0.iter().map(|part| part.as_ident().map(folded)).collect();
        let parts = parts?;
        let called = match alias {
            Some(alias) if !alias.columns.is_empty() => return None,
            Some(alias) => folded(&alias.name),
            None => parts.last()?.clone(),
        };
        let name = Name::new(parts);
        let is_new = relations.values().all(|known| *known != name);
        if !is_new || relations.insert(called, name).is_some() {
            return None;
        }
    }
    Some(relations)
}

impl Plain {
    /// Adds what a condition says that must hold for each row of the answer.
    fn add(&mut self, condition: &Expr) {
        match condition {
            Expr::Nested(inner) => self.add(inner),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.add(left);
                self.add(right);
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                let one = self.condition(left, right).or_else(|| self.condition(right, left));
                self.conditions.extend(one);
            }
            _ => {}
        }
    }

    fn condition(&self, column: &Expr, value: &Expr) -> Option<Condition> {
        let (relation, column) = match column {
            // Without a name before it, it could be any table's.
            Expr::Identifier(column) if self.relations.len() == 1 => {
                (self.relations.values().next()?, column)
            }
            Expr::CompoundIdentifier(parts) => match &parts[..] {
                [alias, column] => (self.relations.get(&folded(alias))?, column),
                _ => return None,
            },
            _ => return None,
        };
        let (relation, column) = (relation.clone(), folded(column));
        Some(Condition { relation, column, value: Compared::read(value)? })
    }
}

fn folded(name: &Ident) -> String {
    fold(&name.value, name.quote_style.is_some())
}

fn queries_in(query: &Query) -> usize {
    struct Count(usize);
    impl Visitor for Count {
        type Break = ();

        fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
            self.0 += 1;
            ControlFlow::Continue(())
        }
    }
    let mut count = Count(0);
    let _ = query.visit(&mut count);
    count.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a statement says if all columns are of one family.
    fn of(family: Family, sql: &str) -> Vec<String> {
        let told = |one: Condition| {
            let value = match one.value.given(family)? {
                Given::Literal(text) => text,
                Given::Parameter(parameter) => format!("{parameter:?}"),
            };
            Some(format!("{}.{} = {value}", one.relation, one.column))
        };
        plain(sql)
            .map_or_else(Vec::new, |plain| plain.conditions.into_iter().filter_map(told).collect())
    }

    fn conditions(sql: &str) -> Vec<String> {
        of(Family::Integer, sql)
    }

    #[test]
    fn what_must_hold_for_each_row_is_found() {
        let parameter = "Parameter { number: 1, casts: [] }";
        assert_eq!(conditions("select * from T where Id = $1"), [format!("t.id = {parameter}")]);
        assert_eq!(conditions("select * from s.t where (7 = id) and n > 1"), ["s.t.id = 7"]);
        assert_eq!(
            conditions(
                "select * from t a left join u on u.x = a.id where a.id = $1::int and u.k = '3'"
            ),
            ["t.id = Parameter { number: 1, casts: [Int4] }", "u.k = 3"]
        );
        assert_eq!(
            conditions("select count(*) from t where id = -1 group by n having n = 2"),
            ["t.id = -1"]
        );
        assert_eq!(of(Family::Text, "select * from t where t.k = 'x y'::text"), ["t.k = x y"]);
    }

    #[test]
    fn a_value_of_another_spelling_or_type_tells_no_rows_apart() {
        for value in
            ["01", "1.0", "'0x1'", "'1_000'", "1::text", "'1'::text", "-(1)", "-$1", "1::oid"]
                .into_iter()
                .chain([
                    "$1::text",
                    "$1::numeric",
                    "int '1'",
                    "null",
                    "true",
                    "E'1'",
                    "$$1$$",
                    "1 + 0",
                ])
        {
            let sql = format!("select * from t where id = {value}");
            assert_eq!(conditions(&sql), Vec::<String>::new(), "{value}");
        }
        for value in
            ["'it''s'", r"'a\b'", "E'x'", "N'x'", "$$x$$", "x'00'", "b'1'", "1", "'1'::int"]
                .into_iter()
                .chain([
                    "$1::int",
                    "$1::char(3)",
                    "'x'::varchar(1)",
                    "'x'::name",
                    "text 'x'",
                    "'a\nb'",
                ])
        {
            let sql = format!("select * from t where id = {value}");
            assert_eq!(of(Family::Text, &sql), Vec::<String>::new(), "{value}");
        }
    }

    #[test]
    fn what_need_not_hold_or_may_be_another_tables_is_not() {
        for sql in [
            "select * from t where id = $1 or n = 2",
            "select * from t where not id = $1",
            "select * from t where id = n",
            "select * from t where id = n + 1",
            "select * from t where id in ($1)",
            "select * from t, u where id = $1",
            "select * from t a, t b where a.id = $1",
            "select * from t join t b on true where b.id = $1",
            "select * from t left join u on t.id = $1",
            "select * from (select * from t) x where x.id = $1",
            "select *, (select max(id) from t) from t where t.id = $1",
            "with t as (select 1 as id) select * from t where id = $1",
            "select * from t where id = $1 union select * from t",
            "select * from t as x(n, id) where id = $1",
            "select * from f(1) t where t.id = $1",
        ] {
            assert_eq!(conditions(sql), Vec::<String>::new(), "{sql}");
        }
    }
}
