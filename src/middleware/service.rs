//! The service that wraps users' routers. It serves hits in memory at once, and leaves the rest to [`Exchange`].

use std::sync::Arc;
use std::task::{Context, Poll};

use axum::extract::MatchedPath;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;
use tracing::Instrument;

use super::body::Body;
use super::bypass::BypassContext;
use super::content;
use super::context::{RequestContext, invalidation_target, to_handler_request};
use super::exchange::{Exchange, unattended};
use super::future::ResponseFuture;
use super::handler::Handler;
use super::identity::{self, IdentitySource};
use super::keying::{self, KeySource};
use super::response::respond;
use super::route;
use super::rules::request::{
    RequestDirectives, content_limit, content_limit_of_bypass, is_get, wants_only_stored,
};
use super::rules::target::InvalidationTarget;
use super::rules::unsafe_method::{InvalidatedByWrite, is_safe};
use super::rules::validation::unconditional;
use super::session::SessionClaim;
use super::settings::{LayerSettings, OTHERS, RouteSettings};
use super::strict;
use crate::cache::{Hit, LookupOptions, Peeked, Policy, Record, spawn};
use crate::entry::{Entry, LogPosition};
use crate::outcome::{BypassReason, Event, Outcome};
use crate::traffic::RequestTimer;

/// A service with the cache in front of it, created by [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: S,
    routes: Arc<LayerSettings>,
}

impl<S> CacheService<S> {
    pub(crate) fn new(inner: S, routes: Arc<LayerSettings>) -> Self {
        routes.report();
        Self { inner, routes }
    }
}

impl<S, A, B> Service<Request<A>> for CacheService<S>
where
    S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    A: HttpBody + Send + 'static,
    B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
{
    type Response = Response<Body<B>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future, B, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let session = self.session(request.headers());
        let Some(RouteSettings { policy, traffic, .. }) = self.route(&request) else {
            let timer = self.routes.recorder.other_request(route::pattern(&request));
            let met = Met { session, timer, is_read: false };
            return self.bypass(BypassReason::NoPolicy, met, request);
        };
        let timer = self.routes.recorder.request(traffic);
        let met = Met { session, timer, is_read: false };
        let (client, request) = identity::client(policy, request);
        let directives = self.routes.identity.directives(&request, policy, client);
        let limit = match &directives {
            Ok(directives) if is_get(&directives.method) => None,
            Ok(_) => content_limit(&request, policy),
            Err(reason) => content_limit_of_bypass(&request, policy, *reason),
        };
        match (directives, limit) {
            (directives, Some(limit)) => {
                let policy = policy.clone();
                self.by_content(policy, limit, directives, met, request)
            }
            (Ok(directives), None) => {
                let policy = policy.clone();
                self.respond(policy, directives, met, request)
            }
            (Err(reason), None) => self.bypass(reason, met, request),
        }
    }
}

/// What is known about a request besides its directives.
struct Met {
    /// The position that its session must see.
    session: Option<LogPosition>,
    /// Its timer, if traffic is recorded.
    timer: Option<RequestTimer>,
    /// Whether it is a POST request that only reads, according to its policy.
    is_read: bool,
}

/// Whether a POST request only reads, according to its policy: as the client sent it and, if it may be stored, as the
/// handler would get it. The two differ if the policy withholds or rewrites a part, or if there are conditions or a
/// range, which the cache removes. A handler could write if a part is missing, and a client could mean a write by a
/// part that is withheld.
fn only_reads<A>(
    policy: &Policy,
    identity: &IdentitySource,
    directives: Option<&RequestDirectives>,
    request: Request<A>,
    content: &[u8],
) -> (bool, Request<A>) {
    let Some(post) = &policy.post_reads else { return (false, request) };
    let (parts, body) = request.into_parts();
    let route = parts.extensions.get::<MatchedPath>().map_or(OTHERS, MatchedPath::as_str);
    let is_read = post.only_reads(route, &parts, content)
        && directives
            .and_then(|directives| head_for_handler(&parts, policy, directives, identity))
            .is_none_or(|head| post.only_reads(route, &head, content));
    (is_read, Request::from_parts(parts, body))
}

