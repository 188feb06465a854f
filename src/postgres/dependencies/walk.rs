//! The parser's tree, node by node.
//!
//! The parser supports many dialects. A node that Postgres doesn't have means that the parser and the server read the
//! statement differently, so nodes that are not on these lists are rejected.

use std::ops::ControlFlow;

use sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, ObjectName,
    ObjectNamePart, Query, Select, SelectFlavor, SetExpr, Statement, TableAlias, TableFactor,
    Visit, Visitor,
};

use super::name::{Name, fold};
use super::references::{FunctionCall, WalkResult};
use super::scope::QueryScopes;
use super::unanalyzable::Unanalyzable;

/// Walks a query and everything in it.
pub(super) fn walk(query: &Query) -> Result<WalkResult, Unanalyzable> {
    let mut walker = Walker::default();
    match query.visit(&mut walker) {
        ControlFlow::Break(unanalyzable) => Err(unanalyzable),
        // Every relation is visited twice, as a known node and as a bare name. If a relation is in an unknown node, the
        // counts differ.
        ControlFlow::Continue(()) if walker.nodes != walker.names => {
            Err(Unanalyzable::not_understood("a relation in an unknown place"))
        }
        ControlFlow::Continue(()) => Ok(walker.found),
    }
}

#[derive(Default)]
struct Walker {
    found: WalkResult,
    scopes: QueryScopes,
    nodes: usize,
    names: usize,
}

/// Calls that are grammar and have no function of that name.
const GRAMMAR: &[&str] = &[
    "array",
    "coalesce",
    "greatest",
    "grouping",
    "least",
    "nullif",
    "row",
    "xmlconcat",
    "xmlelement",
    "xmlforest",
];

type WalkStep = ControlFlow<Unanalyzable>;

impl Visitor for Walker {
    type Break = Unanalyzable;

    fn pre_visit_query(&mut self, query: &Query) -> WalkStep {
        if !query.locks.is_empty() {
            return WalkStep::Break(Unanalyzable::Locking);
        }
        let foreign = query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty();
        expect(!foreign, "a clause of another dialect")?;
        for cte in query.with.iter().flat_map(|with| &with.cte_tables) {
            expect(cte.from.is_none(), "a clause of another dialect")?;
            self.label(Some(&cte.alias));
        }
        self.scopes.enter(query);
        bodies(&query.body)
    }

