//! The dependencies of a query's result.

use super::unanalyzable::Unanalyzable;
use super::value::{Family, ValueSource};

/// What the result of a query depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Dependencies {
    /// These tables and nothing else.
    Tables(Vec<TrackedTable>),
    /// Something whose changes can't be detected, or that can't be analysed.
    Unanalyzable(Unanalyzable),
}

/// A table whose changes are seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TrackedTable {
    /// Its tag, which is its topmost parent's: `name` in schema public, else `schema.name`.
    pub(crate) name: String,
    /// The columns whose values have their own tags, `name:column=value`. A statement that changes many rows changes the
    /// tag `name!` instead, so a result that depends on a value's tag also depends on `name!`.
    pub(crate) columns: Vec<String>,
    /// The known conditions on the rows that are read, by the order of `columns`. Each of them alone covers all of these
    /// rows.
    pub(crate) by: Vec<Equality>,
    /// The columns that the statement compares with values and that are not among `columns`. If they were, the result
    /// would depend on fewer rows.
    pub(crate) compared: Vec<String>,
}

/// Rows with one of these values in this column are all that the result depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Equality {
    pub(crate) column: String,
    /// The column's.
    pub(crate) family: Family,
    pub(crate) values: Vec<ValueSource>,
}

/// The name that a table's tag has.
pub(crate) fn tag_name(schema: &str, name: &str) -> String {
    if schema == "public" { name.to_owned() } else { format!("{schema}.{name}") }
}
