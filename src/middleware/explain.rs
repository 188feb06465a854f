//! How the cache would handle a request, and why.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, StatusCode, Uri};

use super::context::RequestContext;
use super::keying::KeySource;
use super::rendered::RenderedHead;
use super::route;
use super::rules::vary;
use super::settings::{LayerSettings, OTHERS};
use super::stored::vary_marker;
use crate::cache::{LookupOptions, LookupPreview, Policy, PolicyTag};
use crate::entry::{Entry, Key, LogPosition, Position, Tag};
use crate::outcome::{BypassReason, Outcome};
use crate::store::Tier;

/// How many prefixes of nested routers are tried.
const MOST_NESTED: usize = 16;

/// How the cache would handle a request, and why.
#[derive(Debug)]
pub(crate) struct RequestExplanation {
    /// The pattern of its route, if the layer knows it.
    pub(crate) route: Option<String>,
    pub(crate) outcome: Outcome,
    /// The key of its response, and the headers by which responses of the route vary.
    pub(crate) key: Option<Key>,
    pub(crate) differs_by: Vec<String>,
    pub(crate) stored: Option<StoredExplanation>,
    /// The dependencies of its response.
    pub(crate) tags: Vec<Dependency>,
}

/// The response that is stored for the request, whether or not it may be served.
#[derive(Debug)]
pub(crate) struct StoredExplanation {
    pub(crate) tier: Tier,
    pub(crate) entry: Arc<Entry>,
    pub(crate) status: Option<StatusCode>,
    pub(crate) age: Duration,
}

/// One dependency of a response.
#[derive(Debug)]
pub(crate) struct Dependency {
    pub(crate) tag: Tag,
    /// The tag's name, if this node knows it: entries store only its hash.
    pub(crate) name: Option<String>,
    pub(crate) fence: Position,
    /// Whether the stored response contains all known changes to it.
    pub(crate) holds: Option<bool>,
}

impl LayerSettings {
    /// Explains how the cache would handle a GET request with this URI and these headers. This calls no handler and changes
    /// no counters. An entry that is found only in the shared store is copied to memory.
    pub(crate) async fn explain(&self, request: &Request<String>) -> RequestExplanation {
        let path = request.uri().path();
        let others = self.recorder.others();
        // If two patterns match equally well, prefer the one that a router has matched before.
        let known = others.keys().map(|name| &**name).chain(self.all().map(|(pattern, _)| pattern));
        let pattern = route::matching(known, path);
        let Some(found) = self.route(pattern) else {
            return RequestExplanation::bypassed(pattern, BypassReason::NoPolicy);
        };
        let shown = pattern.unwrap_or(OTHERS);
        let parameter = |name: &str| route::parameter(pattern?, path, name);
        let context =
            self.identity.directives(request, &found.policy, None).and_then(|directives| {
                let tags = found.policy.tags_with(parameter).ok_or(BypassReason::NoParameter)?;
                let (key, variance) =
                    self.key(&KeySource::new(request, &directives), &found.policy);
                let options =
                    LookupOptions { tags, limits: directives.limits, ..LookupOptions::default() };
                Ok(RequestContext {
                    key,
                    variance,
                    policy: found.policy.clone(),
                    options,
                    directives,
                    extensions: None,
                    request_target: None,
                })
            });
        let mut context = match context {
            Ok(context) => context,
            Err(reason) => return RequestExplanation::bypassed(Some(shown), reason),
        };
        if let Some(key) = self.nested_key(request, &context).await {
            context.key = key;
        }
        let mut names = found.policy.tag_names_with(parameter);
        names.extend(found.traffic.reads.get().tables.into_keys());
        self.explain_plan(shown, &context, request.headers(), &names).await
    }

