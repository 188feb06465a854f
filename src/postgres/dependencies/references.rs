//! The names that a statement refers to.

use std::collections::BTreeSet;

use super::name::Name;

/// The names in a query that the catalogue must explain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct References {
    /// The relations whose rows it reads: tables, views or others.
    pub(crate) relations: BTreeSet<Name>,
    /// The functions that it calls, in expressions and in FROM.
    pub(crate) functions: BTreeSet<Name>,
    /// Each form of call: by these names, and by names after a dot that may follow a value of any type.
    pub(crate) calls: BTreeSet<FunctionCall>,
    /// Every name after a dot: `row.name` calls a function of a row if the row has no such column.
    pub(crate) attributes: BTreeSet<String>,
    /// Those that may follow a value of any type, as in `(value).name` and `item.name`, where the item is a function in
    /// FROM: these call a function of one argument of any type.
    pub(crate) attributes_of_values: BTreeSet<String>,
    /// Runs of operator characters; an operator of the query is a part of one of them.
    pub(crate) operators: BTreeSet<String>,
    /// Every name, of types too.
    pub(crate) words: BTreeSet<String>,
}

/// A call of a function by name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FunctionCall {
    pub(crate) name: Name,
    /// The number of arguments; `None` if it is not plain to see.
    pub(crate) arguments: Option<usize>,
}

/// The names in the parser's tree.
#[derive(Debug, Default)]
pub(super) struct WalkResult {
    pub(super) references: References,
    /// Names of CTEs and aliases with columns, which may stand before a parenthesis.
    pub(super) labels: BTreeSet<String>,
    /// CTEs read as relations.
    pub(super) ctes: BTreeSet<Name>,
    /// Aliases of functions in FROM, whose rows may be plain values.
    pub(super) function_items: BTreeSet<String>,
}
