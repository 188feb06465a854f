//! The steps of a request that has to wait for something, in their order.

use std::future::{poll_fn, ready};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AUTHORIZATION, COOKIE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::timeout;

use super::body::Body;
use super::content;
use super::context::{RequestContext, RequestPlace};
use super::cookies;
use super::fill::ResponseFill;
use super::handler::{Handler, HandlerResult};
use super::identity::IdentitySource;
use super::keying::KeySource;
use super::rendered::RenderedHead;
use super::response::{passed, respond};
use super::rules::groups::note_unread;
use super::rules::validation::{names_another, unconditional};
use super::settings::LayerSettings;
use super::status;
use super::stored::{StoredHead, vary_marker};
use super::variances;
use super::writes::give_token;
use crate::cache::{Bypass, FillGuard, Hit, LookupResult, Record, Uncacheable, spawn};
use crate::clock;
use crate::entry::Entry;
use crate::observe;
use crate::outcome::{BypassReason, Event, Outcome};
use crate::traffic::RequestTimer;

/// A service that is ready for one request, and the layer's settings.
pub(crate) struct Exchange<S> {
    pub(crate) inner: S,
    pub(crate) routes: Arc<LayerSettings>,
    /// The request's timer, if traffic is recorded.
    pub(crate) seen: Option<RequestTimer>,
}