/// A request's head as the handler would get it, if that differs.
fn head_for_handler(
    parts: &Parts,
    policy: &Policy,
    directives: &RequestDirectives,
    identity: &IdentitySource,
) -> Option<Parts> {
    let request = Request::from_parts(parts.clone(), ());
    // If a strict policy can't copy the extensions, the handler gets the request unchanged.
    let extensions = match policy.identity.is_strict {
        true => Some(strict::extensions(&request, policy, identity)?),
        false => None,
    };
    let request = to_handler_request(request, policy, directives, extensions.as_ref());
    // A POST request is never sent with the validators of a stored response.
    let (head, ()) = unconditional(request, None).into_parts();
    let is_same = extensions.is_none()
        && keying::counts_all(policy)
        && (&head.uri, &head.headers) == (&parts.uri, &parts.headers);
    (!is_same).then_some(head)
}

/// Removes fields from a response that are not for clients.
fn withholding<F, B, E>(
    fields: Vec<String>,
    work: impl Future<Output = Result<Response<Body<B>>, E>> + Send + 'static,
) -> ResponseFuture<F, B, E>
where
    B: HttpBody,
{
    if fields.is_empty() {
        return ResponseFuture::pending(Box::pin(work));
    }
    ResponseFuture::pending(Box::pin(async move {
        let mut response = work.await?;
        for field in &fields {
            response.headers_mut().remove(field);
        }
        Ok(response)
    }))
}

impl<S> CacheService<S> {
    /// The position that the request must see, if it carries a valid token.
    fn session(&self, headers: &HeaderMap) -> Option<LogPosition> {
        let cache = &self.routes.cache;
        match self.routes.sessions.as_ref()?.read(headers) {
            SessionClaim::None => None,
            SessionClaim::Position { at, is_old: true } if cache.is_obsolete(at) => None,
            SessionClaim::Position { at, .. } => Some(at),
            SessionClaim::Forged => {
                cache.shared.counters.note(Event::BadToken);
                None
            }
        }
    }

    fn route<A>(&self, request: &Request<A>) -> Option<&RouteSettings> {
        self.routes.route(route::pattern(request))
    }

    fn context<A>(
        &self,
        request: &Request<A>,
        policy: Arc<Policy>,
        options: LookupOptions,
        directives: RequestDirectives,
    ) -> RequestContext {
        let (key, variance) = self.routes.key(&KeySource::new(request, &directives), &policy);
        let (extensions, request_target) = (None, None);
        RequestContext { key, policy, options, directives, extensions, variance, request_target }
    }

    /// Serves from the cache, or fills it.
    fn respond<A>(
        &mut self,
        policy: Arc<Policy>,
        directives: RequestDirectives,
        Met { session, timer, .. }: Met,
        request: Request<A>,
    ) -> ResponseFuture<S::Future, S::Body, S::Error>
    where
        S: Handler<A>,
        A: HttpBody + Send + 'static,
    {
        let options = LookupOptions {
            observer: timer.as_ref().map(RequestTimer::observer),
            limits: directives.limits,
            is_identified: !directives.is_of_anybody(),
            ..LookupOptions::for_request(session)
        };
        let mut context = self.context(&request, policy, options, directives);
        match self.serve_from_memory(&mut context, timer.as_ref(), request.headers()) {
            Some((response, entry)) => {
                if context.policy.audits_this() {
                    let cost = entry.life.cost;
                    spawn(unattended(
                        cost,
                        self.exchange(None).audit(entry, Box::new(context), request),
                    ));
                }
                ResponseFuture::ready(response)
            }
            None => self.respond_later(context, timer, request),
        }
    }

