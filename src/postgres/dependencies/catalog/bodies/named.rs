//! The functions that bodies in text form call by name; each function with that name counts.

use std::collections::BTreeSet;

use super::function_body::FunctionBody;
use crate::postgres::dependencies::Unanalyzable;
use crate::postgres::dependencies::body::{Call, Calls};
use crate::postgres::dependencies::catalog::statement_parts::UNSEEN;

/// The calls by name in texts. Any text may use the operators of [`UNSEEN`].
#[derive(Default)]
pub(super) struct Texts {
    /// Each call, with the name of the function that makes it.
    calls: BTreeSet<(Call, String)>,
    pub(super) operators: Vec<String>,
    /// Whether one may read the time of day.
    pub(super) reads_clock: bool,
}

impl Texts {
    /// Adds the calls in the text of a body, if it has one.
    pub(super) fn add(&mut self, body: &FunctionBody, calls: Option<Calls>) {
        let Some(calls) = calls else { return };
        self.calls.extend(calls.functions.into_iter().map(|call| (call, body.full_name())));
        self.operators.extend(calls.operators);
        self.operators.extend(UNSEEN.iter().map(|&operator| operator.to_owned()));
        self.reads_clock |= calls.reads_clock;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operators.is_empty()
    }

    /// The names that are called, before a parenthesis or after a dot.
    pub(super) fn names(&self, after_dot: bool) -> Vec<&str> {
        let calls = self.calls.iter().filter(|(call, _)| call.is_attribute == after_dot);
        calls.map(|(call, _)| call.name.as_str()).collect()
    }

    /// Rejects a call if all functions that it can mean may read something, or all system functions among them, which come
    /// first on the search path. The argument types, which could rule some out, are unknown.
    pub(super) fn judge(&self, bodies: &[FunctionBody]) -> Result<(), Unanalyzable> {
        for (call, caller) in &self.calls {
            let meant = || bodies.iter().filter(|body| body.is_meant_by(call));
            if are_harmful(meant()) || are_harmful(meant().filter(|body| body.is_own())) {
                return Err(Unanalyzable::ReadingFunction(caller.clone()));
            }
        }
        Ok(())
    }
}

/// Whether there are any and all of them may read something.
fn are_harmful<'a>(bodies: impl Iterator<Item = &'a FunctionBody>) -> bool {
    let mut bodies = bodies.peekable();
    bodies.peek().is_some() && bodies.all(|body| !body.is_harmless_by_name())
}
