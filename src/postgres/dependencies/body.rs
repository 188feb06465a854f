//! Analyses the body of a function that is stored as text.

use std::collections::BTreeSet;

use super::check::TextWords;
use super::clock::mentions_clock;
use super::lex::{SqlToken, lex};
use super::parse::{Analysis, analyze, operators};
use super::references::WalkResult;

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

/// The calls that a body may make. Argument types are not included, since the text does not determine them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    pub(super) functions: BTreeSet<Call>,
    /// Runs of operator characters.
    pub(super) operators: BTreeSet<String>,
    /// Whether it may read the time of day.
    pub(super) reads_clock: bool,
}

/// A name in a body that may be a call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Call {
    pub(super) name: String,
    /// The schema, if there is one before the name.
    pub(super) schema: Option<String>,
    pub(super) arguments: usize,
    /// Whether it is a name after a dot without a parenthesis: a function of one argument, or a column.
    pub(super) is_attribute: bool,
}

/// The calls of a body; `None` if it reads a relation or the state of the connection, or may do so.
///
/// A text that Postgres would run as one query is parsed as a query. Any other is judged by its words, by which a CTE
/// counts as a relation.
pub(super) fn calls(body: &str) -> Option<Calls> {
    let tokens = lex(body).ok()?;
    let found = WalkResult::default();
    let words = TextWords::new(&tokens, &found);
    let reads = match analyze(body) {
        Analysis::Read(references) => !references.relations.is_empty(),
        Analysis::Other(_) => names_a_relation(&tokens, &words),
    };
    let reads = reads || (0..tokens.len()).any(|at| words.is_of_server(at));
    (!reads).then(|| Calls {
        functions: called(&tokens),
        operators: operators(&tokens),
        reads_clock: mentions_clock(body),
    })
}

fn called(tokens: &[SqlToken]) -> BTreeSet<Call> {
    let mut calls = BTreeSet::new();
    // The open brackets, and how many commas there were in each.
    let mut open: Vec<(usize, usize)> = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        match token {
            SqlToken::Mark('(' | '[') => open.push((at, 0)),
            SqlToken::Mark(')' | ']') => {
                calls.extend(open.pop().and_then(|(from, commas)| call(tokens, from, at, commas)));
            }
            SqlToken::Mark(',') => open.last_mut().into_iter().for_each(|(_, commas)| *commas += 1),
            SqlToken::Mark('.') => calls.extend(attribute(tokens, at)),
            _ => {}
        }
    }
    // Such a body can't run, or is not understood.
    calls.extend(
        open.into_iter().filter_map(|(from, commas)| call(tokens, from, tokens.len(), commas)),
    );
    calls
}

/// The call whose arguments are between these two brackets.
fn call(tokens: &[SqlToken], from: usize, to: usize, commas: usize) -> Option<Call> {
    let at = from.checked_sub(1).filter(|_| tokens[from] == SqlToken::Mark('('))?;
    let SqlToken::Word { text, .. } = &tokens[at] else { return None };
    let schema = match &tokens[..at] {
        [.., SqlToken::Word { text, .. }, SqlToken::Mark('.')] => Some(text.clone()),
        _ => None,
    };
    let arguments = if to == from + 1 { 0 } else { commas + 1 };
    Some(Call { name: text.clone(), schema, arguments, is_attribute: false })
}

/// The call by the name after this dot, if it is not a column.
fn attribute(tokens: &[SqlToken], dot: usize) -> Option<Call> {
    let Some(SqlToken::Word { text, .. }) = tokens.get(dot + 1) else { return None };
    let is_called = tokens.get(dot + 2) == Some(&SqlToken::Mark('('));
    let call = Call { name: text.clone(), schema: None, arguments: 1, is_attribute: true };
    (!is_called).then_some(call)
}

/// Whether any name stands where a relation does.
fn names_a_relation(tokens: &[SqlToken], words: &TextWords<'_>) -> bool {
    // For each open parenthesis, the keyword before it and whether a list of FROM goes on in it.
    let mut open: Vec<(Option<&str>, bool)> = vec![(None, false)];
    let mut item = false;
    for (at, token) in tokens.iter().enumerate() {
        let starts_item = std::mem::take(&mut item);
        let inside = open.last().copied().unwrap_or_default();
        match token {
            SqlToken::Mark('(') => {
                let before = at.checked_sub(1).and_then(|at| tokens[at].keyword());
                let is_query = words.keyword(at + 1).is_some_and(|word| QUERIES.contains(&word));
                item = starts_item && !is_query;
                open.push((before, item));
            }
            SqlToken::Mark(')') => drop(open.pop()),
            SqlToken::Mark(',') => item = inside.1,
            SqlToken::Mark(';') => open = vec![(None, false)],
            SqlToken::Word { .. } if starts_item => {
                let is_prefix =
                    words.keyword(at).is_some_and(|word| matches!(word, "only" | "lateral"));
                if !is_prefix && words.is_relation(at) {
                    return true;
                }
                item = is_prefix;
            }
            SqlToken::Word { .. } => {
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
    fn a_body_that_names_a_relation_or_a_role_counts_as_reading() {
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
            "select current_user::text",
            "begin return session_user; end",
            "select $1::regrole::text",
            "begin return cast($1 as \"regclass\"); end",
        ] {
            assert_eq!(calls(body), None, "{body}");
        }
    }

    #[test]
    fn a_body_that_names_no_relation_yields_only_its_calls() {
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
            ("begin return xmin + new.user; end", ""),
        ] {
            let name = |call: Call| (!call.is_attribute).then_some(call.name);
            let names = calls(body)
                .map(|calls| calls.functions.into_iter().filter_map(name).collect::<BTreeSet<_>>());
            let names = names.map(|names| names.into_iter().collect::<Vec<_>>().join(" "));
            assert_eq!(names.as_deref(), Some(called), "{body}");
        }
    }

    #[test]
    fn a_call_is_identified_by_its_schema_and_argument_count() {
        let shown = |body: &str| -> Vec<String> {
            let shown = |call: Call| match (call.is_attribute, call.schema) {
                (true, _) => format!(".{}", call.name),
                (false, Some(schema)) => format!("{schema}.{}/{}", call.name, call.arguments),
                (false, None) => format!("{}/{}", call.name, call.arguments),
            };
            calls(body)
                .map(|calls| calls.functions.into_iter().map(shown).collect())
                .unwrap_or_default()
        };
        assert_eq!(
            shown("select f(), g(1), h(a[1, 2], i(1, (2), 3))"),
            ["f/0", "g/1", "h/2", "i/3"]
        );
        assert_eq!(shown("begin return s.f(new.id, ($1).g); end"), ["s.f/2", ".g", ".id"]);
        assert_eq!(shown("begin return f(1, 2"), ["f/2"]);
    }

    #[test]
    fn a_body_that_reads_the_clock_is_detected() {
        let reads_clock = |body| calls(body).is_some_and(|calls| calls.reads_clock);
        assert!(
            reads_clock("select current_date") && reads_clock("begin return 'today'::date; end")
        );
        assert!(!reads_clock("select $1 * 2"));
    }
}
