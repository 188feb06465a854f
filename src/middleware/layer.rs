//! What users put around their routers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tower_layer::Layer;

use super::budget::ByteBudget;
use super::identity::IdentitySource;
use super::service::CacheService;
use super::session::Sessions;
use super::settings::{LayerSettings, RouteSettings};
use super::unmatched::PatternWatch;
use super::variances::VarianceTable;
use super::{keying, pattern, route};
use crate::cache::names::header_pattern_fault;
use crate::cache::{Cache, Policy, PolicyError, VaryBy};

/// The default of `buffer_limit`, in bytes.
const BUFFER_BYTES: usize = 256 << 20;

/// Puts a [`Cache`] in front of read handlers.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, extract::Path, routing::get};
/// use tidegate::{Cache, CacheLayer, Memory, Policy};
///
/// # async fn user(Path(id): Path<u32>) -> String { format!("user {id}") }
/// let cache = Cache::new(Memory::new(256 << 20));
/// let app: Router = Router::new().route("/users/{id}", get(user)).layer(
///     CacheLayer::new(cache)
///         .route("/users/{id}", Policy::ttl(Duration::from_secs(300)).tag("users:id={id}")),
/// );
/// ```
///
/// Routes are named as the outermost router sees them: for a nested router, include the prefix. Requests to other routes
/// use the [`default`](Self::default_policy) policy if there is one, and bypass the cache otherwise.
///
/// Put the layer inside compression and CORS, which change the response for one client. Put authentication and
/// authorization *around* this layer, so that they run for each request, hits included. What they add to the request's
/// extensions must be part of the key: see [`Policy::vary_by`].
#[derive(Clone, Debug)]
pub struct CacheLayer {
    pub(crate) shared: Arc<LayerSettings>,
}

/// The part of a budget for all bodies that is for the content of requests.
fn content_budget(all: &ByteBudget, bytes: usize) -> ByteBudget {
    all.part(bytes / 4)
}

impl CacheLayer {
    /// Creates a layer without policies. Until you add one, every request bypasses the cache.
    pub fn new(cache: Cache) -> Self {
        let budget = ByteBudget::new(BUFFER_BYTES);
        let content_budget = content_budget(&budget, BUFFER_BYTES);
        let shared = LayerSettings {
            space: keying::space("", cache.version_text()),
            cache,
            namespace: String::new(),
            sessions: None,
            budget,
            content_budget,
            identity: IdentitySource::default(),
            recorder: Arc::default(),
            variances: VarianceTable::default(),
            unmatched: Arc::default(),
            routes: BTreeMap::new(),
            only_read: BTreeSet::new(),
            default: None,
            faults: Vec::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Creates a layer that applies one policy to all requests, for a single handler or any service.
    pub fn with_policy(cache: Cache, policy: Policy) -> Self {
        Self::new(cache).default_policy(policy)
    }

    /// Sets the policy of a route, which is named by its path pattern (`/users/{id}`). If the policy or the pattern is
    /// invalid, it is not used: [`validate`](Self::validate) returns the error.
    #[must_use]
    pub fn route(mut self, pattern: &str, policy: Policy) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        let fault = pattern::fault(pattern)
            .or_else(|| policy.fault())
            .or_else(|| missing_parameter(pattern, &policy))
            .or_else(|| contradiction(&policy, &shared.identity));
        if let Some(fault) = fault {
            shared.faults.push(format!("the policy of {} is not used: {fault}", shown(pattern)));
        } else {
            shared.unmatched = Arc::new(PatternWatch::started());
            if shared.routes.insert(pattern.to_owned(), RouteSettings::new(policy)).is_some() {
                shared.faults.push(format!("{pattern} has two policies; the last one counts"));
            }
        }
        self
    }

    /// Declares that all requests to a route only read, whatever their HTTP method. Examples are a route for a gRPC call,
    /// for searches, or for a GraphQL service without mutations. All other POST, PUT, PATCH and DELETE requests are assumed
    /// to write, perhaps through a pool that Tidegate does not know of, so their reads through `Database::reader` go to the
    /// primary. `only_reads` caches nothing. To cache searches and GraphQL queries too, see [`Policy::post_reads`], which
    /// makes the same declaration for individual requests; it does not support gRPC.
    #[must_use]
    pub fn only_reads(mut self, pattern: &str) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        match pattern::fault(pattern) {
            Some(fault) => {
                let pattern = shown(pattern);
                shared.faults.push(format!("only_reads({pattern}) is not used: {fault}"));
            }
            None => drop(shared.only_read.insert(pattern.to_owned())),
        }
        self
    }

