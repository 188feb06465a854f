//! What is printed, for people or for programs.

use std::fmt::Display;
use std::io::{Write, stdout};
use std::process::ExitCode;

use serde::Serialize;

use super::Failure;

/// Where a command's findings go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether it is for programs.
    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints one finding, on one line if it is for a program.
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

    /// Ends a command that has found nothing, and done what it should.
    pub(crate) fn done(self) -> Result<ExitCode, Failure> {
        if self.json { text("{\"done\":true}\n") } else { Ok(ExitCode::SUCCESS) }
    }
}

/// Prints what is the same for people and programs.
pub(crate) fn text(text: &str) -> Result<ExitCode, Failure> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
