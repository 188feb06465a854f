//! Finds the conditions in a statement's text that each row of a table must meet to contribute to the result.
//!
//! In `select .. from t join u .. where t.c = $1 and ..`, rows of `t` with another `c` have no part in the result:
//! whatever the join makes of them, the condition drops. The same holds for the condition of an inner join, for the
//! part of a left join's condition about its right side, and within each query of a statement.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use sqlparser::ast::{
    BinaryOperator, Expr, Ident, Join, JoinConstraint, JoinOperator, ObjectName, Query, Select,
    SetExpr, Statement, TableFactor, Visit, Visitor,
};

use super::lex::{SqlToken, lex};
use super::name::{Name, fold};
use super::parse::statement;
use super::value::ComparedWith;

/// A condition with more values is ignored.
const VALUES: usize = 100;

/// A condition: the column has one of the values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) relation: Name,
    pub(super) column: String,
    pub(super) values: Vec<ComparedWith>,
}

/// The tables and conditions in the queries of a statement.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    /// The relations that they name, each as often as they do.
    pub(super) relations: Vec<Name>,
    pub(super) conditions: Vec<Condition>,
    /// The names that WITH defines.
    ctes: BTreeSet<String>,
    /// The relations that the parser sees, which must be the same.
    seen: usize,
}

/// The relations of one FROM, by their names or aliases there; `None` for an item that is not a table.
type From = BTreeMap<String, Option<Name>>;

/// The conditions of a statement, if all of it is of a known form.
pub(super) fn conditions(sql: &str) -> Option<Conditions> {
    let Statement::Query(query) = statement(sql).ok()? else { return None };
    if !has_plain_comparisons(sql) {
        return None;
    }
    let mut conditions = Conditions::default();
    let _ = query.visit(&mut Ctes(&mut conditions.ctes));
    if query.visit(&mut conditions).is_break() {
        return None;
    }
    // A name that refers to a table in one place and to a CTE in another.
    let is_ambiguous = |name: &Name| conditions.ctes.contains(name.last());
    let is_whole = conditions.seen == 0 && !conditions.relations.iter().any(is_ambiguous);
    is_whole.then_some(conditions)
}

/// Whether `=` is in no operator but those that every server has. The parser takes `==` for `=`, and the first character
/// of `=@` for it, where Postgres reads one operator, which users can define.
fn has_plain_comparisons(sql: &str) -> bool {
    const PLAIN: [&str; 4] = ["=", "<=", ">=", "!="];
    // A minus sign at the end of an operator is one of its own.
    let is_plain = |run: &str| !run.contains('=') || PLAIN.contains(&run.trim_end_matches('-'));
    let is_fit = |token: &SqlToken| !matches!(token, SqlToken::Operator(run) if !is_plain(run));
    lex(sql).is_ok_and(|tokens| tokens.iter().all(is_fit))
}

struct Ctes<'a>(&'a mut BTreeSet<String>);

impl Visitor for Ctes<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let ctes = query.with.iter().flat_map(|with| &with.cte_tables);
        self.0.extend(ctes.map(|cte| folded(&cte.alias.name)));
        ControlFlow::Continue(())
    }
}

impl Visitor for Conditions {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        match self.add_set(&query.body) {
            Some(()) => ControlFlow::Continue(()),
            None => ControlFlow::Break(()),
        }
    }

    fn pre_visit_relation(&mut self, _relation: &ObjectName) -> ControlFlow<()> {
        match self.seen.checked_sub(1) {
            Some(left) => self.seen = left,
            None => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    }
}

impl Conditions {
    fn add_set(&mut self, body: &SetExpr) -> Option<()> {
        match body {
            SetExpr::Select(select) => self.add_select(select),
            SetExpr::SetOperation { left, right, .. } => {
                self.add_set(left)?;
                self.add_set(right)
            }
            // These are visited as queries.
            SetExpr::Query(_) | SetExpr::Values(_) => Some(()),
            _ => None,
        }
    }

    fn add_select(&mut self, select: &Select) -> Option<()> {
        let mut from = From::new();
        for item in &select.from {
            self.add_factor(&item.relation, &mut from)?;
            for join in &item.joins {
                let called = self.add_factor(&join.relation, &mut from)?;
                self.add_join(join, &called, &from)?;
            }
        }
        if let Some(condition) = &select.selection {
            self.add(condition, &from, from.len() == 1);
        }
        Some(())
    }

