//! The order of the steps that have to wait for something.

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
use super::bypass::{bypassed, give_token};
use super::context::{RequestContext, RequestPlace};
use super::cookies;
use super::fill::ResponseFill;
use super::handler::{Handler, HandlerResult};
use super::keying::KeySource;
use super::layer::LayerSettings;
use super::rendered::respond;
use super::rules::groups::note_unread;
use super::rules::validation::unconditional;
use super::status;
use super::stored::StoredHead;
use super::variances;
use crate::cache::{Bypass, FillGuard, Hit, LookupResult, Record, Uncacheable, spawn};
use crate::clock;
use crate::entry::Entry;
use crate::observe;
use crate::outcome::{BypassReason, Event, Outcome};
use crate::traffic::RequestTimer;

/// A service that is ready for one request, and the settings.
pub(crate) struct Exchange<S> {
    pub(crate) inner: S,
    pub(crate) routes: Arc<LayerSettings>,
    /// The request, if somebody looks on.
    pub(crate) seen: Option<RequestTimer>,
}

impl<S> Exchange<S> {
    /// What was found is answered with here; all else is in other futures, since a hit need not make room for
    /// what a miss may come to.
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
                if let Some(lead) = hit.renew.take() {
                    spawn(unattended(cost, self.renew(lead, plan, request)));
                } else if plan.policy.audits_this() {
                    let entry = hit.found.entry.clone();
                    spawn(unattended(cost, self.audit(entry, plan, request)));
                }
                return Ok(response);
            }
            self.serve_otherwise(found, plan, request).await
        }
    }

    /// What it takes to answer with something else than what was found. Each way has a future of its own, and none
    /// makes room for another.
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

    /// Who the lookup leaves to make the answer makes it.
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
            _ if plan.asked.only_if_cached && !plan.policy.shadow => {
                Box::pin(ready(Ok(self.not_cached())))
            }
            LookupResult::Miss(lead) if plan.asked.is_for_a_part() => {
                Box::pin(self.compute_part(lead, plan, request))
            }
            LookupResult::Miss(lead) => Box::pin(self.compute(lead, plan, request)),
            LookupResult::Bypass(bypass) => Box::pin(self.bypassed(bypass, plan, request)),
        }
    }

    /// What was found is not for this client, or is only compared, or can't be read.
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
            if plan.asked.only_if_cached {
                return Ok(self.not_cached());
            }
            return self.uncached(BypassReason::Personal, plan, request).await;
        }
        let Hit { found, renew, .. } = hit;
        drop(renew);
        if plan.policy.shadow {
            return self.shadowed(found.entry, plan, request).await;
        }
        // A head that can't be read is as good as no entry.
        let cache = self.routes.cache.clone();
        cache.remove(&plan.key).await;
        match plan.find(&cache, request.headers()).await {
            // What another request has stored since.
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

    /// The policy's tags, for who makes an answer; an entry has its own. Where the standard's rules are asked for,
    /// a write to an answer's URI makes it invalid. `false` if a parameter of the path is missing.
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

    /// Makes the answer, sends it, and fills the cache.
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
            if is_stale_better(&answered)
                && let Some(response) =
                    Box::pin(self.instead(fallback.as_ref(), &plan, (&fill.headers, &record))).await
            {
                fill.fail(fallback.as_ref());
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

    /// A stale answer in place of an error, where one is allowed; with a token, if the handler wrote before it failed.
    async fn instead<B: HttpBody>(
        &mut self,
        fallback: Option<&Hit>,
        plan: &RequestContext,
        (headers, record): (&HeaderMap, &Record),
    ) -> Option<Response<Body<B>>> {
        if plan.policy.shadow {
            return None;
        }
        let given = fallback.filter(|hit| plan.may_serve(&hit.found.entry));
        let mut response = if let Some(hit) = given {
            self.serve(hit, plan)?
        } else {
            let hit = plan.fallback(&self.routes.cache, headers).await?;
            self.serve(&hit, plan)?
        };
        give_token(&self.routes, record.has_written(), response.headers_mut()).await;
        Some(response)
    }

    /// Calls the handler; where headers decide, it is asked whether what is stored still holds. Where the
    /// author does, answers are proven by the log, and no date of whole seconds has a say.
    fn call<'p, A>(
        &mut self,
        lead: Box<FillGuard>,
        plan: &'p RequestContext,
        request: Request<A>,
    ) -> impl Future<Output = (Result<S::Response, S::Error>, ResponseFill<'p>)> + Send
    where
        S: Handler<A>,
    {
        let stored = plan.policy.is_standard.then(|| stored(&lead, plan)).flatten();
        let stored = stored.filter(|stored| has_validator(&stored.0)).map(Box::new);
        let headers = request.headers().clone();
        let request = plan.to_handler_request(request);
        // What can't be stored is made for this client alone, who may have it already.
        let request = match stored.is_none() && lead.is_known_unshared() {
            true => request,
            false => unconditional(request, stored.as_ref().map(|stored| &stored.0.headers)),
        };
        let (record, began) = (lead.record().clone(), clock::now());
        let answered = record.enter(|| self.inner.call(request));
        let routes = self.routes.clone();
        async move {
            let answered = answered.await;
            let delay = began.elapsed();
            observe::load(delay);
            (answered, ResponseFill { lead, plan, headers, stored, delay, routes })
        }
    }

    /// Makes an answer anew for others; nobody waits for it.
    async fn renew<A>(
        mut self,
        mut lead: Box<FillGuard>,
        mut plan: RequestContext,
        mut request: Request<A>,
    ) where
        S: Handler<A>,
    {
        if !self.tag(&mut plan, &request) || !lead.claim().await {
            return;
        }
        self.routes.cache.shared.counters.note(Event::BackgroundLoad);
        lead.detach();
        lead.tag(&plan.ask.tags);
        strip_client(request.headers_mut(), &mut plan);
        whole(request.method_mut());
        whole(&mut plan.asked.method);
        let (Ok(response), fill) = self.call(lead, &plan, request).await else { return };
        drain(fill.with(response).await).await;
    }

    /// Leaves a request for a head or a range to the handler. A head may tell that what is stored for
    /// GET still holds, or does not (RFC 9111, section 4.3.5).
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
    fn not_cached<B: HttpBody>(&self) -> Response<Body<B>> {
        self.count(Outcome::Bypass(BypassReason::OnlyIfCached));
        if let Some(record) = Record::current() {
            record.mark_uncacheable(Uncacheable::new(
                "not-cached",
                "a part of it was wanted only if it was cached",
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

/// Makes a request one for a whole response: what is stored may have been found by HEAD, whose response has no body.
pub(crate) fn whole(method: &mut Method) {
    if *method == Method::HEAD {
        *method = Method::GET;
    }
}

/// How long the handler may take in the background, at least.
const UNATTENDED_LIMIT: Duration = Duration::from_secs(60);

/// Runs work that no client waits for, for at most ten times as long as the stored response took to compute, or for
/// [`UNATTENDED_LIMIT`] if that is longer. A client that waits leaves at some time, which ends the work; without a limit,
/// a statement on a host that has vanished would hold a permit and a connection for as long as the process runs.
pub(super) async fn unattended(cost: Duration, work: impl Future<Output = ()>) {
    let limit = UNATTENDED_LIMIT.max(cost.saturating_mul(10));
    if timeout(limit, work).await.is_err() {
        tracing::warn!(
            ?limit,
            "the handler did not return in the background, and is called again by a later request"
        );
    }
}

/// Reads an answer that nobody waits for.
pub(crate) async fn drain<B: HttpBody>(response: Response<B>) {
    let mut body = pin!(response.into_body());
    while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
}

/// The stored response, if it is stale by time only and this client may have it: else it was not selected for the request,
/// and nothing that the handler says to this client is about it (RFC 9111, section 4.3.1).
fn stored(lead: &FillGuard, plan: &RequestContext) -> Option<(StoredHead, Arc<Entry>)> {
    let entry = lead.stale.clone().filter(|entry| plan.may_serve(entry))?;
    Some((StoredHead::from_entry(&entry).ok()?, entry))
}

fn has_validator(head: &StoredHead) -> bool {
    head.headers.contains_key(ETAG) || head.headers.contains_key(LAST_MODIFIED)
}

/// Takes off a request what says who the client is, where the stored response does not vary by it: a renewal is for all.
fn strip_client(headers: &mut HeaderMap, plan: &mut RequestContext) {
    if plan.asked.client_key.is_some() {
        return;
    }
    let varies_by = |name: HeaderName| plan.policy.vary.iter().any(|known| name == known.as_str());
    if !varies_by(AUTHORIZATION) {
        headers.remove(AUTHORIZATION);
        plan.asked.client.is_authorized = false;
    }
    if !varies_by(COOKIE) {
        let named = cookies::line(headers, &plan.policy);
        headers.remove(COOKIE);
        headers.extend(named.map(|cookies| (COOKIE, cookies)));
        plan.asked.client.has_cookies = false;
        plan.asked.has_other_cookies = false;
    }
}

/// Whether something stale is better than what came: an error of RFC 5861, section 4, or nothing.
fn is_stale_better<B, E>(answered: &Result<Response<B>, E>) -> bool {
    let is_error = |status: StatusCode| matches!(status.as_u16(), 500 | 502 | 503 | 504);
    answered.as_ref().map_or(true, |response| is_error(response.status()))
}

/// Whether the handler could not answer.
fn is_failure<B, E>(answered: &Result<Response<B>, E>) -> bool {
    answered.as_ref().map_or(true, |response| response.status().is_server_error())
}
