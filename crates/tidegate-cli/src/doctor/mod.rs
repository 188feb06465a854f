//! `tidegate doctor`: checks everything that a service needs.

use std::fmt;
use std::process::ExitCode;

use serde::Serialize;

use super::arguments::Servers;
use super::output::Output;
use super::{Failure, UNSOUND};

mod postgres;
mod redis;

/// The result of one check.
#[derive(Serialize)]
struct Check {
    /// The thing that was checked.
    what: String,
    state: State,
    found: String,
    /// What to do about it.
    mend: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Good,
    /// It works, and could be better.
    Warning,
    /// It does not work.
    Bad,
}

#[derive(Serialize)]
struct Report {
    sound: bool,
    checks: Vec<Check>,
}

/// Checks all servers that a service connects to. The exit code is [`UNSOUND`] if a check failed.
pub(crate) async fn examine(
    url: &str,
    servers: Servers,
    output: Output,
) -> Result<ExitCode, Failure> {
    let mut checks = postgres::checks(url, &servers).await;
    match &servers.redis {
        Some(url) => checks.extend(redis::checks(url).await),
        None => checks.push(Check::good("Redis", "no URL given: nodes do not share a cache")),
    }
    let sound = checks.iter().all(|check| check.state != State::Bad);
    output.print(&Report { sound, checks })?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::from(UNSOUND) })
}

impl Check {
    fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { what: what.into(), state: State::Good, found: found.into(), mend: None }
    }

    /// A failed check. The errors of `tidegate` themselves say what to do.
    fn bad(what: impl Into<String>, found: impl fmt::Display) -> Self {
        Self { state: State::Bad, ..Self::good(what, found.to_string()) }
    }

    fn warning(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self { state: State::Warning, ..Self::good(what, found) }
    }

    fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            writeln!(f, "{check}")?;
        }
        let end =
            if self.sound { "no check has failed" } else { "fix what the failed checks report" };
        write!(f, "{end}")
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Good => "ok  ",
            State::Warning => "warn",
            State::Bad => "BAD ",
        };
        write!(f, "{state} {}: {}", self.what, self.found)?;
        self.mend.iter().try_for_each(|mend| write!(f, "\n       fix: {mend}"))
    }
}