impl<S> Exchange<S> {
    /// Serves a hit. Everything else runs in separate boxed futures, so that a hit's future needs no space for a miss.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of one has room for its arguments twice"
    )]
    pub(crate) fn run<A>(
        self,
        plan: RequestContext,
        request: Request<A>,
    ) -> impl Future<Output = HandlerResult<S, A>> + Send
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        async move {
            let mut found = plan.find(&self.routes.cache, request.headers()).await;
            if let LookupResult::Hit(hit) = &mut found
                && !plan.policy.shadow
                && plan.may_serve(&hit.found.entry)
                && let Some(response) = self.serve(hit, &plan)
            {
                let cost = hit.found.entry.life.cost;
                if let Some(lead) = hit.take_renewal() {
                    spawn(unattended(cost, self.renew(lead, plan, request)));
                } else if hit.outcome != Outcome::Collapsed && plan.policy.audits_this() {
                    let entry = hit.found.entry.clone();
                    spawn(unattended(cost, self.audit(entry, plan, request)));
                }
                return Ok(response);
            }
            self.serve_otherwise(found, plan, request).await
        }
    }

    /// Responds if what was found can't simply be served. Each case has a future of its own, so that none needs space for
    /// another.
    fn serve_otherwise<A>(
        self,
        mut found: LookupResult,
        mut plan: RequestContext,
        request: Request<A>,
    ) -> BoxFuture<'static, HandlerResult<S, A>>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !self.tag(&mut plan, &request) {
            drop(found);
            return Box::pin(self.uncached(BypassReason::NoParameter, plan, request));
        }
        found.tag(&plan.ask.tags);
        self.call_handler(found, plan, request)
    }

    /// Handles the result of a lookup; on a miss, calls the handler.
    fn call_handler<A>(
        self,
        found: LookupResult,
        plan: RequestContext,
        request: Request<A>,
    ) -> BoxFuture<'static, HandlerResult<S, A>>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        match found {
            LookupResult::Hit(hit) => Box::pin(self.unserved(hit, plan, request)),
            _ if plan.wants_only_stored() => Box::pin(ready(Ok(self.not_cached()))),
            LookupResult::Miss(lead) if plan.asked.is_for_a_part() => {
                Box::pin(self.compute_part(lead, plan, request))
            }
            LookupResult::Miss(lead) => Box::pin(self.compute(lead, plan, request)),
            LookupResult::Bypass(bypass) => Box::pin(self.bypassed(bypass, plan, request)),
        }
    }

    /// Handles a hit that can't be served: it is not for this client, is only compared (shadow mode), or has an unreadable
    /// head.
    async fn unserved<A>(
        self,
        hit: Hit,
        plan: RequestContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !plan.may_serve(&hit.found.entry) {
            drop(hit);
            return self.uncached(BypassReason::Personal, plan, request).await;
        }
        let Hit { found, renew, .. } = hit;
        drop(renew);
        if plan.policy.shadow {
            return self.shadowed(found.entry, plan, request).await;
        }
        // The head is unreadable: treat the entry as absent.
        let cache = self.routes.cache.clone();
        cache.remove(&plan.key).await;
        match plan.find(&cache, request.headers()).await {
            // Another request has stored a new entry meanwhile.
            LookupResult::Hit(hit) => {
                let given = Some(&hit).filter(|hit| plan.may_serve(&hit.found.entry));
                match given.and_then(|hit| self.serve(hit, &plan)) {
                    Some(response) => Ok(response),
                    None => self.uncached(BypassReason::Unreadable, plan, request).await,
                }
            }
            found => self.call_handler(found, plan, request).await,
        }
    }

    /// Fills in the tags that a new response gets from the policy; under `Policy::standard`, also the tag that a write to
    /// its URI invalidates. Returns `false` if a path parameter is missing.
    pub(super) fn tag<A>(&self, plan: &mut RequestContext, request: &Request<A>) -> bool {
        let is_whole = plan.tag(request) && plan.prepare(request, &self.routes.identity);
        if let Some((target, tag)) = self.routes.page(request, &plan.policy) {
            plan.ask.tags.push(tag);
            let path = variances::path(
                self.routes.space(),
                &KeySource::new(request, &plan.asked),
                &plan.policy,
            );
            plan.place = Some(RequestPlace { target, path });
        }
        is_whole
    }

    fn serve<B: HttpBody>(&self, hit: &Hit, plan: &RequestContext) -> Option<Response<Body<B>>> {
        let response = respond(hit, &plan.asked).ok()?;
        self.routes.cache.shows(hit, &plan.policy);
        self.count(hit.outcome);
        Some(response)
    }

    /// Computes the response, sends it, and fills the cache.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of one has room for its arguments twice"
    )]
    fn compute<A>(
        mut self,
        mut lead: Box<FillGuard>,
        plan: RequestContext,
        request: Request<A>,
    ) -> impl Future<Output = HandlerResult<S, A>> + Send
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        async move {
            let (outcome, fallback) = (lead.outcome(), lead.fallback());
            let (answered, fill) = self.call(lead, &plan, request).await;
            let record = fill.lead.record().clone();
            let is_refuted = is_about_another(&answered, fill.stored.as_deref());
            if (is_refuted || is_stale_better(&answered))
                && let Some(response) =
                    Box::pin(self.instead(fallback.as_ref(), &plan, (&fill.headers, &record))).await
            {
                match is_refuted {
                    true => drop(Box::pin(fill.refute()).await),
                    false => fill.fail(fallback.as_ref()),
                }
                return Ok(response);
            }
            self.count(outcome);
            let response = match answered {
                Ok(response) => response,
                Err(error) => {
                    record.close(None);
                    fill.lead.fail(None);
                    return Err(error);
                }
            };
            let mut response = fill.with(response).await;
            give_token(&self.routes, record.has_written(), response.headers_mut()).await;
            Ok(response)
        }
    }

    /// A stale response in place of an error, if the policy allows one. After a write by the handler there is none, since it
    /// would lack that write.
    async fn instead<B: HttpBody>(
        &mut self,
        fallback: Option<&Hit>,
        plan: &RequestContext,
        (headers, record): (&HeaderMap, &Record),
    ) -> Option<Response<Body<B>>> {
        if plan.policy.shadow || record.has_written() {
            return None;
        }
        let given = fallback.filter(|hit| plan.may_serve(&hit.found.entry));
        if let Some(hit) = given {
            return self.serve(hit, plan);
        }
        let hit = plan.fallback(&self.routes.cache, headers).await?;
        self.serve(&hit, plan)
    }

    /// Calls the handler. Under `Policy::standard`, this is a conditional request if there is a stored response to
    /// revalidate, except by POST. Other policies prove freshness by the log, and don't rely on dates with a resolution
    /// of one second.
    ///
    /// If the handler's 304 is about another response, repeats the request without conditions, if that is possible.
    fn call<'p, A>(
        &mut self,
        lead: Box<FillGuard>,
        plan: &'p RequestContext,
        request: Request<A>,
    ) -> impl Future<Output = (Result<S::Response, S::Error>, ResponseFill<'p>)> + Send
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        // A condition has another meaning with POST (RFC 9110, section 13.1.2).
        let may_revalidate = plan.policy.is_standard && plan.asked.method != Method::POST;
        let stored = may_revalidate.then(|| stored(&lead, plan)).flatten();
        let stored = stored.filter(|stored| has_validator(&stored.0)).map(Box::new);
        let headers = request.headers().clone();
        let request = plan.to_handler_request(request);
        // A response that is not shared is for this client alone: keep the client's own conditions.
        let request = match stored.is_none() && lead.is_known_unshared(plan.ask.is_identified) {
            true => request,
            false => unconditional(request, stored.as_ref().map(|stored| &stored.0.headers)),
        };
        // A GET request has no content that the first call could have consumed.
        let may_repeat = stored.is_some() && plan.asked.content.is_none();
        let (request, again) = if may_repeat { content::twice(request) } else { (request, None) };
        let again =
            again.map(|request| Box::new((self.inner.clone(), unconditional(request, None))));
        let (record, mut began) = (lead.record().clone(), clock::now());
        let answered = record.enter(|| self.inner.call(request));
        let routes = self.routes.clone();
        async move {
            let (mut answered, mut stored) = (answered.await, stored);
            if let Some(again) = again.filter(|_| is_about_another(&answered, stored.as_deref())) {
                (stored, began) = (None, clock::now());
                answered = Box::pin(repeat(*again, &record)).await;
            }
            let delay = began.elapsed();
            observe::load(delay);
            (answered, ResponseFill { lead, plan, headers, stored, delay, routes })
        }
    }

    /// Recomputes a response in the background.
    async fn renew<A>(
        mut self,
        mut lead: Box<FillGuard>,
        mut plan: RequestContext,
        mut request: Request<A>,
    ) where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !self.tag(&mut plan, &request) || !lead.claim().await {
            return;
        }
        self.routes.cache.shared.counters.note(Event::BackgroundLoad);
        lead.detach();
        lead.tag(&plan.ask.tags);
        let sent = (&mut plan, &self.routes.identity);
        let is_stripped = strip_client(&mut request, sent, lead.marker.as_deref());
        whole(request.method_mut());
        whole(&mut plan.asked.method);
        // The client has its response already.
        plan.asked.conditions.clear();
        let replaced = lead.replaced.as_ref().map(|entry| RenderedHead::from_entry(entry));
        let asks_all = matches!(replaced, Some(Ok(head)) if asks_for_identity(head.status));
        let (Ok(response), fill) = self.call(lead, &plan, request).await else { return };
        if is_stripped && !asks_all && asks_for_identity(response.status()) {
            // No client has sent this request, so its response does not supersede the stored one. An entry from before a
            // failover is removed all the same, and the next request computes another.
            if !fill.lead.replaces_valid() {
                fill.lead.remove_stored();
            }
            return fill.fail(None);
        }
        drain(fill.with(response).await).await;
    }

    /// Passes a HEAD or range request to the handler. The response to HEAD may confirm or invalidate the stored response to
    /// GET (RFC 9111, section 4.3.5).
    async fn compute_part<A>(
        mut self,
        mut lead: Box<FillGuard>,
        plan: RequestContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let cache = self.routes.cache.clone();
        let is_head = plan.asked.method == Method::HEAD;
        let reason = if is_head { BypassReason::Method } else { BypassReason::Range };
        let (record, headers) = (lead.record().clone(), request.headers().clone());
        let (request, began) = (plan.to_handler_request(request), clock::now());
        let answered = record.enter(|| self.inner.call(request)).await;
        record.close(plan.policy.lasts(false).filter(|_| !is_failure(&answered)));
        if is_stale_better(&answered)
            && let Some(response) =
                self.instead(lead.fallback().as_ref(), &plan, (&headers, &record)).await
        {
            return Ok(response);
        }
        self.count(Outcome::Bypass(reason));
        let mut response = answered?;
        note_unread(&record, response.headers(), &plan.policy);
        if is_head && plan.policy.is_standard {
            let stored = stored(&lead, &plan).map(Box::new);
            let (routes, delay) = (self.routes.clone(), began.elapsed());
            let fill = ResponseFill { lead, plan: &plan, headers, stored, delay, routes };
            if let Some(updated) =
                fill.updated_by_head(response.status(), response.headers(), &cache).await
            {
                *response.headers_mut() = updated;
            }
        }
        Ok(bypassed(&self.routes, response, reason, record).await)
    }

    async fn bypassed<A>(
        mut self,
        bypass: Bypass,
        plan: RequestContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let headers = request.headers().clone();
        let request = plan.to_handler_request(request);
        let answered = bypass.record.enter(|| self.inner.call(request)).await;
        bypass.record.close(plan.policy.lasts(false).filter(|_| !is_failure(&answered)));
        if is_stale_better(&answered)
            && let Some(response) =
                self.instead(bypass.fallback.as_ref(), &plan, (&headers, &bypass.record)).await
        {
            return Ok(response);
        }
        self.count(Outcome::Bypass(bypass.reason));
        let response = answered?;
        note_unread(&bypass.record, response.headers(), &plan.policy);
        Ok(bypassed(&self.routes, response, bypass.reason, bypass.record).await)
    }

    pub(crate) async fn uncached<A>(
        mut self,
        reason: BypassReason,
        plan: RequestContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        if plan.wants_only_stored() {
            return Ok(self.not_cached());
        }
        let tags = plan.ask.tags.clone();
        let record = self.routes.cache.record(None, plan.ask);
        let is_known = reason != BypassReason::NoParameter;
        record.note_policy(&plan.policy, is_known.then_some(&tags));
        let response = record.enter(|| self.inner.call(request)).await?;
        note_unread(&record, response.headers(), &plan.policy);
        self.count(Outcome::Bypass(reason));
        Ok(bypassed(&self.routes, response, reason, record).await)
    }

    /// RFC 9111, section 5.2.1.7.
    pub(crate) fn not_cached<B: HttpBody>(&self) -> Response<Body<B>> {
        self.count(Outcome::Bypass(BypassReason::OnlyIfCached));
        if let Some(record) = Record::current() {
            record.mark_uncacheable(Uncacheable::new(
                "not-cached",
                "a part of it was requested with only-if-cached, and is not cached",
            ));
        }
        let mut response = Response::new(Body::stored(Bytes::new(), None));
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        status::append(response.headers_mut(), "tidegate; detail=\"only-if-cached\"");
        response
    }

    pub(crate) fn count(&self, outcome: Outcome) {
        self.routes.cache.shared.counters.count(outcome);
        if let Some(seen) = &self.seen {
            seen.end(outcome);
        }
        tracing::Span::current().record("outcome", outcome.token());
    }
}

