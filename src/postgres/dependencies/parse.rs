//! The references of a statement, from its text alone.
//!
//! Three readings, each of which can refuse: the server's own lexical rules ([`super::lex`]), the
//! parser's tree ([`super::walk`]), and the words beside parentheses and FROM
//! ([`super::check`]), which the tree must account for.

use std::collections::BTreeSet;

use sqlparser::ast::Statement;
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::Parser;
use sqlparser::tokenizer::{Token as Parsed, Tokenizer, Word};

use super::check::check;
use super::lex::{SqlToken, lex};
use super::name::{Name, fold};
use super::references::{FunctionCall, References};
use super::unanalyzable::Unanalyzable;
use super::walk::walk;

/// Longer statements are not read.
pub(super) const SQL_MAX: usize = 64 * 1024;

/// More tokens could make a tree that is too deep to be dropped on a small stack.
pub(super) const TOKENS_MAX: usize = 8_000;

/// The analysis of one statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Analysis {
    /// A query that only reads, as far as its text shows.
    Read(References),
    /// Not a plain read: it writes, locks, or is not understood.
    Other(Unanalyzable),
}

/// Returns the references of a statement, or why they can't be known.
///
/// `now()` and the like count as plain reads: their effect on a result ages with its TTL, as in any cache with a TTL.
pub(crate) fn analyze(sql: &str) -> Analysis {
    match references(sql) {
        Ok(references) => Analysis::Read(references),
        Err(unanalyzable) => Analysis::Other(unanalyzable),
    }
}

fn references(sql: &str) -> Result<References, Unanalyzable> {
    let tokens = tokens(sql)?;
    let statement = parse(sql, &tokens)?;
    let Statement::Query(query) = &statement else { return Err(Unanalyzable::NotARead) };
    let found = walk(query)?;
    check(&tokens, &found)?;
    let mut references = found.references;
    references.attributes = attributes(&tokens, |_| true);
    references.attributes_of_values = attributes(&tokens, |before| match before {
        Some(SqlToken::Word { text, .. }) => found.function_items.contains(text),
        _ => true,
    });
    let calls = references.attributes_of_values.iter();
    let call = |name: &String| FunctionCall { name: Name::bare(name), arguments: Some(1) };
    references.calls.extend(calls.map(call));
    references.operators = operators(&tokens);
    references.words = words(&tokens);
    Ok(references)
}

/// The tree of one statement.
pub(super) fn statement(sql: &str) -> Result<Statement, Unanalyzable> {
    parse(sql, &tokens(sql)?)
}

fn tokens(sql: &str) -> Result<Vec<SqlToken>, Unanalyzable> {
    if sql.len() > SQL_MAX {
        return Err(Unanalyzable::TooLarge);
    }
    let tokens = lex(sql)?;
    if tokens.len() > TOKENS_MAX {
        return Err(Unanalyzable::TooLarge);
    }
    Ok(tokens)
}