    /// The key of a request to a layer inside nested routers. Each router strips its prefix from the URI, and the number of
    /// routers is unknown here, so this tries each number and returns the key under which a response is stored.
    async fn nested_key(&self, request: &Request<String>, context: &RequestContext) -> Option<Key> {
        if self.cache.examine(&context.key, &context.policy, &context.options).await.found.is_some()
        {
            return None;
        }
        let keyed = KeySource::new(request, &context.directives);
        for seen in within_routers(request.uri()) {
            let (key, _) = self.key(&keyed.nested(&seen), &context.policy);
            if self.cache.examine(&key, &context.policy, &context.options).await.found.is_some() {
                return Some(key);
            }
        }
        None
    }

    async fn explain_plan(
        &self,
        pattern: &str,
        context: &RequestContext,
        headers: &HeaderMap,
        names: &[String],
    ) -> RequestExplanation {
        let cache = &self.cache;
        let mut key = context.key.clone();
        let mut examined = cache.examine(&key, &context.policy, &context.options).await;
        let mut differs_by = differing(&context.policy);
        if examined.outcome.is_hit()
            && let Some(pointed) =
                examined.found.as_ref().filter(|found| found.entry.is_vary_marker())
            && let Ok(headers_named) = vary_marker(&pointed.entry)
        {
            key = vary::key(&context.key, &headers_named, headers);
            examined = cache.examine(&key, &context.policy, &context.options).await;
            differs_by.extend(headers_named.iter().map(ToString::to_string));
        }
        let outcome = outcome(context, &examined);
        let LookupPreview { found, .. } = examined;
        let stored = found.map(|found| StoredExplanation {
            tier: found.tier,
            status: RenderedHead::from_entry(&found.entry).ok().map(|ready| ready.status),
            age: found.entry.age(),
            entry: found.entry,
        });
        let tags = self.dependencies(context, stored.as_ref(), names);
        let route = Some(pattern.to_owned());
        RequestExplanation { route, outcome, key: Some(key), differs_by, stored, tags }
    }

    /// The dependencies of the stored response or, if none is stored, those that the policy declares.
    fn dependencies(
        &self,
        context: &RequestContext,
        stored: Option<&StoredExplanation>,
        names: &[String],
    ) -> Vec<Dependency> {
        let own: Vec<Tag> = context.options.tags.iter().map(PolicyTag::tag).collect();
        let tags = stored.map_or(&*own, |stored| stored.entry.tags());
        let fences = self.cache.fences();
        let of = |tag: &Tag| {
            let fence = fences.position(*tag);
            let current = LogPosition::new(fences.epoch(), fence);
            let holds = stored.map(|stored| stored.entry.basis.has_reached(current));
            Dependency { tag: *tag, name: name_of(*tag, names), fence, holds }
        };
        tags.iter().map(of).collect()
    }
}

impl RequestExplanation {
    fn bypassed(pattern: Option<&str>, reason: BypassReason) -> Self {
        Self {
            route: pattern.map(str::to_owned),
            outcome: Outcome::Bypass(reason),
            key: None,
            differs_by: Vec::new(),
            stored: None,
            tags: Vec::new(),
        }
    }
}

/// The URIs that nested routers may pass on: without the first segment, without the first two, and so on.
fn within_routers(uri: &Uri) -> impl Iterator<Item = Uri> {
    let path = uri.path();
    let rests = path.match_indices('/').skip(1).map(|(at, _)| &path[at..]);
    let all = (!path.ends_with('/')).then_some("/");
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    rests.chain(all).take(MOST_NESTED).filter_map(move |rest| {
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(format!("{rest}{query}").parse().ok()?);
        Uri::from_parts(parts).ok()
    })
}

/// The outcome of an examined request, decided in the order in which a request goes through the steps.
fn outcome(context: &RequestContext, examined: &LookupPreview) -> Outcome {
    let bypass = match (&examined.found, examined.outcome) {
        (Some(found), outcome) if outcome.is_hit() => match context.may_serve(&found.entry) {
            false => Some(BypassReason::Personal),
            true => context.policy.shadow.then_some(BypassReason::Shadow),
        },
        (_, Outcome::Bypass(_)) => None,
        _ if context.wants_only_stored() => Some(BypassReason::OnlyIfCached),
        _ => context.directives.is_for_a_part().then_some(BypassReason::Range),
    };
    bypass.map_or(examined.outcome, Outcome::Bypass)
}

