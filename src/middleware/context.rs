//! What is known of a request before the cache is asked, and how it is asked.

use std::sync::Arc;

use http::{Extensions, HeaderMap, Method, Request};

use super::canonical;
use super::identity::IdentitySource;
use super::layer::LayerSettings;
use super::rendered::RenderedHead;
use super::route;
use super::rules::request::RequestDirectives;
use super::rules::search_variance::SearchVariance;
use super::rules::storable::Audience;
use super::rules::unsafe_method::InvalidationTarget;
use super::rules::vary;
use super::stored::vary_marker;
use super::strict;
use crate::cache::{Cache, Hit, LookupOptions, LookupResult, Policy, PolicyTag};
use crate::entry::{Entry, Key};
use crate::store::{Found, Tier};

/// What is known of a request before the cache is asked.
pub(crate) struct RequestContext {
    pub(crate) key: Key,
    pub(crate) policy: Arc<Policy>,
    pub(crate) ask: LookupOptions,
    pub(crate) asked: RequestDirectives,
    /// What the handler gets for the request's extensions, where the policy is strict.
    pub(crate) extensions: Option<Extensions>,
    /// Which parameters of the query count in the key, if a response has said so.
    pub(crate) variance: Option<Arc<SearchVariance>>,
    /// Where the request goes, once that is known to matter: where headers decide.
    pub(crate) place: Option<RequestPlace>,
}

/// Where a request goes.
pub(crate) struct RequestPlace {
    /// As a write to it has it.
    pub(crate) target: InvalidationTarget,
    /// Its key, whatever the query.
    pub(crate) path: Key,
}

impl LayerSettings {
    /// Where a request goes, and the tag by which a write to it makes its responses invalid: under policies by which headers
    /// decide.
    pub(crate) fn page<A>(
        &self,
        request: &Request<A>,
        policy: &Policy,
    ) -> Option<(InvalidationTarget, PolicyTag)> {
        if !policy.is_standard {
            return None;
        }
        let target = InvalidationTarget::new(route::uri(request), request.headers(), policy.host);
        let tag = PolicyTag::new(target.tag(&self.namespace));
        Some((target, tag))
    }
}

impl RequestContext {
    /// Fills in the tags that the policy names; `false` if a parameter is missing.
    pub(crate) fn tag<A>(&mut self, request: &Request<A>) -> bool {
        let tags = route::tags(request, &self.policy);
        let is_whole = tags.is_some();
        self.ask.tags = tags.unwrap_or_default();
        is_whole
    }

    /// Prepares what a strict policy hands over; `false` if that can't be done.
    pub(crate) fn prepare<A>(&mut self, request: &Request<A>, identity: &IdentitySource) -> bool {
        if !self.policy.identity.is_strict {
            return true;
        }
        self.extensions = strict::extensions(request, identity);
        self.extensions.is_some()
    }

    /// The request as the handler gets it.
    pub(crate) fn to_handler_request<A>(&self, mut request: Request<A>) -> Request<A> {
        if let Some(extensions) = &self.extensions {
            strict::withhold(&mut request, &self.policy, extensions);
        }
        canonical::rewrite(&mut request, &self.policy, &self.asked);
        request
    }

    /// Whether a stored response may go to this client. One that may not is no validator for its request either: a 304 would
    /// confirm the client's own response.
    pub(crate) fn may_serve(&self, entry: &Entry) -> bool {
        // RFC 9111, section 3.5, forbids the other way only; an origin may give more to those it knows.
        let client = &self.asked.client;
        let has_other_cookies = self.asked.has_other_cookies;
        if !client.is_authorized && !client.is_identified() && !has_other_cookies {
            return true;
        }
        RenderedHead::from_entry(entry).is_ok_and(|ready| {
            // Section 4.1: what was computed for other cookies is another variant.
            let is_of_these_cookies = !has_other_cookies || !ready.varies_by_cookies;
            is_of_these_cookies
                && match (client.is_identified(), client.is_authorized) {
                    (true, _) => ready.audience == Audience::All,
                    (false, true) => ready.audience != Audience::Unknown,
                    (false, false) => true,
                }
        })
    }

    /// Finds an answer under the request's key, or where a signpost there points to; or says who makes
    /// it. Who wants only a part, or only what is stored, is not asked to.
    pub(crate) async fn find(&self, cache: &Cache, headers: &HeaderMap) -> LookupResult {
        let found = self.find_under(&self.key, cache).await;
        let LookupResult::Hit(Hit { found: Found { entry, .. }, .. }) = &found else {
            return found;
        };
        match self.variant_key(entry, headers).map(Box::new) {
            // Apart, since most answers are found at once and need no room for another key.
            Some(key) => {
                let found = Box::pin(self.find_under(&key, cache)).await;
                if let LookupResult::Hit(hit) = &found {
                    note_use(entry, &key, &hit.found);
                }
                found
            }
            None => found,
        }
    }

    /// The key that an entry points to, if it is a signpost.
    pub(crate) fn variant_key(&self, entry: &Entry, headers: &HeaderMap) -> Option<Key> {
        let names = entry.is_vary_marker().then(|| vary_marker(entry))?.ok()?;
        let key = vary::key(&self.key, &names, headers);
        (key != self.key).then_some(key)
    }

    /// What may be served if no answer can be made. A signpost is followed whatever has become of it: it
    /// says where the answers are, and nothing of the data.
    pub(crate) async fn fallback(&self, cache: &Cache, headers: &HeaderMap) -> Option<Hit> {
        if self.policy.longest_if_error().is_zero() {
            return None;
        }
        let found = cache.stored(&self.key).await?;
        let key = self.variant_key(&found.entry, headers)?;
        let hit = cache.fallback(&key, &self.policy, &self.ask).await;
        hit.filter(|hit| self.may_serve(&hit.found.entry))
    }

    /// Whether a whole answer is asked for, as it is stored.
    pub(crate) fn is_comparable(&self) -> bool {
        self.asked.method != Method::HEAD && self.asked.conditions.is_empty()
    }

    async fn find_under(&self, key: &Key, cache: &Cache) -> LookupResult {
        match self.asked.is_for_a_part() || self.asked.only_if_cached || self.policy.shadow {
            true => cache.look(key, &self.policy, self.ask.clone()).await,
            false => cache.lookup(key, &self.policy, self.ask.clone()).await,
        }
    }
}

/// Notes that a variant was served to which a signpost points.
fn note_use(signpost: &Entry, key: &Key, found: &Found) {
    found.entry.note_use();
    if let Some(variants) = signpost.variants().filter(|_| found.tier == Tier::Shared) {
        variants.renew(key, &found.entry);
    }
}
