//! Names as Postgres reads them.

use std::fmt;

use crate::postgres::quote::identifier;

/// Longer names are cut by Postgres, which we don't imitate.
pub(super) const NAME_MAX: usize = 63;

/// A name of one part or more, folded: unquoted parts are in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Name(Vec<String>);

impl Name {
    pub(super) fn new(parts: Vec<String>) -> Self {
        Self(parts)
    }

    /// A name without a schema, which is searched for on the search path.
    pub(super) fn bare(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }

    /// The name as SQL.
    pub(super) fn quoted(&self) -> String {
        self.0.iter().map(|part| identifier(part)).collect::<Vec<_>>().join(".")
    }

    /// Of how many parts it is.
    pub(super) fn parts(&self) -> usize {
        self.0.len()
    }

    /// The name when it has no schema.
    pub(super) fn as_bare(&self) -> Option<&str> {
        self.schema().is_none().then(|| self.last())
    }

    /// The schema, where there is one.
    pub(super) fn schema(&self) -> Option<&str> {
        self.0.len().checked_sub(2).map(|at| self.0[at].as_str())
    }

    /// The name within its schema.
    pub(super) fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }

    /// Whether it names a database as well, or a field of a field.
    pub(super) fn is_long(&self) -> bool {
        self.0.len() > 2
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// Unquoted names fold as Postgres does in a multi-byte encoding: ASCII letters only.
pub(super) fn fold(text: &str, quoted: bool) -> String {
    if quoted { text.to_owned() } else { text.to_ascii_lowercase() }
}
