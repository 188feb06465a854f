//! Reports policies whose patterns no request matches.
//!
//! axum does not list its routes, so a pattern that is misspelt, or lacks the prefix of a nested router, shows only by
//! the requests that do not match it. This counts requests that are not served from memory, so that a hit costs
//! nothing. A hit in memory has mostly had a miss in the same layer before it. But two layers may share a cache and its
//! keys: then one may serve a route only with what the other has stored, and report its pattern wrongly. After the
//! report, or once each pattern has been matched, a request costs one load of a flag.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{OnceLock, RwLock};
use std::time::Duration;

use crate::clock::{self, Instant};
use crate::sync::RwLockExt;

/// The number of requests after which a pattern without a match is reported.
const ENOUGH: usize = 10_000;

/// The time since the first request after which it is reported: a load test right after the start proves little.
const LONG_ENOUGH: Duration = Duration::from_secs(10 * 60);

/// The most patterns of routes without a policy that are remembered.
const MOST: usize = 512;

/// The most of these that a warning names.
const MOST_NAMED: usize = 5;

/// The requests of a layer so far, as far as this needs them. While it is off, nothing is counted.
#[derive(Debug, Default)]
pub(crate) struct PatternWatch {
    is_on: AtomicBool,
    requests: AtomicUsize,
    /// When the first request came.
    since: OnceLock<Instant>,
    others: RwLock<BTreeSet<Box<str>>>,
}

impl PatternWatch {
    /// One that counts from now on.
    pub(crate) fn started() -> Self {
        Self { is_on: AtomicBool::new(true), ..Self::default() }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(crate) fn stop(&self) {
        self.is_on.store(false, Ordering::Relaxed);
    }

    /// Remembers the pattern of a route that has no policy of its own.
    pub(crate) fn note_other(&self, pattern: &str) {
        let is_known =
            |others: &BTreeSet<Box<str>>| others.len() >= MOST || others.contains(pattern);
        if !is_known(&self.others.read_unpoisoned()) {
            let mut others = self.others.write_unpoisoned();
            if !is_known(&others) {
                others.insert(pattern.into());
            }
        }
    }

    /// Counts a request; `true`, once, if there have been enough for long enough. Then nothing more is counted.
    pub(crate) fn has_enough(&self) -> bool {
        let since = self.since.get_or_init(clock::now);
        self.requests.fetch_add(1, Ordering::Relaxed) + 1 >= ENOUGH
            && since.elapsed() >= LONG_ENOUGH
            && self.is_on.swap(false, Ordering::Relaxed)
    }

    /// Reports a pattern without a match. `has_matches` says whether requests have matched others that have a policy.
    /// It is a warning if there is a sign of a mistake. Otherwise the route may be one that is seldom requested.
    pub(crate) fn report(&self, pattern: &str, has_matches: bool) {
        let others = self.others.read_unpoisoned();
        let similar = similar(pattern, others.iter().map(|other| &**other)).join(", ");
        let has_none = others.is_empty() && !has_matches;
        let hint = match (similar.is_empty(), has_none) {
            (false, _) => {
                "the routes in the field `similar` were requested, and have no policy of their own"
            }
            (true, true) => "no request had a MatchedPath: add the layer with axum's Router::layer",
            (true, false) => "no similar route was requested that lacks a policy",
        };
        let message = format!(
            "a CacheLayer has a policy for this pattern, but no request has matched it, although at least {ENOUGH} requests \
             were not served from memory; a pattern is compared with axum's MatchedPath, which includes the prefixes of \
             nested routers; axum sets no MatchedPath for a fallback or for the service in a nest_service (use \
             CacheLayer::default_policy, or CacheLayer::with_policy around that service); {hint}"
        );
        if has_none || !similar.is_empty() {
            tracing::warn!(pattern, similar, "{message}");
        } else {
            tracing::info!(pattern, similar, "{message}");
        }
    }
}

/// The patterns that this one may stand for by mistake: first those without the prefix of a nested router, or with one
/// too many, then those with another spelling; of these, those that share most segments with it.
fn similar<'o>(pattern: &str, others: impl Iterator<Item = &'o str>) -> Vec<&'o str> {
    let ranked = others.filter_map(|other| Some((likeness(pattern, other)?, other)));
    let mut ranked: Vec<_> = ranked.collect();
    ranked.sort_by(|(one, _), (other, _)| other.cmp(one));
    ranked.into_iter().take(MOST_NAMED).map(|(_, other)| other).collect()
}

/// Whether one pattern is the end of the other, and how many segments they share. `None` unless that is so, or both
/// have as many segments and differ in the text of one. The names of parameters do not count.
fn likeness(one: &str, other: &str) -> Option<(bool, usize)> {
    let is_parameter = |segment: &str| segment.contains('{');
    let is_same =
        |(one, other): &(&str, &str)| one == other || is_parameter(one) && is_parameter(other);
    let segments = |of| str::split(of, '/').filter(|it| !it.is_empty()).collect::<Vec<&str>>();
    let (one, other) = (segments(one), segments(other));
    let ends = || one.iter().rev().copied().zip(other.iter().rev().copied());
    let shared = ends().filter(is_same).count();
    let mut different = ends().filter(|pair| !is_same(pair));
    let (first, second) = (different.next(), different.next());
    let is_text = |(one, other): (&str, &str)| !is_parameter(one) && !is_parameter(other);
    let is_respelt = one.len() == other.len() && second.is_none() && first.is_some_and(is_text);
    // Two patterns of one segment that differ in it have nothing in common.
    (shared > 0 && (first.is_none() || is_respelt)).then_some((first.is_none(), shared))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similar_patterns_lack_a_prefix_or_differ_in_the_text_of_one_segment() {
        let others =
            ["/", "/api/users/{user}", "/users/{id}/posts", "/{x}", "/api/shops", "/about"];
        let of = |pattern| similar(pattern, others.into_iter());
        assert_eq!(of("/users/{id}"), ["/api/users/{user}", "/{x}"]);
        assert_eq!(of("/shops"), ["/api/shops"]);
        assert_eq!(of("/v1/about"), ["/about"], "a prefix too many");
        assert_eq!(of("/users/{id}/psots"), ["/users/{id}/posts"]);
        assert_eq!(of("/api/users/{name}"), ["/api/users/{user}", "/{x}"]);
        assert_eq!(of("/api/shop"), ["/api/shops"]);
        for unlike in [
            "/",
            "/nothing",
            "/users/all",
            "/api/shops/all",
            "/{any}/shops",
            "/api/orders/5",
            "/about/us",
        ] {
            assert_eq!(of(unlike), [""; 0], "{unlike}");
        }
        let many = ["/a/x", "/b/x", "/c/x", "/d/x", "/e/x", "/f/x"];
        assert_eq!(similar("/x", many.into_iter()).len(), MOST_NAMED);
    }
}