/// What responses vary by under a policy, besides the path.
fn differing(policy: &Policy) -> Vec<String> {
    let cookies = policy.vary_cookies.iter().map(|name| format!("cookie {name}"));
    let by_author =
        policy.identity.vary_by.as_ref().map(|_| "the client, by Policy::vary_by".to_owned());
    policy.vary.iter().cloned().chain(cookies).chain(by_author).collect()
}

/// The name whose hash is this tag.
fn name_of(tag: Tag, names: &[String]) -> Option<String> {
    let known = names.iter().find(|name| Tag::named(name) == tag).cloned();
    let table = |name: &String| name.split_once(':').map_or(&**name, |(table, _)| table).to_owned();
    let bulk = || names.iter().map(table).find(|table| Tag::bulk(table) == tag);
    known.or_else(|| bulk().map(|table| format!("{table}!")))
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower::ServiceExt;

    use super::*;
    use crate::cache::Cache;
    use crate::middleware::CacheLayer;
    use crate::store::Memory;

    fn layer(pattern: &str) -> CacheLayer {
        let policy = Policy::ttl(Duration::from_secs(60)).tag("users:id={id}");
        CacheLayer::new(Cache::new(Memory::new(1 << 20))).route(pattern, policy)
    }

    async fn explained(layer: &CacheLayer, uri: &str) -> RequestExplanation {
        layer.shared.explain(&Request::get(uri).body(String::new()).unwrap()).await
    }

    #[tokio::test]
    async fn a_layer_inside_nested_routers_is_explained_as_it_handles_requests() {
        let nestings: [fn(Router) -> Router; 4] = [
            |inner| Router::new().nest("/api/{version}", inner),
            |inner| Router::new().nest("/api", Router::new().nest("/{version}", inner)),
            |inner| Router::new().nest_service("/api/{version}", inner),
            |inner| Router::new().nest("/api", Router::new().nest_service("/{version}", inner)),
        ];
        for (at, nest) in nestings.into_iter().enumerate() {
            for (route, pattern, uri) in [
                ("/users/{id}", "/api/{version}/users/{id}", "/api/1/users/7?q"),
                ("/", "/api/{version}", "/api/1"),
            ] {
                let policy = Policy::ttl(Duration::from_secs(60));
                let layer = CacheLayer::new(Cache::new(Memory::new(1 << 20)));
                let layer =
                    layer.route(pattern, policy.clone()).route(&format!("{pattern}/"), policy);
                let inner = Router::new().route(route, get(|| async { "user" }));
                let app = nest(inner.layer(layer.clone()));
                assert!(explained(&layer, uri).await.stored.is_none());
                let request = Request::get(uri).body(Body::empty()).unwrap();
                let response = app.oneshot(request).await.unwrap();
                let status = response.headers()["cache-status"].to_str().unwrap();
                assert!(status.contains("stored"), "{at} {uri}: {status}");
                let explained = explained(&layer, uri).await;
                assert!(explained.outcome.is_hit() && explained.stored.is_some(), "{at} {uri}");
                assert_eq!(explained.route.as_deref(), Some(pattern), "{at} {uri}");
            }
        }
    }

    #[tokio::test]
    async fn a_matched_route_without_a_policy_is_explained_as_no_policy() {
        let layer = layer("/api/users/{id}");
        layer.shared.recorder.turn_on();
        let inner = Router::new().route("/users/{name}", get(|| async { "user" }));
        let app = Router::new().nest("/api", inner.layer(layer.clone()));
        let request = Request::get("/api/users/7").body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        assert!(response.headers()["cache-status"].to_str().unwrap().contains("no-policy"));
        let explained = explained(&layer, "/api/users/7").await;
        assert_eq!(explained.outcome, Outcome::Bypass(BypassReason::NoPolicy));
    }
}
