//! Finds the dependencies of a query, from its text and the catalogue.
//!
//! Every change to what a query read must invalidate its cached result, so the tables behind any SQL must be known. The
//! main rule: **a query that is not fully understood is not cached, and the reason is reported.** An unnecessary miss costs
//! a query; an overlooked table would cause a stale result.

mod body;
mod catalog;
mod check;
mod clock;
mod conditions;
mod dependency_cache;
mod lex;
mod name;
mod narrow;
mod parse;
mod references;
mod scope;
#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
mod tracked_table;
mod unanalyzable;
mod value;
mod walk;

#[cfg(test)]
use catalog::resolve;
pub(crate) use clock::value_mentions_clock;
pub(crate) use dependency_cache::{
    DependencyCache, DependencyLookup, DependencySource, FoundDependencies, UnknownStatement,
};
use name::Name;
#[cfg(test)]
use parse::{Analysis, analyze};
use references::References;
pub(crate) use tracked_table::{Dependencies, Equality, TrackedTable, tag_name};
pub(crate) use unanalyzable::Unanalyzable;
#[cfg(test)]
use value::Family;
pub(crate) use value::{CastType, ValueSource};

/// The words of a text, folded and without those in quotes; `None` if it holds several statements, or can't be read.
pub(crate) fn words_of_one(sql: &str) -> Option<Vec<String>> {
    let mut tokens = lex::lex(sql).ok()?;
    let end = lex::SqlToken::Mark(';');
    while tokens.last() == Some(&end) {
        tokens.pop();
    }
    if tokens.contains(&end) {
        return None;
    }
    Some(tokens.iter().filter_map(lex::SqlToken::keyword).map(str::to_owned).collect())
}

/// A statement without its constants, which may be personal data: for logs.
pub(crate) fn outline(sql: &str) -> String {
    const LONGEST: usize = 300;
    let Ok(tokens) = lex::lex(sql) else { return "a statement that is not understood".into() };
    let mut outline = String::new();
    for token in tokens {
        if outline.len() > LONGEST {
            outline.push_str(" …");
            break;
        }
        token.outline(&mut outline);
    }
    outline
}

/// How many arguments a statement takes, if its text is understood.
pub(super) fn parameters(sql: &str) -> Option<usize> {
    lex::highest_parameter(sql)
}

/// Whether a text is a read that is understood.
#[cfg(fuzzing)]
pub(crate) fn is_read(sql: &str) -> bool {
    matches!(parse::analyze(sql), parse::Analysis::Read(_))
}
