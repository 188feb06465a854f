//! The settings of a layer, and of its routes.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::Request;

use super::budget::ByteBudget;
use super::identity::IdentitySource;
use super::keying::{self, KeySource};
use super::route;
use super::rules::search_variance::SearchVariance;
use super::rules::unsafe_method::is_safe;
use super::session::Sessions;
use super::unmatched::PatternWatch;
use super::variances::VarianceTable;
use crate::cache::{Cache, MissHint, Policy, PostReads, UncacheableStreak};
use crate::entry::{Key, KeyText};
use crate::traffic::{Traffic, TrafficRecorder};

/// The layer's settings, shared by every service that it made.
#[derive(Clone)]
pub(crate) struct LayerSettings {
    pub(crate) cache: Cache,
    pub(crate) namespace: String,
    /// The first parts of this layer's keys.
    pub(crate) space: KeyText,
    pub(crate) sessions: Option<Sessions>,
    pub(crate) budget: ByteBudget,
    /// The part of it that requests' content may take.
    pub(crate) content_budget: ByteBudget,
    /// How a request identifies its client.
    pub(crate) identity: IdentitySource,
    pub(crate) recorder: Arc<TrafficRecorder>,
    pub(crate) variances: VarianceTable,
    pub(super) unmatched: Arc<PatternWatch>,
    pub(super) routes: BTreeMap<String, RouteSettings>,
    /// Patterns of routes that only read, whatever the method.
    pub(super) only_read: BTreeSet<String>,
    pub(super) default: Option<RouteSettings>,
    pub(super) faults: Vec<String>,
}

/// One route: its policy and its traffic.
#[derive(Clone, Debug)]
pub(crate) struct RouteSettings {
    pub(crate) policy: Arc<Policy>,
    pub(crate) traffic: Arc<Traffic>,
    /// Whether a request has matched it, other than those that were served from memory.
    is_matched: Arc<AtomicBool>,
}

/// Stands in place of a pattern: the default policy, for all routes without a policy of their own.
pub(crate) const OTHERS: &str = "(default)";

impl RouteSettings {
    /// For a route of its own: what a policy counts and limits is not shared with other routes that have a copy of it.
    pub(super) fn new(mut policy: Policy) -> Self {
        policy.fills = policy.fills.apart();
        policy.miss_hint = MissHint::default();
        policy.streak = UncacheableStreak::default();
        policy.identified_streak = UncacheableStreak::default();
        policy.post_reads = policy.post_reads.map(PostReads::apart);
        Self { policy: Arc::new(policy), traffic: Arc::default(), is_matched: Arc::default() }
    }
}

impl LayerSettings {
    /// The settings of a route, by its pattern, if it has a policy.
    pub(crate) fn route(&self, pattern: Option<&str>) -> Option<&RouteSettings> {
        pattern.and_then(|pattern| self.routes.get(pattern)).or(self.default.as_ref())
    }

    /// Whether a request may write, perhaps through a pool that Tidegate does not know of: by its method, unless its route
    /// only reads, or its policy has found that it does (`is_read`).
    pub(crate) fn may_write<A>(&self, request: &Request<A>, is_read: bool) -> bool {
        let only_reads = || route::pattern(request).is_some_and(|it| self.only_read.contains(it));
        !is_safe(request.method()) && !is_read && !only_reads()
    }

    /// A request's key, and which parameters of the query count in it if a response has said so.
    pub(crate) fn key(
        &self,
        of: &KeySource<'_>,
        policy: &Policy,
    ) -> (Key, Option<Arc<SearchVariance>>) {
        let variance = self.variances.known(&self.space, of, policy);
        (keying::key(&self.space, &of.varying(variance.as_deref()), policy), variance)
    }

    /// Whether headers decide on any route.
    pub(crate) fn has_standard(&self) -> bool {
        self.all().any(|(_, route)| route.policy.is_standard)
    }

    /// The routes that have a policy, and last what is for all others.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &RouteSettings)> {
        let named = self.routes.iter().map(|(pattern, route)| (pattern.as_str(), route));
        named.chain(self.default.iter().map(|route| (OTHERS, route)))
    }

    /// Notes whether a request matches a pattern that has a policy. For each request that is not served from memory.
    pub(crate) fn note_pattern<A>(&self, request: &Request<A>) {
        if self.unmatched.is_on() {
            self.note_early_pattern(route::pattern(request));
        }
    }

    #[cold]
    fn note_early_pattern(&self, pattern: Option<&str>) {
        let is_matched = |route: &RouteSettings| route.is_matched.load(Ordering::Relaxed);
        match pattern.and_then(|pattern| self.routes.get(pattern)) {
            Some(route) => {
                let is_first = !route.is_matched.swap(true, Ordering::Relaxed);
                if is_first && self.routes.values().all(is_matched) {
                    self.unmatched.stop();
                }
            }
            None => pattern.into_iter().for_each(|pattern| self.unmatched.note_other(pattern)),
        }
        if self.unmatched.has_enough() {
            let has_matches = self.routes.values().any(is_matched);
            let unmatched = self.routes.iter().filter(|(_, route)| !is_matched(route));
            unmatched.for_each(|(pattern, _)| self.unmatched.report(pattern, has_matches));
        }
    }

    pub(crate) fn report(&self) {
        for fault in &self.faults {
            tracing::error!("{fault}");
        }
    }
}

impl fmt::Debug for LayerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerSettings").field("routes", &self.routes).finish_non_exhaustive()
    }
}