fn parse(sql: &str, tokens: &[SqlToken]) -> Result<Statement, Unanalyzable> {
    let dialect = PostgreSqlDialect {};
    let parsed = Tokenizer::new(&dialect, sql)
        .tokenize()
        .map_err(|error| Unanalyzable::not_understood(error.to_string()))?;
    let parsed: Vec<_> =
        parsed.into_iter().filter(|token| !matches!(token, Parsed::Whitespace(_))).collect();
    if !same_reading(&parsed, tokens) {
        return Err(Unanalyzable::not_understood("two ways of splitting it into words disagree"));
    }
    let mut statements = Parser::new(&dialect)
        .with_tokens(rewrite(parsed))
        .parse_statements()
        .map_err(|error| Unanalyzable::not_understood(error.to_string()))?;
    match (statements.pop(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (Some(_), false) => Err(Unanalyzable::SeveralStatements),
        (None, _) => Err(Unanalyzable::NotARead),
    }
}

/// Whether both scanners saw the same names, strings, brackets and commas in the same order.
fn same_reading(parsed: &[Parsed], tokens: &[SqlToken]) -> bool {
    let structural = |token: &&SqlToken| {
        matches!(
            token,
            SqlToken::Word { .. } | SqlToken::Text | SqlToken::Mark('(' | ')' | ',' | ';')
        )
    };
    parsed.iter().filter_map(as_token).eq(tokens.iter().filter(structural).cloned())
}

/// The parser's token as ours, if it is one that gives a statement its structure.
fn as_token(token: &Parsed) -> Option<SqlToken> {
    match token {
        Parsed::Word(Word { value, quote_style, .. }) => {
            let quoted = quote_style.is_some();
            Some(SqlToken::Word { text: fold(value, quoted), quoted })
        }
        Parsed::SingleQuotedString(_)
        | Parsed::EscapedStringLiteral(_)
        | Parsed::NationalStringLiteral(_)
        | Parsed::HexStringLiteral(_)
        | Parsed::SingleQuotedByteStringLiteral(_)
        | Parsed::DollarQuotedString(_) => Some(SqlToken::Text),
        Parsed::LParen => Some(SqlToken::Mark('(')),
        Parsed::RParen => Some(SqlToken::Mark(')')),
        Parsed::Comma => Some(SqlToken::Mark(',')),
        Parsed::SemiColon => Some(SqlToken::Mark(';')),
        _ => None,
    }
}

/// Rewrites phrases that the parser misreads: it consumes any three tokens for `TABLE t`; takes ONLY before a table
/// for the table's name; and doesn't know VARIADIC. These words are reserved in Postgres, so they can be nothing else,
/// except a label after AS or a dot.
fn rewrite(tokens: Vec<Parsed>) -> Vec<Parsed> {
    let mut rewritten: Vec<Parsed> = Vec::with_capacity(tokens.len());
    for token in tokens {
        let before = rewritten.last();
        if is_word(Some(&token), &["table"]) && !is_label(before) {
            rewritten.extend([word("SELECT"), Parsed::Mul, word("FROM")]);
        } else if !(is_word(Some(&token), &["only", "variadic"]) && starts_item(before)) {
            rewritten.push(token);
        }
    }
    rewritten
}

fn word(text: &str) -> Parsed {
    Parsed::make_word(text, None)
}

fn is_label(before: Option<&Parsed>) -> bool {
    before == Some(&Parsed::Period) || is_word(before, &["as"])
}

fn starts_item(before: Option<&Parsed>) -> bool {
    matches!(before, Some(Parsed::Comma | Parsed::LParen)) || is_word(before, &["from", "join"])
}

fn is_word(token: Option<&Parsed>, among: &[&str]) -> bool {
    matches!(token, Some(Parsed::Word(Word { value, quote_style: None, .. }))
        if among.iter().any(|word| value.eq_ignore_ascii_case(word)))
}

/// The names after a dot that directly follow one of the given tokens.
fn attributes(
    tokens: &[SqlToken],
    follows: impl Fn(Option<&SqlToken>) -> bool,
) -> BTreeSet<String> {
    let dots = (0..tokens.len()).filter(|&at| tokens[at] == SqlToken::Mark('.'));
    let name = |at: usize| match tokens.get(at + 1) {
        Some(SqlToken::Word { text, .. }) => Some(text.clone()),
        _ => None,
    };
    dots.filter(|at| follows(at.checked_sub(1).map(|before| &tokens[before])))
        .filter_map(name)
        .collect()
}

fn words(tokens: &[SqlToken]) -> BTreeSet<String> {
    let word = |token: &SqlToken| match token {
        SqlToken::Word { text, .. } => Some(text.clone()),
        _ => None,
    };
    tokens.iter().filter_map(word).collect()
}

/// The runs of operator characters.
pub(super) fn operators(tokens: &[SqlToken]) -> BTreeSet<String> {
    let operator = |token: &SqlToken| match token {
        SqlToken::Operator(run) => Some(run.clone()),
        _ => None,
    };
    tokens.iter().filter_map(operator).collect()
}