    /// Reads the content of a QUERY or POST request, which is part of its key, and then responds as to any other
    /// request. A POST request that may write goes to the handler.
    fn by_content<A>(
        &mut self,
        policy: Arc<Policy>,
        limit: usize,
        mut directives: Result<RequestDirectives, BypassReason>,
        mut met: Met,
        mut request: Request<A>,
    ) -> ResponseFuture<S::Future, S::Body, S::Error>
    where
        S: Handler<A>,
        A: HttpBody + Send + 'static,
    {
        if !content::can_be_read::<A>() {
            return self.bypass(BypassReason::Body, met, request);
        }
        let mut service = Self { inner: self.ready_inner(), routes: self.routes.clone() };
        ResponseFuture::pending(Box::pin(async move {
            let share = service.routes.content_budget.share();
            let content = content::read(&mut request, limit, share).await;
            let Some(content) = content else {
                return service.bypass(BypassReason::Body, met, request).await;
            };
            if let Ok(directives) = &mut directives {
                directives.content = Some(blake3::hash(&content));
            }
            if *request.method() == Method::POST {
                let identity = &service.routes.identity;
                (met.is_read, request) =
                    only_reads(&policy, identity, directives.as_ref().ok(), request, &content);
            }
            let may_write = *request.method() == Method::POST && !met.is_read;
            // From now on only the request's own body holds the bytes, until the handler has read it.
            drop(content);
            let result = match directives {
                _ if may_write => service.bypass(BypassReason::Method, met, request),
                Ok(directives) => service.respond(policy, directives, met, request),
                Err(reason) => service.bypass(reason, met, request),
            };
            result.await
        }))
    }

    /// The response from memory, if there is one that may be served, and its entry.
    fn serve_from_memory<B: HttpBody>(
        &self,
        context: &mut RequestContext,
        timer: Option<&RequestTimer>,
        headers: &HeaderMap,
    ) -> Option<(Response<Body<B>>, Arc<Entry>)> {
        if context.policy.shadow {
            return None;
        }
        let hit = self
            .hit_in_memory(context, headers)
            .filter(|hit| context.may_serve(&hit.found.entry))?;
        let response = respond(&hit, &context.directives).ok()?;
        self.routes.cache.serves(&hit, &context.policy);
        if let Some(timer) = timer {
            timer.end(hit.outcome);
        }
        Some((response, hit.found.entry))
    }

    /// Responds in a boxed future, which can wait.
    fn respond_later<A>(
        &mut self,
        context: RequestContext,
        timer: Option<RequestTimer>,
        request: Request<A>,
    ) -> ResponseFuture<S::Future, S::Body, S::Error>
    where
        S: Handler<A>,
        A: HttpBody + Send + 'static,
    {
        self.routes.note_pattern(&request);
        let steps = self.exchange(timer);
        let span =
            tracing::debug_span!("tidegate", key = %context.key, outcome = tracing::field::Empty);
        let tag_fields = context.policy.tag_fields.clone();
        withholding(tag_fields, steps.run(Box::new(context), request).instrument(span))
    }

    /// Looks in memory under the request's key, following a vary marker. Notes what was found under the request's key.
    fn hit_in_memory(&self, context: &mut RequestContext, headers: &HeaderMap) -> Option<Hit> {
        let cache = &self.routes.cache;
        let looked = cache.lookup_in_memory(&context.key, &context.policy, &context.options);
        let hit = match looked {
            Ok(hit) => hit,
            Err(peeked) => {
                context.options.peeked = peeked;
                return None;
            }
        };
        match context.variant_key(&hit.found.entry, headers) {
            Some(key) => {
                let Ok(variant) = cache.lookup_in_memory(&key, &context.policy, &context.options)
                else {
                    context.options.peeked = Peeked::Found(hit.found);
                    return None;
                };
                variant.found.entry.note_use();
                Some(variant)
            }
            None => Some(hit),
        }
    }

