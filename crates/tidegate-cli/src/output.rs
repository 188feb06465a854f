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
            write!(out, "{found}")?;
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
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
