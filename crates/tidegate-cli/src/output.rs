//! Output, as text or as JSON.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::process::ExitCode;

use serde::Serialize;

use super::Failure;

/// Prints results in the format that the user chose.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether the format is JSON.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints one result. JSON takes one line.
    pub(crate) fn print<T: Serialize + Display>(self, found: &T) -> Result<(), Failure> {
        let mut out = stdout().lock();
        if self.json {
            serde_json::to_writer(&mut out, found)?;
        } else {
            write!(out, "{}", printable(&found.to_string()))?;
        }
        writeln!(out)?;
        Ok(out.flush()?)
    }

    /// Reports the success of a command that has no result to print.
    pub(crate) fn done(self) -> Result<ExitCode, Failure> {
        if self.json { text("{\"done\":true}\n") } else { Ok(ExitCode::SUCCESS) }
    }
}

/// Prints text that is the same in both formats.
pub(crate) fn text(text: &str) -> Result<ExitCode, Failure> {
    let mut out = stdout().lock();
    out.write_all(printable(text).as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The text with control characters escaped, except line ends and tabs: it may contain values of rows, and a terminal obeys
/// such characters.
fn printable(text: &str) -> String {
    escaped(text, |letter| letter.is_control() && !matches!(letter, '\n' | '\t'))
}

/// The same for a part of a line, with line ends and tabs escaped too.
pub(crate) fn in_line(text: &str) -> String {
    escaped(text, char::is_control)
}

fn escaped(text: &str, is_escaped: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match is_escaped(letter) {
            true => escaped.extend(letter.escape_default()),
            false => escaped.push(letter),
        }
    }
    escaped
}