/// Turns HEAD into GET, to obtain a response with a body.
pub(crate) fn whole(method: &mut Method) {
    if *method == Method::HEAD {
        *method = Method::GET;
    }
}

/// The minimum time limit of work in the background.
const UNATTENDED_LIMIT: Duration = Duration::from_secs(60);

/// Runs background work with a time limit: ten times as long as the stored response took to compute, but at least
/// [`UNATTENDED_LIMIT`]. Without a limit, a statement on a host that has vanished would hold a permit and a connection
/// for as long as the process runs; other work ends when its client disconnects.
pub(super) async fn unattended(cost: Duration, work: impl Future<Output = ()>) {
    let limit = UNATTENDED_LIMIT.max(cost.saturating_mul(10));
    if timeout(limit, work).await.is_err() {
        tracing::warn!(
            ?limit,
            "a handler call in the background timed out; a later request will call the handler again"
        );
    }
}

/// Reads the body of a background response to its end.
pub(crate) async fn drain<B: HttpBody>(response: Response<B>) {
    let mut body = pin!(response.into_body());
    while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
}

/// The stored response, if it is stale only by time and may be served to this client. Any other was not selected for the
/// request, so the handler's response can't confirm it (RFC 9111, section 4.3.1).
fn stored(lead: &FillGuard, plan: &RequestContext) -> Option<(StoredHead, Arc<Entry>)> {
    let entry = lead.stale.clone().filter(|entry| plan.may_serve(entry))?;
    Some((StoredHead::from_entry(&entry).ok()?, entry))
}