    /// Passes the request to the handler, and handles the consequences of a write. A request that accepts only a stored
    /// response gets an error instead, if it could have got one.
    fn bypass<A>(
        &mut self,
        reason: BypassReason,
        Met { session, timer, is_read }: Met,
        mut request: Request<A>,
    ) -> ResponseFuture<S::Future, S::Body, S::Error>
    where
        S: Handler<A>,
        A: HttpBody + Send + 'static,
    {
        self.routes.note_pattern(&request);
        let only_stored =
            |route: &RouteSettings| wants_only_stored(&request, &route.policy, is_read);
        if self.route(&request).is_some_and(only_stored) {
            return ResponseFuture::ready(self.exchange(timer).not_cached());
        }
        self.routes.cache.shared.counters.count(Outcome::Bypass(reason));
        let simulated = timer.as_ref().filter(|_| reason == BypassReason::NoPolicy);
        let simulated = simulated.and_then(|timer| self.routes.simulated_request(&request, timer));
        let observer = simulated.as_ref().and(timer.as_ref()).map(RequestTimer::observer);
        let policy = self.route(&request).map(|route| route.policy.clone());
        let options = LookupOptions { observer, ..LookupOptions::for_request(session) };
        let may_write = self.routes.may_write(&request, is_read);
        let record = self.record(&mut request, policy.as_deref(), options, may_write);
        let written = (!is_read).then(|| self.written(&request, policy.as_deref())).flatten();
        let tag_fields =
            policy.as_ref().map(|policy| policy.tag_fields.clone()).unwrap_or_default();
        // Only if called for the response of another route, which then depends on the tags of this one.
        let policy = policy.filter(|_| !Record::is_in_none());
        let is_part = policy.as_ref().is_some_and(|policy| policy.is_standard);
        let is_looked_at =
            written.is_some() || !tag_fields.is_empty() || timer.is_some() || is_part;
        if self.routes.sessions.is_none() && !is_looked_at {
            let inner = record.enter(|| self.inner.call(request));
            return ResponseFuture::bypassed(inner, reason, record);
        }
        let steps = self.exchange(timer);
        let passing = BypassContext { reason, record, may_write, policy, written, simulated };
        withholding(tag_fields, steps.bypass(passing, request)).begun()
    }

    /// The scope of a request that bypasses the cache.
    fn record<A>(
        &self,
        request: &mut Request<A>,
        policy: Option<&Policy>,
        options: LookupOptions,
        may_write: bool,
    ) -> Record {
        let cache = &self.routes.cache;
        if may_write {
            return cache.record_of_write(options);
        }
        let record = cache.record(None, options);
        if let Some(policy) = policy.filter(|_| !Record::is_in_none()) {
            let mut tags = route::tags(request, policy);
            if let Some(tags) = &mut tags {
                let target = invalidation_target(request, policy);
                tags.extend(target.map(|target| self.routes.invalidation_tag(&target)));
            }
            record.note_policy(policy, tags.as_deref());
        }
        record
    }

    /// What a write invalidates: its path if its own route has `Policy::standard`, and the cache groups that it names if
    /// any route of the layer has.
    fn written<A>(
        &self,
        request: &Request<A>,
        policy: Option<&Policy>,
    ) -> Option<InvalidatedByWrite> {
        if is_safe(request.method()) || !self.routes.has_standard() {
            return None;
        }
        let is_host_apart = policy.is_none_or(|policy| policy.host);
        let target = InvalidationTarget::new(route::uri(request), request.headers(), is_host_apart);
        Some(InvalidatedByWrite::new(target, policy.is_some_and(|policy| policy.is_standard)))
    }

    fn exchange(&mut self, timer: Option<RequestTimer>) -> Exchange<S>
    where
        S: Clone,
    {
        Exchange { inner: self.ready_inner(), routes: self.routes.clone(), timer }
    }

    /// Takes the service that was polled ready, and leaves a clone in its place.
    fn ready_inner(&mut self) -> S
    where
        S: Clone,
    {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }
}