    /// Returns the name of the relation in the query.
    fn add_factor(&mut self, factor: &TableFactor, from: &mut From) -> Option<String> {
        let (called, relation) = match factor {
            TableFactor::Table { name, alias, args: None, .. } => {
                let parts: Option<Vec<String>> =
                    name.0.iter().map(|part| part.as_ident().map(folded)).collect();
                let name = Name::new(parts?);
                let called = match alias {
                    Some(alias) if !alias.columns.is_empty() => return None,
                    Some(alias) => folded(&alias.name),
                    None => name.last().to_owned(),
                };
                self.seen += 1;
                let is_cte = name.as_bare().is_some_and(|name| self.ctes.contains(name));
                (called, (!is_cte).then_some(name))
            }
            TableFactor::Derived { alias, .. } => (folded(&alias.as_ref()?.name), None),
            _ => return None,
        };
        self.relations.extend(relation.clone());
        from.insert(called.clone(), relation).is_none().then_some(called)
    }

    /// Adds the condition of a join.
    fn add_join(&mut self, join: &Join, called: &str, from: &From) -> Option<()> {
        let (constraint, side) = match &join.join_operator {
            JoinOperator::Join(on) | JoinOperator::Inner(on) => (on, from.clone()),
            // A left join keeps all rows of its left side, so its condition restricts only the right side.
            JoinOperator::Left(on) | JoinOperator::LeftOuter(on) => {
                let right = from.get(called).cloned().flatten();
                (on, From::from([(called.to_owned(), right)]))
            }
            JoinOperator::CrossJoin(_)
            | JoinOperator::Right(_)
            | JoinOperator::RightOuter(_)
            | JoinOperator::FullOuter(_) => return Some(()),
            _ => return None,
        };
        if let JoinConstraint::On(condition) = constraint {
            self.add(condition, &side, false);
        }
        Some(())
    }

    /// Adds the comparisons of a condition that must hold. `is_alone`: there is only one relation, so an unqualified column
    /// belongs to it.
    fn add(&mut self, condition: &Expr, from: &From, is_alone: bool) {
        match condition {
            Expr::Nested(inner) => self.add(inner, from, is_alone),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.add(left, from, is_alone);
                self.add(right, from, is_alone);
            }
            _ => {
                let of = |(column, values): Side<'_>| {
                    let (relation, column) = column_of(column, from, is_alone)?;
                    Some(Condition { relation, column, values: values? })
                };
                let found = compared(condition).into_iter();
                self.conditions.extend(found.filter_map(|sides| sides.into_iter().find_map(of)));
            }
        }
    }
}

/// An expression that may be a column, and the values of which it must have one, if they are known.
type Side<'a> = (&'a Expr, Option<Vec<ComparedWith>>);

/// The comparisons that must all hold for a condition to hold, in either order of `=`.
fn compared(condition: &Expr) -> Vec<Vec<Side<'_>>> {
    match condition {
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => match (&**left, &**right) {
            (Expr::Tuple(left), Expr::Tuple(right)) if left.len() == right.len() => {
                left.iter().zip(right).map(|(left, right)| either(left, right)).collect()
            }
            (left, right) => vec![either(left, right)],
        },
        Expr::InList { expr, list, negated: false } if list.len() <= VALUES => match &**expr {
            Expr::Tuple(columns) => in_rows(columns, list),
            column => vec![vec![(column, list.iter().map(ComparedWith::read).collect())]],
        },
        Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
            vec![vec![(left, ComparedWith::read_array(right).map(|array| vec![array]))]]
        }
        _ => Vec::new(),
    }
}

fn either<'a>(left: &'a Expr, right: &'a Expr) -> Vec<Side<'a>> {
    let one = |value| Some(vec![ComparedWith::read(value)?]);
    vec![(left, one(right)), (right, one(left))]
}

/// `(a, b) in ((1, 2), ..)`: each column has one of the values at its place.
fn in_rows<'a>(columns: &'a [Expr], rows: &[Expr]) -> Vec<Vec<Side<'a>>> {
    let at = |place: usize, row: &Expr| match row {
        Expr::Tuple(values) if values.len() == columns.len() => ComparedWith::read(&values[place]),
        _ => None,
    };
    let values = |place| rows.iter().map(|row| at(place, row)).collect();
    columns.iter().enumerate().map(|(place, column)| vec![(column, values(place))]).collect()
}

fn column_of(column: &Expr, from: &From, is_alone: bool) -> Option<(Name, String)> {
    let (relation, column) = match column {
        Expr::Identifier(column) if is_alone => (from.values().next()?, column),
        Expr::CompoundIdentifier(parts) => match &parts[..] {
            [alias, column] => (from.get(&folded(alias))?, column),
            [schema, table, column] => {
                let name = Name::new(vec![folded(schema), folded(table)]);
                let found = from.get(name.last())?;
                (found.as_ref().is_some_and(|found| *found == name).then_some(found)?, column)
            }
            _ => return None,
        },
        _ => return None,
    };
    Some((relation.clone()?, folded(column)))
}

fn folded(name: &Ident) -> String {
    fold(&name.value, name.quote_style.is_some())
}

#[cfg(test)]
mod tests;