    /// Sets the policy of all routes that have none of their own. Its tags may use parameters of the routes: a request
    /// to a route that lacks one of them bypasses the cache.
    #[must_use]
    pub fn default_policy(mut self, policy: Policy) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        match policy.fault().or_else(|| contradiction(&policy, &shared.identity)) {
            Some(fault) => {
                shared.faults.push(format!("the default policy is not used: {fault}"));
            }
            None => shared.default = Some(RouteSettings::new(policy)),
        }
        self
    }

    /// Lets clients read their own writes, on every node. The response to a request that wrote carries a token, in the
    /// header `Tidegate-Position` and in a cookie. The response to a request that sends the token back contains at least
    /// everything that the session had written when it got the token.
    #[must_use]
    pub fn sessions(mut self, sessions: Sessions) -> Self {
        Arc::make_mut(&mut self.shared).sessions = Some(sessions);
        self
    }

    /// Adds request headers that identify the client, in addition to `Authorization`, `Cookie` and the well-known ones
    /// that `docs/security.md` lists. A name that ends in `*` matches all names with this prefix. A request with one
    /// of these headers bypasses the cache, unless the policy names the header in [`vary`](Policy::vary) or is
    /// [`public`](Policy::public). Under [`Policy::standard`], the response is stored only if its `Cache-Control` has
    /// `public` or `s-maxage`. Name the headers that your proxy or gateway adds.
    #[must_use]
    pub fn identity_headers<I>(mut self, names: I) -> Self
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let shared = Arc::make_mut(&mut self.shared);
        for name in names.into_iter().map(Into::into) {
            match header_pattern_fault("identity_headers", &name) {
                Some(fault) => shared.faults.push(fault),
                None => shared.identity.headers.add(&name),
            }
        }
        shared.refuse_contradictions();
        self
    }

    /// Declares that a type of request extension, which a layer around this one adds, does not identify the client: shared
    /// state, a request id, or `ConnectInfo<SocketAddr>` if no response depends on it.
    ///
    /// A request with an extension whose type is neither declared nor one of axum's own bypasses the cache, unless the
    /// policy keys by it ([`Policy::vary_by`]) or is [`public`](Policy::public): the extension may be the client's
    /// identity, found by an authentication layer. Under [`Policy::standard`], the response is stored only if its
    /// `Cache-Control` has `public` or `s-maxage`.
    ///
    /// A [`strict`](Policy::strict) policy passes declared extensions to its handlers, so don't declare a type that holds the
    /// client's identity: use [`Policy::vary_by_extension`].
    #[must_use]
    pub fn extension<T: Clone + Send + Sync + 'static>(mut self) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        shared.identity.extensions.add::<T>();
        shared.refuse_contradictions();
        self
    }

    /// Limits the memory, in bytes, that all bodies take together while they are buffered for the cache; 256 MiB by
    /// default. The content of requests ([`Policy::query_content`], [`Policy::post_reads`]) takes at most a quarter of it, so
    /// slow uploads leave room for responses. A body that does not fit is passed on whole, and the response is not stored.
    #[must_use]
    pub fn buffer_limit(mut self, bytes: usize) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        if bytes == 0 {
            let fault = "buffer_limit is not used: with 0 bytes, no body would be stored";
            shared.faults.push(fault.into());
        } else {
            shared.budget = ByteBudget::new(bytes);
            shared.content_budget = content_budget(&shared.budget, bytes);
        }
        self
    }

    /// Adds a namespace to every key of this layer. Use it if several layers share a cache or a Redis and the same path has
    /// a different meaning in each. To separate versions of one service, use [`Cache::version`].
    #[must_use]
    pub fn namespace(mut self, name: impl Into<String>) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        shared.namespace = name.into();
        shared.space = keying::space(&shared.namespace, shared.cache.version_text());
        self
    }

    /// Checks the policies and patterns. Without this call, an invalid one is only logged as an error, and is not used
    /// (of two policies for one route, the last one is used).
    ///
    /// A pattern that no request matches can't be found at start, since axum does not list its routes. So the layer
    /// checks the patterns once, when ten minutes have passed since the first request and at least 10,000 requests were
    /// not served from memory. It logs each pattern that none of these requests has matched. The level is warn if no
    /// request had a `MatchedPath`. It is also warn if requests came to a route that has no policy, and whose pattern
    /// differs from the logged one only by a prefix or in the text of one segment. Otherwise it is info.
    ///
    /// # Errors
    ///
    /// If there is any of the following. The error names each one, and says how to fix it:
    ///
    /// - a pattern that axum 0.8 does not accept, such as `/users/:id` or `users/{id}`, here or in
    ///   [`only_reads`](Self::only_reads). Segments that literally begin with `:` or `*`, which
    ///   `Router::without_v07_checks` permits, are refused too, so such a route can't have a policy of its own;
    /// - a route with two policies;
    /// - a tag that is empty, has an unmatched brace, or has a parameter that the route does not have or has twice;
    /// - a setting with which nothing would be stored or served: a TTL or `max_staleness` of zero, a
    ///   [`buffer_limit`](Self::buffer_limit) of 0 bytes;
    /// - a `jitter` or `audit` that is not between 0 and 1, or a negative `early_refresh`;
    /// - an invalid name of a header (in `vary`, `forward` or [`identity_headers`](Self::identity_headers)), of a
    ///   cookie (in `vary_cookies` or `ignore_cookies`) or of a query parameter, `vary` by `*`, or an unsupported field
    ///   in `tag_fields`;
    /// - settings that contradict each other: [`public`](Policy::public) with `vary` by `Authorization`, `Cookie`,
    ///   `Proxy-Authorization` or one of [`identity_headers`](Self::identity_headers), except under
    ///   [`strict`](Policy::strict); `forward` without `strict`; `any_query_order` under `standard`; a cookie that is
    ///   both keyed and ignored; a type that both [`extension`](Self::extension) and
    ///   [`Policy::vary_by_extension`] name.
    pub fn validate(self) -> Result<Self, PolicyError> {
        match self.shared.faults.is_empty() {
            true => Ok(self),
            false => Err(PolicyError(self.shared.faults.clone())),
        }
    }
}