fn has_validator(head: &StoredHead) -> bool {
    head.headers.contains_key(ETAG) || head.headers.contains_key(LAST_MODIFIED)
}

/// Removes the headers that identify the client and that the response does not vary by, since a background renewal is for
/// all clients. `marker` has further names by which responses vary. Under `Policy::public`, headers other than `Cookie` and
/// `Authorization` stay: they identify nobody there. Returns whether a header other than `Cookie` was removed.
fn strip_client<A>(
    request: &mut Request<A>,
    (plan, identity): (&mut RequestContext, &IdentitySource),
    marker: Option<&Entry>,
) -> bool {
    if plan.asked.client_key.is_some() {
        return false;
    }
    let policy = &plan.policy;
    let named = marker.and_then(|marker| vary_marker(marker).ok()).unwrap_or_default();
    let varies_by = |name: &HeaderName| {
        policy.vary.iter().any(|known| name == known.as_str()) || named.contains(name)
    };
    let headers = request.headers_mut();
    let mut others: Vec<_> = match policy.public {
        true => Vec::new(),
        false => identity.headers.matching(headers).cloned().collect(),
    };
    others.push(AUTHORIZATION);
    let mut is_stripped = false;
    for name in others.iter().filter(|name| **name != COOKIE && !varies_by(name)) {
        is_stripped |= headers.remove(name).is_some();
    }
    if !varies_by(&COOKIE) {
        let named = cookies::line(headers, policy);
        headers.remove(COOKIE);
        headers.extend(named.map(|cookies| (COOKIE, cookies)));
    }
    plan.asked.identify_again(request, &plan.policy, identity);
    is_stripped
}

