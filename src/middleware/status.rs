//! `Cache-Status` (RFC 9211): what the cache did, and why.
//!
//! ```text
//! Cache-Status: tidegate; hit; ttl=287; detail="memory"
//! Cache-Status: tidegate; fwd=stale; fwd-status=200; stored; detail="changed, from replica-1"
//! Cache-Status: tidegate; fwd=uri-miss; fwd-status=200; detail="absent, from primary, replicas-behind"
//! Cache-Status: tidegate; fwd=uri-miss; fwd-status=200; detail="absent, untracked-table"
//! Cache-Status: tidegate; fwd=bypass; detail="no-policy, replica-behind"
//! ```

use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::cache::{FillOutcome, Record, Uncacheable};
use crate::outcome::{BypassReason, MissReason, Outcome, StaleReason};

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// Whether a computed response was stored, as far as that is known when its head is sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum StoreOutcome<'a> {
    Stored,
    NotStored(&'a Uncacheable),
    /// The body is still streaming.
    Undecided,
}

impl<'a> StoreOutcome<'a> {
    pub(crate) fn from_outcome(filled: &'a FillOutcome) -> Self {
        match filled {
            FillOutcome::Stored => Self::Stored,
            FillOutcome::NotStored(uncacheable) => Self::NotStored(uncacheable),
        }
    }
}

/// The list member for a stored response. `missed` says why it was not served at once, if it is served in place of an
/// error. `ttl` is its remaining lifetime in seconds, which is negative if it is stale.
pub(crate) fn hit_member(outcome: Outcome, missed: Option<MissReason>, ttl: i64) -> HeaderValue {
    if outcome == Outcome::Collapsed {
        return HeaderValue::from_static("tidegate; fwd=miss; collapsed; detail=\"collapsed\"");
    }
    // Concatenated by hand, which takes a third of the time of `format!`.
    let mut text = String::with_capacity(80);
    // A response in place of an error is not a hit, since the request was forwarded (RFC 9211, section 2.1).
    // Section 2.2: the request's own directives can demand that a fresh response is not used.
    text.push_str(match (outcome, missed) {
        (Outcome::Stale(StaleReason::Error), Some(MissReason::Requested)) => {
            "tidegate; fwd=request; ttl="
        }
        (Outcome::Stale(StaleReason::Error), _) => "tidegate; fwd=stale; ttl=",
        _ => "tidegate; hit; ttl=",
    });
    let _ = write!(text, "{ttl}");
    text.push_str("; detail=\"");
    text.push_str(outcome.token());
    text.push('"');
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("tidegate; hit"))
}

/// The list member for the handler's response, with the outcome and whether a variant was missing.
pub(crate) fn miss_member(
    outcome: Outcome,
    is_variant: bool,
    status: StatusCode,
    record: &Record,
    store_outcome: StoreOutcome<'_>,
) -> String {
    let (server, why) = (record.server(), record.why_primary());
    let uncacheable = match store_outcome {
        StoreOutcome::NotStored(uncacheable) => Some(uncacheable.token),
        StoreOutcome::Stored | StoreOutcome::Undecided => None,
    };
    let mut text = String::with_capacity(128);
    let mut say = |parts: &[&str]| parts.iter().for_each(|part| text.push_str(part));
    let absent = Outcome::Miss(MissReason::Absent);
    let why_forwarded =
        if is_variant && outcome == absent { "vary-miss" } else { forwarded(outcome) };
    say(&["tidegate; fwd=", why_forwarded, "; fwd-status=", status.as_str()]);
    if matches!(store_outcome, StoreOutcome::Stored) {
        say(&["; stored"]);
    }
    say(&["; detail=\"", outcome.token()]);
    let caveat = record.caveat().filter(|caveat| uncacheable != Some(*caveat));
    let from = (", from ", server.as_deref());
    for (before, detail) in [from, (", ", why), (", ", uncacheable), (", ", caveat)] {
        if let Some(detail) = detail {
            say(&[before, detail]);
        }
    }
    say(&["\""]);
    text
}

fn bypass_member(reason: BypassReason, caveat: Option<&str>) -> String {
    let outcome = Outcome::Bypass(reason);
    let (before, caveat) = caveat.map_or(("", ""), |caveat| (", ", caveat));
    let (forwarded, token) = (forwarded(outcome), outcome.token());
    format!("tidegate; fwd={forwarded}; detail=\"{token}{before}{caveat}\"")
}

/// RFC 9211, section 2.2.
fn forwarded(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Bypass(BypassReason::Method) => "method",
        Outcome::Bypass(BypassReason::NoStore) | Outcome::Miss(MissReason::Requested) => "request",
        Outcome::Bypass(_) => "bypass",
        Outcome::Miss(MissReason::Expired | MissReason::Changed | MissReason::OldEpoch) => "stale",
        Outcome::Miss(MissReason::Absent) => "uri-miss",
        _ => "miss",
    }
}

/// Adds that the response bypassed the cache, and why.
pub(crate) fn append_bypass(headers: &mut HeaderMap, reason: BypassReason, caveat: Option<&str>) {
    append(headers, &bypass_member(reason, caveat));
}

/// Adds our member after those of caches nearer to the origin (RFC 9211, section 2).
pub(crate) fn append(headers: &mut HeaderMap, status: &str) {
    if let Ok(value) = HeaderValue::from_str(status) {
        // A full map stays without it.
        drop(headers.try_append(CACHE_STATUS, value));
    }
}
