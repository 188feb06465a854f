//! A function's declaration and body, and whether they show that it reads nothing.

use crate::postgres::dependencies::Unanalyzable;
use crate::postgres::dependencies::body::{self, Call, Calls};
use crate::postgres::dependencies::catalog::stable::{FIRST_OF_USERS, STABLE};

/// As `BODIES` selects them.
pub(super) type BodyRow =
    (i64, String, String, String, String, String, i16, i16, Option<String>, bool, Vec<i64>);

/// A function that may read something when it is called.
pub(super) struct FunctionBody {
    pub(super) oid: i64,
    schema: String,
    pub(super) name: String,
    signature: String,
    volatility: String,
    language: String,
    /// How many arguments it takes.
    least: i16,
    most: i16,
    text: Option<String>,
    reads: bool,
    /// Functions that its tree calls, or that an aggregate is made of.
    pub(super) calls: Vec<i64>,
}

impl FunctionBody {
    pub(super) fn new(row: BodyRow) -> Self {
        let (oid, schema, name, signature, volatility, language, least, most, text, reads, calls) =
            row;
        Self { oid, schema, name, signature, volatility, language, least, most, text, reads, calls }
    }

    /// The calls that its text alone shows.
    pub(super) fn judge(&self, is_called: bool) -> Result<Option<Calls>, Unanalyzable> {
        let reading = || Unanalyzable::ReadingFunction(self.full_name());
        if is_called && self.volatility == "v" {
            return Err(Unanalyzable::VolatileFunction(self.full_name()));
        }
        if self.reads || (is_called && !self.is_harmless()) {
            return Err(reading());
        }
        match &self.text {
            Some(text) if self.is_shown() => body::calls(text).map(Some).ok_or_else(reading),
            _ => Ok(None),
        }
    }

    pub(super) fn full_name(&self) -> String {
        format!("{}.{}", self.schema, self.name)
    }

    pub(super) fn is_own(&self) -> bool {
        self.oid < FIRST_OF_USERS
    }

    /// Whether its body is readable, so that it shows everything that it does.
    fn is_shown(&self) -> bool {
        matches!(self.language.as_str(), "sql" | "plpgsql")
    }

    /// Whether its declaration says that it reads nothing. Extensions declare functions in C stable that depend on
    /// their settings.
    fn is_harmless(&self) -> bool {
        match self.volatility.as_str() {
            "i" => true,
            _ if self.is_own() => STABLE.contains(&self.signature.as_str()),
            "s" => self.language == "c",
            _ => false,
        }
    }

    pub(super) fn is_meant_by(&self, call: &Call) -> bool {
        let takes = i16::try_from(call.arguments)
            .is_ok_and(|number| (self.least..=self.most).contains(&number));
        takes
            && self.name == call.name
            && call.schema.as_ref().is_none_or(|schema| *schema == self.schema)
    }

    /// As [`is_harmless`](Self::is_harmless), with its body checked as well.
    pub(super) fn is_harmless_by_name(&self) -> bool {
        self.is_harmless() || (!self.is_own() && self.is_shown())
    }
}
