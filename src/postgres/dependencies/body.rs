//! What the body of a function shows, where that is text.

use std::collections::BTreeSet;

use super::check::Words;
use super::lex::{Token, lex};
use super::parse::{Analysis, analyze, attributes, operators};
use super::walk::Found;

/// Words that end a list of FROM, in SQL or in PL/pgSQL.
const ENDS: &[&str] = &[
    "where",
    "group",
    "order",
    "having",
    "limit",
    "offset",
    "fetch",
    "for",
    "union",
    "except",
    "intersect",
    "window",
    "into",
    "loop",
    "then",
    "returning",
    "set",
    "select",
];

/// Words that begin a query within parentheses; any other there is a relation's name.
const QUERIES: &[&str] = &["select", "values", "with", "table"];

/// What a body may call, without schemas and types, which its text does not tell for sure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// Names before a parenthesis.
    pub(super) functions: BTreeSet<String>,
    /// Names after a dot, which may be those of functions of one argument.
    pub(super) attributes: BTreeSet<String>,
    /// Runs of operator characters.
    pub(super) operators: BTreeSet<String>,
}

/// What a body calls; `None` if it reads a relation, or may.
///
/// A text that Postgres would run as one query is read as such. Of any other the words must do, by which a CTE
/// counts as a relation.
pub(super) fn calls(body: &str) -> Option<Calls> {
    let tokens = lex(body).ok()?;
    let reads = match analyze(body) {
        Analysis::Read(references) => !references.relations.is_empty(),
        Analysis::Other(_) => names_a_relation(&tokens),
    };
    (!reads).then(|| Calls {
        functions: called(&tokens),
        attributes: attributes(&tokens, |_| true),
        operators: operators(&tokens),
    })
}

fn called(tokens: &[Token]) -> BTreeSet<String> {
    let call = |pair: &[Token]| match pair {
        [Token::Word { text, .. }, Token::Mark('(')] => Some(text.clone()),
        _ => None,
    };
    tokens.windows(2).filter_map(call).collect()
}

/// Whether any name stands where a relation does.
fn names_a_relation(tokens: &[Token]) -> bool {
    let found = Found::default();
    let words = Words::new(tokens, &found);
    // For each open parenthesis, the keyword before it and whether a list of FROM goes on in it.
    let mut open: Vec<(Option<&str>, bool)> = vec![(None, false)];
    let mut item = false;
    for (at, token) in tokens.iter().enumerate() {
        let starts_item = std::mem::take(&mut item);
        let inside = open.last().copied().unwrap_or_default();
        match token {
            Token::Mark('(') => {
                let before = at.checked_sub(1).and_then(|at| tokens[at].keyword());
                let is_query = words.keyword(at + 1).is_some_and(|word| QUERIES.contains(&word));
                item = starts_item && !is_query;
                open.push((before, item));
            }
            Token::Mark(')') => drop(open.pop()),
            Token::Mark(',') => item = inside.1,
            Token::Mark(';') => open = vec![(None, false)],
            Token::Word { .. } if starts_item => {
                let is_prefix =
                    words.keyword(at).is_some_and(|word| matches!(word, "only" | "lateral"));
                if !is_prefix && words.is_relation(at) {
                    return true;
                }
                item = is_prefix;
            }
            Token::Word { .. } => {
                let list = words.brings_relation(at, inside.0);
                item = list;
                let ends = words.keyword(at).is_some_and(|word| ENDS.contains(&word));
                if let Some(last) = open.last_mut() {
                    last.1 = (last.1 && !ends) || list;
                }
            }
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_names_a_relation_anywhere_reads() {
        for body in [
            "select * from t",
            "select 1; select count(*) from t",
            "begin return (select count(*) from only s.t); end",
            "begin for r in select * from f(1), t loop null; end loop; end",
            "begin perform 1 from f(1) x, lateral t where true; end",
            "begin perform 1 from (t cross join f(1)); end",
            "begin perform 1 from (select 1) x join \"T\" on true; end",
            "begin return query table t; end",
            "begin perform extract(year from (select max(d) from t)); end",
            "begin x := y is distinct from (select z from t); end",
            "begin delete from t; end",
            "begin return U&'x'; end",
        ] {
            assert_eq!(calls(body), None, "{body}");
        }
    }

    #[test]
    fn a_body_that_names_none_does_not() {
        for (body, called) in [
            ("select $1 * 2", ""),
            ("begin return extract(year from d) + f(x); end", "extract f"),
            ("begin return x is distinct from y and x is not distinct from z; end", ""),
            ("begin return trim(both ' ' from t) || substring(t from 2); end", "substring trim"),
            ("begin for i in 1..3 loop r := r || s.g(i); end loop; end", "g"),
            (
                "begin x := (select sum(a) from unnest(x) u (a), f(1) where b in (1, 2)); end",
                "f in sum u unnest",
            ),
            (
                "begin x := (select a from (select b(1)) c, (values (1), (2)) d (e)); end",
                "b d from values",
            ),
            ("begin return 'select * from t'; -- from t\n end", ""),
        ] {
            let names = |calls: Calls| calls.functions.into_iter().collect::<Vec<_>>().join(" ");
            let names = calls(body).map(names);
            assert_eq!(names.as_deref(), Some(called), "{body}");
        }
    }
}
