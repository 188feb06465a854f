//! The objects that a statement refers to, by name or implicitly.

use std::collections::BTreeSet;

use crate::postgres::dependencies::References;

/// Operators that a query uses unseen: for LIKE, IN, BETWEEN, CASE, DISTINCT, USING, sorting,
/// grouping, `GREATEST`, and subtraction in window frames.
pub(super) const UNSEEN: &[&str] =
    &["=", "<>", "<", "<=", ">", ">=", "~~", "!~~", "~~*", "!~~*", "~", "!~", "+", "-"];

/// Everything that a statement and its views refer to.
#[derive(Debug, Default)]
pub(super) struct StatementParts {
    pub(super) relations: BTreeSet<i64>,
    pub(super) functions: BTreeSet<i64>,
    pub(super) words: BTreeSet<String>,
    pub(super) operators: BTreeSet<String>,
}

impl StatementParts {
    /// Adds the references of a text.
    pub(super) fn add(&mut self, references: &References) {
        self.words.extend(references.words.iter().cloned());
        self.operators.extend(references.operators.iter().cloned());
    }

    /// Whether the statement may use an operator, by its name.
    pub(super) fn may_use(&self, operator: &str) -> bool {
        UNSEEN.contains(&operator) || self.operators.iter().any(|run| run.contains(operator))
    }
}
