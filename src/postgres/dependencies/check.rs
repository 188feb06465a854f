//! The second line of defence: everything that the words alone show must also be in the tree.
//!
//! Every name before a parenthesis is a call, unless it is a keyword or a label; every name after FROM or JOIN is a
//! relation. If the tree misses one of them, the statement is rejected here.

use super::lex::SqlToken;
use super::name::Name;
use super::references::WalkResult;
use super::unanalyzable::Unanalyzable;

/// Unquoted words that can stand before a parenthesis and can't name a function: Postgres'
/// reserved words and those that can name a column only.
const NO_FUNCTIONS: &[&str] = &[
    "all",
    "and",
    "any",
    "array",
    "as",
    "asymmetric",
    "between",
    "bigint",
    "bit",
    "boolean",
    "both",
    "by",
    "case",
    "cast",
    "char",
    "character",
    "coalesce",
    "cube",
    "dec",
    "decimal",
    "distinct",
    "else",
    "except",
    "exists",
    "float",
    "for",
    "from",
    "greatest",
    "group",
    "grouping",
    "having",
    "ilike",
    "in",
    "int",
    "integer",
    "intersect",
    "interval",
    "into",
    "is",
    "join",
    "lateral",
    "leading",
    "least",
    "like",
    "limit",
    "materialized",
    "national",
    "nchar",
    "normalize",
    "not",
    "nullif",
    "numeric",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "precision",
    "real",
    "returning",
    "rollup",
    "row",
    "rows",
    "select",
    "sets",
    "similar",
    "smallint",
    "some",
    "symmetric",
    "table",
    "then",
    "time",
    "timestamp",
    "to",
    "trailing",
    "trim",
    "union",
    "using",
    "values",
    "varchar",
    "variadic",
    "varying",
    "when",
    "where",
    "window",
    "with",
    "xmlattributes",
    "xmlconcat",
    "xmlelement",
    "xmlforest",
    "zone",
    "escape",
    "operator",
];

/// Words between two parentheses that go on with a call.
const AFTER_CALL: &[&str] = &["over", "filter", "within", "repeatable"];

/// Keywords whose value is a property of the connection.
const SESSION: &[&str] = &[
    "current_user",
    "session_user",
    "system_user",
    "user",
    "current_role",
    "current_schema",
    "current_catalog",
];

/// Types whose values are names in the catalogue.
const TYPES: &[&str] = &[
    "regclass",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regtype",
    "regrole",
    "regnamespace",
    "regcollation",
];

/// Columns that no trigger watches.
const COLUMNS: &[&str] = &["ctid", "xmin", "xmax", "cmin", "cmax"];

/// Calls whose own grammar has a FROM that is followed by a value.
const FROM_INSIDE: &[&str] = &["extract", "substring", "trim", "overlay"];

/// Compares the words with the tree.
pub(super) fn check(tokens: &[SqlToken], found: &WalkResult) -> Result<(), Unanalyzable> {
    let words = TextWords::new(tokens, found);
    let mut open = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            SqlToken::Mark('(') => open.push(at.checked_sub(1).and_then(|at| tokens[at].keyword())),
            SqlToken::Mark(')') => drop(open.pop()),
            SqlToken::Word { .. } => words.check(at, open.last().copied().flatten())?,
            _ => {}
        }
    }
    Ok(())
}

/// The words of a text, beside the names in its tree.
pub(super) struct TextWords<'a> {
    tokens: &'a [SqlToken],
    found: &'a WalkResult,
}

impl<'a> TextWords<'a> {
    pub(super) fn new(tokens: &'a [SqlToken], found: &'a WalkResult) -> Self {
        Self { tokens, found }
    }

    /// Whether an item of FROM comes after this word, within the parenthesis after `inside`.
    pub(super) fn brings_relation(&self, at: usize, inside: Option<&str>) -> bool {
        let Some(word) = self.keyword(at) else { return false };
        let label =
            self.before(at) == Some(&SqlToken::Mark('.')) || self.keyword_before(at, &["as"]);
        let value = word == "from"
            && (self.keyword_before(at, &["distinct"]) && self.is_comparison(at)
                || inside.is_some_and(|call| FROM_INSIDE.contains(&call)));
        !label && !value && matches!(word, "from" | "join" | "table")
    }

    /// Whether the name that begins here is not a called function's.
    pub(super) fn is_relation(&self, at: usize) -> bool {
        let parts = self.name_from(at).parts();
        self.get(at + 2 * parts - 1) != Some(&SqlToken::Mark('('))
    }

