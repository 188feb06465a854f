//! The words of a statement, read exactly as the server's own scanner reads them.
//!
//! The parser has its own scanner, for many dialects. If it disagrees with the server's about what is a name, a string or
//! a comment, a table could be missed. So, as the second line of defence, this module scans the text by the rules of the
//! manual's chapter "Lexical Structure", and the results are compared. Syntax whose meaning differs between versions of
//! Postgres is rejected.

use super::name::{NAME_MAX, fold};
use super::unanalyzable::Unanalyzable;

/// A word, a mark, or a run of operator characters; comments and blanks are dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SqlToken {
    /// A name or a keyword, folded.
    Word { text: String, quoted: bool },
    /// A string of any kind.
    Text,
    /// A number or a parameter.
    Value,
    /// One of `( ) [ ] , ; . :`.
    Mark(char),
    /// `::`
    Cast,
    /// Operator characters that touch: one operator, or several.
    Operator(String),
}

impl SqlToken {
    /// Adds the token to the outline of a statement: constants and parameters are `?`.
    pub(super) fn outline(&self, before: &mut String) {
        let is_tight = matches!(self, Self::Mark(')' | ']' | ',' | ';' | '.' | '[') | Self::Cast)
            || before.is_empty()
            || before.ends_with(['(', '[', '.'])
            || before.ends_with("::");
        if !is_tight {
            before.push(' ');
        }
        match self {
            Self::Word { text, quoted: false } | Self::Operator(text) => before.push_str(text),
            Self::Word { text, quoted: true } => {
                before.push('"');
                before.push_str(text);
                before.push('"');
            }
            Self::Text | Self::Value => before.push('?'),
            Self::Mark(mark) => before.push(*mark),
            Self::Cast => before.push_str("::"),
        }
    }

    /// The word, if it is an unquoted one.
    pub(super) fn keyword(&self) -> Option<&str> {
        match self {
            Self::Word { text, quoted: false } => Some(text),
            _ => None,
        }
    }
}

/// Reads the whole text.
pub(super) fn lex(sql: &str) -> Result<Vec<SqlToken>, Unanalyzable> {
    let mut scanner = Scanner { rest: sql };
    let mut tokens = Vec::new();
    while let Some(token) = scanner.next()? {
        // Two strings in a row are one to Postgres, with the escapes of the first.
        if token == SqlToken::Text && tokens.last() == Some(&SqlToken::Text) {
            return Err(Unanalyzable::not_understood("a string continued on another line"));
        }
        tokens.push(token);
    }
    Ok(tokens)
}

