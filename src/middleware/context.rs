//! What is known about a request before the lookup, and the lookup itself.

use std::sync::Arc;

use http::{Extensions, HeaderMap, Method, Request};

use super::canonical;
use super::identity::IdentitySource;
use super::rendered::RenderedHead;
use super::route;
use super::rules::fields::RequestField;
use super::rules::request::RequestDirectives;
use super::rules::search_variance::SearchVariance;
use super::rules::target::InvalidationTarget;
use super::rules::vary;
use super::settings::LayerSettings;
use super::stored::vary_marker;
use super::strict;
use crate::cache::{
    Cache, FlightMode, Hit, LookupOptions, LookupResult, Peeked, Policy, PolicyTag,
};
use crate::entry::{Entry, Key};
use crate::store::{Found, Tier};

/// What is known about a request before the lookup.
pub(crate) struct RequestContext {
    pub(crate) key: Key,
    pub(crate) policy: Arc<Policy>,
    pub(crate) options: LookupOptions,
    pub(crate) directives: RequestDirectives,
    /// Under a strict policy, the extensions that the handler gets.
    pub(crate) extensions: Option<Extensions>,
    /// Which parameters of the query count in the key, if a response has said so.
    pub(crate) variance: Option<Arc<SearchVariance>>,
    /// The request's target, under `Policy::standard`.
    pub(crate) request_target: Option<Box<RequestTarget>>,
}

/// A request's target.
pub(crate) struct RequestTarget {
    /// The target that a write to it invalidates.
    pub(crate) target: InvalidationTarget,
    /// Its key, whatever the query.
    pub(crate) path: Key,
}

/// Under `Policy::standard`: a request's target.
pub(crate) fn invalidation_target<A>(
    request: &Request<A>,
    policy: &Policy,
) -> Option<InvalidationTarget> {
    policy
        .is_standard
        .then(|| InvalidationTarget::new(route::uri(request), request.headers(), policy.host))
}

impl LayerSettings {
    /// The tag by which a write to a target invalidates its responses.
    pub(crate) fn invalidation_tag(&self, target: &InvalidationTarget) -> PolicyTag {
        PolicyTag::new(target.tag(&self.namespace))
    }
}

impl RequestContext {
    /// Fills in the tags that the policy names; `false` if a parameter is missing.
    pub(crate) fn tag<A>(&mut self, request: &mut Request<A>) -> bool {
        let tags = route::tags(request, &self.policy);
        let is_whole = tags.is_some();
        self.options.tags = tags.unwrap_or_default();
        is_whole
    }

    /// Prepares the extensions that a strict policy passes to the handler; `false` if that is not possible.
    pub(crate) fn prepare<A>(&mut self, request: &Request<A>, identity: &IdentitySource) -> bool {
        if !self.policy.identity.is_strict {
            return true;
        }
        self.extensions = strict::extensions(request, &self.policy, identity);
        self.extensions.is_some()
    }

    /// The request as the handler gets it.
    pub(crate) fn to_handler_request<A>(&self, request: Request<A>) -> Request<A> {
        to_handler_request(request, &self.policy, &self.directives, self.extensions.as_ref())
    }

    /// Whether a stored response may be served to this client. If not, its validators may not be used for the client's
    /// request either: a 304 would confirm the client's own response.
    pub(crate) fn may_serve(&self, entry: &Entry) -> bool {
        self.directives.accepts_any()
            || RenderedHead::from_entry(entry)
                .is_ok_and(|ready| self.directives.accepts(ready.audience, ready.varies_by_cookies))
    }

    /// Looks up the response under the request's key, following a vary marker. On a miss, the request joins a flight,
    /// unless it is for a part, has `only-if-cached`, or is in shadow mode.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of one has room for its arguments twice"
    )]
    pub(crate) fn find(
        &self,
        cache: &Cache,
        headers: &HeaderMap,
    ) -> impl Future<Output = LookupResult> + Send {
        async move {
            let found = self.find_under(&self.key, &self.options, cache).await;
            let LookupResult::Hit(Hit { found: Found { entry, .. }, .. }) = &found else {
                return found;
            };
            match self.variant_key(entry, headers).map(Box::new) {
                // Boxed, since most lookups need no second key.
                Some(key) => {
                    let options = LookupOptions { peeked: Peeked::Unknown, ..self.options.clone() };
                    let mut found_variant = Box::pin(self.find_under(&key, &options, cache)).await;
                    if let LookupResult::Hit(hit) = &found_variant {
                        note_use(entry, &key, &hit.found);
                    }
                    found_variant.note_marker(entry);
                    found_variant
                }
                None => found,
            }
        }
    }

    /// The variant's key, if the entry is a vary marker.
    pub(crate) fn variant_key(&self, entry: &Entry, headers: &HeaderMap) -> Option<Key> {
        let names = entry.is_vary_marker().then(|| vary_marker(entry))?.ok()?;
        let key = vary::key(&self.key, &names, headers);
        (key != self.key).then_some(key)
    }

    /// The response that may be served if the handler fails. A vary marker is followed even if it is invalid or expired: it
    /// holds only field names, and no data.
    pub(crate) async fn fallback(&self, cache: &Cache, headers: &HeaderMap) -> Option<Hit> {
        if self.policy.longest_if_error().is_zero() {
            return None;
        }
        let found = cache.stored(&self.key).await?;
        let key = self.variant_key(&found.entry, headers)?;
        let hit = cache.fallback(&key, &self.policy, &self.options).await;
        hit.filter(|hit| self.may_serve(&hit.found.entry))
    }

    /// Whether the handler may not be called (RFC 9111, section 5.2.1.7). In shadow mode it is called for every request.
    pub(crate) fn wants_only_stored(&self) -> bool {
        self.directives.only_if_cached && !self.policy.shadow
    }

    /// Whether the handler's response is a whole one, as it is stored. The handler gets all conditions of the request, even
    /// those that the policy ignores.
    pub(crate) fn is_comparable(&self) -> bool {
        self.directives.method != Method::HEAD
            && !self.directives.fields.has_any(&RequestField::CONDITIONS)
    }

    fn find_under<'a>(
        &'a self,
        key: &'a Key,
        options: &'a LookupOptions,
        cache: &'a Cache,
    ) -> impl Future<Output = LookupResult> + Send + 'a {
        let mode = if self.wants_only_stored() {
            FlightMode::Never
        } else if self.directives.is_for_a_part() || self.policy.shadow {
            FlightMode::Solo
        } else {
            FlightMode::Join
        };
        cache.lookup(key, &self.policy, options, mode)
    }
}

/// A request as the handler gets it: without what the policy withholds, and with the rest as the key holds it.
/// `extensions` are those that a strict policy passes on.
pub(crate) fn to_handler_request<A>(
    mut request: Request<A>,
    policy: &Policy,
    directives: &RequestDirectives,
    extensions: Option<&Extensions>,
) -> Request<A> {
    if let Some(extensions) = extensions {
        strict::withhold(&mut request, policy, directives.content.is_some(), extensions);
    }
    canonical::rewrite(&mut request, policy, directives);
    request
}

/// Notes that a variant was served.
fn note_use(vary_marker: &Entry, key: &Key, found: &Found) {
    found.entry.note_use();
    if let Some(variants) = vary_marker.variants().filter(|_| found.tier == Tier::Shared) {
        variants.renew(key, &found.entry);
    }
}