    fn post_visit_query(&mut self, query: &Query) -> WalkStep {
        self.scopes.leave(query);
        WalkStep::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> WalkStep {
        if select.into.is_some() {
            return WalkStep::Break(Unanalyzable::NotARead);
        }
        expect(is_postgres(select), "a clause of another dialect")
    }

    fn pre_visit_statement(&mut self, _statement: &Statement) -> WalkStep {
        WalkStep::Break(Unanalyzable::NotARead)
    }

    fn pre_visit_relation(&mut self, _name: &ObjectName) -> WalkStep {
        self.names += 1;
        WalkStep::Continue(())
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> WalkStep {
        match factor {
            TableFactor::Table { .. } => self.table(factor),
            TableFactor::Derived { sample: Some(_), .. } => WalkStep::Break(Unanalyzable::Sampled),
            TableFactor::Derived { alias, .. } | TableFactor::NestedJoin { alias, .. } => {
                self.label(alias.as_ref());
                WalkStep::Continue(())
            }
            TableFactor::Function { name, alias, .. } => self.function_item(name, alias.as_ref()),
            TableFactor::UNNEST { alias, with_offset: false, .. } => {
                let name = ObjectName::from(vec![Ident::new("unnest")]);
                self.function_item(&name, alias.as_ref())
            }
            _ => not_understood("an item of FROM"),
        }
    }

    fn pre_visit_expr(&mut self, expr: &Expr) -> WalkStep {
        match expr {
            Expr::Function(function) => self.function(function),
            Expr::Ceil { .. } => self.keyword_call("ceil"),
            Expr::Floor { .. } => self.keyword_call("floor"),
            Expr::Substring { .. } => self.keyword_call("substring"),
            Expr::Overlay { .. } => self.keyword_call("overlay"),
            Expr::Position { .. } => self.keyword_call("position"),
            Expr::Extract { .. } => self.keyword_call("extract"),
            Expr::AtTimeZone { .. } => self.keyword_call("timezone"),
            _ => expect(is_known(expr), "an expression"),
        }
    }
}

impl Walker {
    fn table(&mut self, factor: &TableFactor) -> WalkStep {
        let TableFactor::Table {
            name,
            alias,
            args,
            with_hints,
            version,
            with_ordinality: _,
            partitions,
            json_path,
            sample,
            index_hints,
        } = factor
        else {
            return not_understood("an item of FROM");
        };
        if sample.is_some() {
            return WalkStep::Break(Unanalyzable::Sampled);
        }
        let plain = with_hints.is_empty()
            && version.is_none()
            && partitions.is_empty()
            && json_path.is_none()
            && index_hints.is_empty()
            && args.as_ref().is_none_or(|args| args.settings.is_none());
        expect(plain, "a clause of another dialect")?;
        self.nodes += 1;
        if args.is_some() {
            return self.function_item(name, alias.as_ref());
        }
        self.label(alias.as_ref());
        self.relation(name)
    }

    fn function_item(&mut self, name: &ObjectName, alias: Option<&TableAlias>) -> WalkStep {
        self.label(alias);
        let called = named(name)?.last().to_owned();
        let item = alias.map_or(called, |alias| folded(&alias.name));
        self.found.function_items.insert(item);
        self.call(name, None)
    }

    fn relation(&mut self, name: &ObjectName) -> WalkStep {
        let name = named(name)?;
        expect(!name.is_long(), "a name of three parts")?;
        if name.as_bare().is_some_and(|bare| self.scopes.sees(bare)) {
            self.found.ctes.insert(name);
        } else {
            self.found.references.relations.insert(name);
        }
        WalkStep::Continue(())
    }

    fn function(&mut self, function: &Function) -> WalkStep {
        let foreign = function.uses_odbc_syntax
            || function.null_treatment.is_some()
            || !matches!(function.parameters, FunctionArguments::None);
        expect(!foreign, "a call of another dialect")?;
        match function.args {
            // A keyword such as CURRENT_DATE: `check` knows those that matter.
            FunctionArguments::None => WalkStep::Continue(()),
            _ if is_grammar(&function.name) => WalkStep::Continue(()),
            _ => self.call(&function.name, arguments(function)),
        }
    }

    fn call(&mut self, name: &ObjectName, arguments: Option<usize>) -> WalkStep {
        let name = named(name)?;
        expect(!name.is_long(), "a name of three parts")?;
        self.found.references.calls.insert(FunctionCall { name: name.clone(), arguments });
        self.found.references.functions.insert(name);
        WalkStep::Continue(())
    }

    fn keyword_call(&mut self, name: &str) -> WalkStep {
        self.found
            .references
            .calls
            .insert(FunctionCall { name: Name::bare(name), arguments: None });
        self.found.references.functions.insert(Name::bare(name));
        WalkStep::Continue(())
    }

    fn label(&mut self, alias: Option<&TableAlias>) {
        self.found.labels.extend(alias.map(|alias| folded(&alias.name)));
    }
}

/// How many arguments a call has, if it is of the plainest form.
fn arguments(function: &Function) -> Option<usize> {
    let FunctionArguments::List(list) = &function.args else { return None };
    let plain = |arg: &FunctionArg| matches!(arg, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
    (function.within_group.is_empty() && list.args.iter().all(plain)).then_some(list.args.len())
}

/// Rejects a body that is no query, within any number of set operations.
fn bodies(body: &SetExpr) -> WalkStep {
    let mut left = vec![body];
    while let Some(body) = left.pop() {
        match body {
            SetExpr::Select(_) | SetExpr::Query(_) | SetExpr::Values(_) => {}
            SetExpr::SetOperation { left: one, right: other, .. } => left.extend([&**one, other]),
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                return WalkStep::Break(Unanalyzable::NotARead);
            }
            SetExpr::Table(_) => return not_understood("TABLE"),
        }
    }
    WalkStep::Continue(())
}

fn is_postgres(select: &Select) -> bool {
    select.flavor == SelectFlavor::Standard
        && select.optimizer_hints.is_empty()
        && select.select_modifiers.is_none()
        && select.top.is_none()
        && select.exclude.is_none()
        && select.lateral_views.is_empty()
        && select.prewhere.is_none()
        && select.connect_by.is_empty()
        && select.cluster_by.is_empty()
        && select.distribute_by.is_empty()
        && select.sort_by.is_empty()
        && select.qualify.is_none()
        && select.value_table_mode.is_none()
}

/// Expressions that Postgres has too, without a name to look up.
fn is_known(expr: &Expr) -> bool {
    !matches!(
        expr,
        Expr::JsonAccess { .. }
            | Expr::RLike { .. }
            | Expr::InUnnest { .. }
            | Expr::Convert { .. }
            | Expr::Prefixed { .. }
            | Expr::Struct { .. }
            | Expr::Dictionary(_)
            | Expr::Map(_)
            | Expr::MatchAgainst { .. }
            | Expr::OuterJoin(_)
            | Expr::Prior(_)
            | Expr::Lambda(_)
            | Expr::MemberOf(_)
    )
}

fn is_grammar(name: &ObjectName) -> bool {
    matches!(&name.0[..], [ObjectNamePart::Identifier(Ident { value, quote_style: None, .. })]
        if GRAMMAR.contains(&value.to_ascii_lowercase().as_str()))
}

fn named(name: &ObjectName) -> ControlFlow<Unanalyzable, Name> {
    let part = |part: &ObjectNamePart| match part {
        ObjectNamePart::Identifier(ident) => Some(folded(ident)),
        ObjectNamePart::Function(_) => None,
    };
    match name.0.iter().map(part).collect::<Option<Vec<_>>>() {
        Some(parts) => ControlFlow::Continue(Name::new(parts)),
        None => ControlFlow::Break(Unanalyzable::not_understood("a name")),
    }
}

fn folded(ident: &Ident) -> String {
    fold(&ident.value, ident.quote_style.is_some())
}

fn expect(holds: bool, what: &str) -> WalkStep {
    if holds { WalkStep::Continue(()) } else { not_understood(what) }
}

fn not_understood(what: &str) -> WalkStep {
    WalkStep::Break(Unanalyzable::not_understood(what))
}