/// The highest number of a parameter (`$2`) in a text; `None` if the text is not understood.
pub(super) fn highest_parameter(sql: &str) -> Option<usize> {
    let (mut scanner, mut highest) = (Scanner { rest: sql }, 0);
    loop {
        scanner.skip_blanks().ok()?;
        let before = scanner.rest;
        if scanner.next().ok()?.is_none() {
            return Some(highest);
        }
        let token = &before[..before.len() - scanner.rest.len()];
        let number = token.strip_prefix('$').and_then(|number| number.parse().ok());
        highest = highest.max(number.unwrap_or(0));
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl Scanner<'_> {
    fn next(&mut self) -> Result<Option<SqlToken>, Unanalyzable> {
        self.skip_blanks()?;
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        match first {
            '\'' => self.string(1, false),
            '"' => self.quoted_word(),
            '$' => self.dollar(),
            '0'..='9' => self.number(),
            '.' if self.rest[1..].starts_with(|c: char| c.is_ascii_digit()) => self.number(),
            ':' if self.rest.starts_with("::") => Ok(self.take(2, |_| SqlToken::Cast)),
            '(' | ')' | '[' | ']' | ',' | ';' | '.' | ':' => {
                Ok(self.take(1, |_| SqlToken::Mark(first)))
            }
            c if is_operator(c) => Ok(self.operator()),
            c if starts_word(c) => self.word(),
            _ => Err(Unanalyzable::not_understood("an unknown character")),
        }
        .map(Some)
    }

    fn skip_blanks(&mut self) -> Result<(), Unanalyzable> {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', '\n', '\r', '\x0c']);
            if self.rest.starts_with("--") {
                let end = self.rest.find(['\n', '\r']).unwrap_or(self.rest.len());
                self.rest = &self.rest[end..];
            } else if self.rest.starts_with("/*") {
                self.block_comment()?;
            } else {
                return Ok(());
            }
        }
    }

    fn block_comment(&mut self) -> Result<(), Unanalyzable> {
        let mut depth = 0_usize;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.rest = &self.rest[2..];
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.rest = &self.rest[2..];
            } else {
                let mut chars = self.rest.chars();
                chars.next().ok_or_else(|| Unanalyzable::not_understood("an open comment"))?;
                self.rest = chars.as_str();
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    fn word(&mut self) -> Result<SqlToken, Unanalyzable> {
        let end = self.rest.find(|c| !continues_word(c)).unwrap_or(self.rest.len());
        let (word, after) = (&self.rest[..end], &self.rest[end..]);
        if after.starts_with('\'') && end == 1 {
            match word {
                "e" | "E" => return self.string(2, true),
                "b" | "B" | "x" | "X" | "n" | "N" => return self.string(2, false),
                _ => {}
            }
        }
        if matches!(word, "u" | "U") && (after.starts_with("&'") || after.starts_with("&\"")) {
            return Err(Unanalyzable::not_understood("a U& literal"));
        }
        let token = word_of(fold(word, false), false)?;
        self.rest = after;
        Ok(token)
    }

    fn quoted_word(&mut self) -> Result<SqlToken, Unanalyzable> {
        let length = closing(&self.rest[1..], '"', false)?;
        let word = self.rest[1..=length].replace("\"\"", "\"");
        self.rest = &self.rest[length + 2..];
        word_of(word, true)
    }

    fn string(&mut self, opening: usize, escapes: bool) -> Result<SqlToken, Unanalyzable> {
        let length = closing(&self.rest[opening..], '\'', escapes)?;
        self.rest = &self.rest[opening + length + 1..];
        Ok(SqlToken::Text)
    }

    fn dollar(&mut self) -> Result<SqlToken, Unanalyzable> {
        let after = &self.rest[1..];
        if after.starts_with(|c: char| c.is_ascii_digit()) {
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            return self.value(1 + digits);
        }
        let tag = after.find('$').ok_or_else(|| Unanalyzable::not_understood("a lone $"))?;
        let inner = &after[..tag];
        if !(inner.is_empty() || inner.starts_with(starts_word))
            || !inner.chars().all(continues_word)
        {
            return Err(Unanalyzable::not_understood("a lone $"));
        }
        let quote = &self.rest[..tag + 2];
        let body = &self.rest[quote.len()..];
        let end = body.find(quote).ok_or_else(|| Unanalyzable::not_understood("an open string"))?;
        self.rest = &body[end + quote.len()..];
        Ok(SqlToken::Text)
    }

    fn number(&mut self) -> Result<SqlToken, Unanalyzable> {
        let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let mut length = digits(self.rest);
        if self.rest[length..].starts_with('.') {
            length += 1 + digits(&self.rest[length + 1..]);
        }
        if self.rest[length..].starts_with(['e', 'E']) {
            let sign = usize::from(self.rest[length + 1..].starts_with(['+', '-']));
            length += 1 + sign + digits(&self.rest[length + 1 + sign..]);
        }
        self.value(length)
    }

    /// A number or parameter of so many bytes. Letters that touch it are a new word to some
    /// versions and an error to others.
    fn value(&mut self, length: usize) -> Result<SqlToken, Unanalyzable> {
        self.rest = &self.rest[length..];
        if self.rest.starts_with(continues_word) {
            return Err(Unanalyzable::not_understood("letters that touch a number"));
        }
        Ok(SqlToken::Value)
    }

    /// As many operator characters as there are before the next comment.
    fn operator(&mut self) -> SqlToken {
        let run = self.rest.find(|c| !is_operator(c)).unwrap_or(self.rest.len());
        let comment = |mark| self.rest[..run].find(mark).unwrap_or(run);
        let end = comment("--").min(comment("/*"));
        self.take(end, |text| SqlToken::Operator(text.to_owned()))
    }

    fn take(&mut self, length: usize, token: impl FnOnce(&str) -> SqlToken) -> SqlToken {
        let (text, rest) = self.rest.split_at(length);
        self.rest = rest;
        token(text)
    }
}

fn word_of(text: String, quoted: bool) -> Result<SqlToken, Unanalyzable> {
    if text.is_empty() || text.len() > NAME_MAX {
        return Err(Unanalyzable::not_understood("a name of no length or of more than 63 bytes"));
    }
    Ok(SqlToken::Word { text, quoted })
}

/// How many bytes there are before the quote that closes.
fn closing(text: &str, quote: char, escapes: bool) -> Result<usize, Unanalyzable> {
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if escapes && c == '\\' {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Ok(at);
        }
    }
    Err(Unanalyzable::not_understood("an open string"))
}

fn is_operator(c: char) -> bool {
    "+-*/<>=~!@#%^&|`?".contains(c)
}

fn starts_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues_word(c: char) -> bool {
    starts_word(c) || c.is_ascii_digit() || c == '$'
}