/// Whether a response may only mean that the request did not say who the client is.
fn asks_for_identity(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407)
        || status.is_redirection() && status != StatusCode::NOT_MODIFIED
}

/// Whether a stale response is better than this result: an error as in RFC 5861, section 4, or no response.
fn is_stale_better<B, E>(answered: &Result<Response<B>, E>) -> bool {
    let is_error = |status: StatusCode| matches!(status.as_u16(), 500 | 502 | 503 | 504);
    answered.as_ref().map_or(true, |response| is_error(response.status()))
}

/// Whether the handler's response to a conditional request is a 304 about a response other than the stored one.
fn is_about_another<B, E>(
    answered: &Result<Response<B>, E>,
    stored: Option<&(StoredHead, Arc<Entry>)>,
) -> bool {
    let (Ok(response), Some((head, _))) = (answered, stored) else { return false };
    response.status() == StatusCode::NOT_MODIFIED
        && names_another(&head.headers, response.headers())
}

/// Calls the handler a second time.
async fn repeat<S, A>(
    (mut inner, request): (S, Request<A>),
    record: &Record,
) -> Result<S::Response, S::Error>
where
    S: Handler<A>,
{
    poll_fn(|cx| inner.poll_ready(cx)).await?;
    record.enter(|| inner.call(request)).await
}

/// Whether the handler failed: a 5xx status, or no response.
fn is_failure<B, E>(answered: &Result<Response<B>, E>) -> bool {
    answered.as_ref().map_or(true, |response| response.status().is_server_error())
}

/// A response that bypassed the cache, with the reason, and with a token if the handler wrote.
async fn bypassed<B: HttpBody>(
    routes: &LayerSettings,
    response: Response<B>,
    reason: BypassReason,
    record: Record,
) -> Response<Body<B>> {
    let has_written = record.has_written();
    let mut response = passed(response, reason, record);
    give_token(routes, has_written, response.headers_mut()).await;
    response
}
