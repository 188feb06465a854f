//! Why a response or value can't be stored.

use std::borrow::Cow;
use std::fmt;

/// Why a response or value can't be stored: a token for `Cache-Status`, and an explanation for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncacheable {
    /// A short word for the `detail` of `Cache-Status`, such as `untracked-table`.
    pub token: &'static str,
    /// What the token means here, and what to do about it.
    pub why: Cow<'static, str>,
}

impl Uncacheable {
    /// A reason: a token of lower-case letters and hyphens for `Cache-Status`, and an explanation for people.
    pub fn new(token: &'static str, why: impl Into<Cow<'static, str>>) -> Self {
        Self { token, why: why.into() }
    }
}

impl fmt::Display for Uncacheable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.token, self.why)
    }
}