    fn check(&self, at: usize, inside: Option<&str>) -> Result<(), Unanalyzable> {
        self.system_word(at)?;
        if self.get(at + 1) == Some(&SqlToken::Mark('(')) && !self.is_known_call(at) {
            return Err(Unanalyzable::not_understood(format!(
                "{} before a parenthesis",
                self.name(at)
            )));
        }
        match self.relation_after(at, inside) {
            Some(name) if !self.is_known_relation(&name) => {
                Err(Unanalyzable::not_understood(format!("{name} after FROM or JOIN")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the word here is a property of the connection, or a type whose values are names in the catalogue.
    pub(super) fn is_of_server(&self, at: usize) -> bool {
        self.is_of_session(at) || self.is_word(at, TYPES)
    }

    fn system_word(&self, at: usize) -> Result<(), Unanalyzable> {
        let SqlToken::Word { text, .. } = &self.tokens[at] else { return Ok(()) };
        if self.is_of_session(at) {
            return Err(Unanalyzable::SessionDependent(text.clone()));
        }
        if self.is_word(at, TYPES) || self.is_word(at, COLUMNS) {
            return Err(Unanalyzable::System(text.clone()));
        }
        Ok(())
    }

    fn is_of_session(&self, at: usize) -> bool {
        let label =
            self.before(at) == Some(&SqlToken::Mark('.')) || self.keyword_before(at, &["as"]);
        !label && self.keyword(at).is_some_and(|word| SESSION.contains(&word))
    }

    /// Whether the word here, in quotes or not, is one of these.
    fn is_word(&self, at: usize, among: &[&str]) -> bool {
        matches!(self.get(at), Some(SqlToken::Word { text, .. }) if among.contains(&text.as_str()))
    }

    fn is_known_call(&self, at: usize) -> bool {
        let name = self.name(at);
        if self.found.references.functions.contains(&name) {
            return true;
        }
        let Some(bare) = name.as_bare() else { return false };
        let keyword = self.tokens[at].keyword();
        keyword.is_some_and(|word| NO_FUNCTIONS.contains(&word))
            || self.found.labels.contains(bare)
            // A type, or a label with columns: neither place can hold a call.
            || self.before(at) == Some(&SqlToken::Cast)
            || self.keyword_before(at, &["as"])
            || (self.before(at) == Some(&SqlToken::Mark(')'))
                && keyword.is_some_and(|word| AFTER_CALL.contains(&word)))
            || (keyword == Some("group") && self.keyword_before(at, &["within"]))
    }

    /// The name of the relation that a FROM or JOIN at this place brings.
    fn relation_after(&self, at: usize, inside: Option<&str>) -> Option<Name> {
        if !self.brings_relation(at, inside) {
            return None;
        }
        let mut next = at + 1;
        while self.keyword(next).is_some_and(|word| matches!(word, "only" | "lateral")) {
            next += 1;
        }
        matches!(self.get(next)?, SqlToken::Word { .. }).then(|| self.name_from(next))
    }

    /// Whether the DISTINCT before this FROM is that of IS [NOT] DISTINCT FROM.
    fn is_comparison(&self, from: usize) -> bool {
        from.checked_sub(1).is_some_and(|distinct| self.keyword_before(distinct, &["is", "not"]))
    }

    fn is_known_relation(&self, name: &Name) -> bool {
        let WalkResult { references, ctes, .. } = self.found;
        references.relations.contains(name)
            || references.functions.contains(name)
            || ctes.contains(name)
    }

    /// The dotted name that ends here.
    fn name(&self, at: usize) -> Name {
        let mut start = at;
        while start >= 2
            && self.tokens[start - 1] == SqlToken::Mark('.')
            && matches!(self.tokens[start - 2], SqlToken::Word { .. })
        {
            start -= 2;
        }
        self.name_from(start)
    }

    /// The dotted name that begins here.
    fn name_from(&self, start: usize) -> Name {
        let mut parts = Vec::new();
        let mut at = start;
        while let Some(SqlToken::Word { text, .. }) = self.get(at) {
            parts.push(text.clone());
            if self.get(at + 1) != Some(&SqlToken::Mark('.')) {
                break;
            }
            at += 2;
        }
        Name::new(parts)
    }

    fn get(&self, at: usize) -> Option<&'a SqlToken> {
        self.tokens.get(at)
    }

    fn before(&self, at: usize) -> Option<&'a SqlToken> {
        at.checked_sub(1).and_then(|at| self.get(at))
    }

    pub(super) fn keyword(&self, at: usize) -> Option<&'a str> {
        self.get(at).and_then(SqlToken::keyword)
    }

    fn keyword_before(&self, at: usize, among: &[&str]) -> bool {
        self.before(at).and_then(SqlToken::keyword).is_some_and(|word| among.contains(&word))
    }
}