impl<S> Layer<S> for CacheLayer {
    type Service = CacheService<S>;

    fn layer(&self, inner: S) -> CacheService<S> {
        CacheService::new(inner, self.shared.clone())
    }
}

impl LayerSettings {
    /// Drops the policies that contradict the headers which the service has declared.
    fn refuse_contradictions(&mut self) {
        let Self { routes, default, identity, faults, .. } = self;
        let mut refuse = |of: &str, route: &RouteSettings| {
            let fault = contradiction(&route.policy, identity);
            faults.extend(fault.iter().map(|fault| format!("{of} is not used: {fault}")));
            fault.is_some()
        };
        routes.retain(|pattern, route| !refuse(&format!("the policy of {pattern}"), route));
        default.take_if(|route| refuse("the default policy", route));
    }
}

/// A pattern in a message.
fn shown(pattern: &str) -> String {
    if pattern.is_empty() { "``".into() } else { pattern.into() }
}

/// Why the route can't fill the policy's tags, if it can't.
fn missing_parameter(pattern: &str, policy: &Policy) -> Option<String> {
    policy.parameters().find_map(|name| {
        match route::names(pattern).filter(|known| *known == name).count() {
            0 => Some(format!("a tag uses {{{name}}}, which the route does not have")),
            1 => None,
            _ => Some(format!(
                "a tag uses {{{name}}}, which the route has more than once: give its parameters different names"
            )),
        }
    })
}

/// The headers by which a response can't vary that does not depend on the client.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// Why a policy contradicts itself, given the headers and extensions that the service has declared, if it does. By its
/// headers, a strict one does not: its handler gets only those that the key holds.
fn contradiction(policy: &Policy, identity: &IdentitySource) -> Option<String> {
    let client = policy.identity.vary_by.as_ref().and_then(VaryBy::extension);
    if let Some(declared) = client.filter(|client| identity.extensions.has(client.id)) {
        return Some(format!(
            "vary_by_extension keys by `{}`, but CacheLayer::extension declares that this type does not identify the \
             client: leave out the declaration",
            declared.name
        ));
    }
    let is_identity =
        |name: &&String| CREDENTIALS.contains(&name.as_str()) || identity.headers.is_added(name);
    let is_promise = policy.public && !policy.identity.is_strict;
    let name = policy.vary.iter().filter(|_| is_promise).find(is_identity)?;
    Some(format!(
        "Policy::public says that the response does not depend on the client, but Policy::vary lists `{name}`, which \
         identifies the client: leave one of them out, or add Policy::strict, so that the handler gets nothing else \
         that \
         identifies the client"
    ))
}
