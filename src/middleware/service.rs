//! The order of the steps.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE,
};
use http::{HeaderMap, Method, Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;
use tracing::Instrument;

use super::body::{Body, Capture, Captured, End};
use super::future::ResponseFuture;
use super::keying;
use super::layer::Routes;
use super::route;
use super::session::Claim;
use super::status::{self, Fate};
use super::storable;
use super::stored::{encode_head, respond};
use crate::cache::{Ask, Bypass, Filled, Hit, Lead, Lookup, Policy, Record, Unfit};
use crate::entry::{Epoch, Key, Position};
use crate::outcome::{BypassReason, Event, Outcome};

/// A service with the cache in front of it; made by [`CacheLayer`](super::CacheLayer).
#[derive(Clone, Debug)]
pub struct CacheService<S> {
    inner: S,
    routes: Arc<Routes>,
}

/// What is known of a request before the cache is asked.
struct Plan {
    key: Key,
    policy: Arc<Policy>,
    ask: Ask,
    method: Method,
    asked: HeaderMap,
}

impl<S> CacheService<S> {
    pub(crate) fn new(inner: S, routes: Arc<Routes>) -> Self {
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
        match self.plan(&request, session) {
            Ok(plan) => self.ask(plan, request),
            Err(reason) => self.pass(reason, session, request),
        }
    }
}

impl<S> CacheService<S> {
    /// What the request must see, if it says so and the token is ours.
    fn session(&self, headers: &HeaderMap) -> Option<(Epoch, Position)> {
        match self.routes.sessions.as_ref()?.read(headers) {
            Claim::None => None,
            Claim::Position(epoch, position) => Some((epoch, position)),
            Claim::Forged => {
                self.routes.cache.shared.counters.note(Event::BadToken);
                None
            }
        }
    }

    fn plan<A: HttpBody>(
        &self,
        request: &Request<A>,
        session: Option<(Epoch, Position)>,
    ) -> Result<Plan, BypassReason> {
        let (uri, pattern) = (route::uri(request), route::pattern(request));
        let policy = self.routes.policy(pattern).ok_or(BypassReason::NoPolicy)?;
        if let Some(reason) = storable::bypass(request, policy) {
            return Err(reason);
        }
        let parameter = |name: &str| route::parameter(pattern?, uri.path(), name);
        let tags = policy.tags_with(parameter).ok_or(BypassReason::NoParameter)?;
        Ok(Plan {
            key: keying::key(&self.routes.namespace, uri, request.headers(), policy),
            policy: policy.clone(),
            ask: Ask { tags, session },
            method: request.method().clone(),
            asked: conditions(request.headers()),
        })
    }

    /// Answers at once if it can, else does the rest in a future.
    fn ask<A, B>(
        &mut self,
        plan: Plan,
        request: Request<A>,
    ) -> ResponseFuture<S::Future, B, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        A: HttpBody + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        let cache = &self.routes.cache;
        if let Some(hit) = cache.at_hand(&plan.key, &plan.policy, plan.ask.session)
            && let Ok(response) = respond(&hit, &plan.method, &plan.asked)
        {
            cache.shared.counters.count(hit.outcome);
            return ResponseFuture::ready(response);
        }
        if plan.method == Method::HEAD {
            // An answer to HEAD is no answer to GET, so there is nothing to fill.
            return self.pass(BypassReason::Method, plan.ask.session, request);
        }
        let steps = Steps { inner: self.ready_inner(), routes: self.routes.clone() };
        let span =
            tracing::debug_span!("tidegate", key = %plan.key, outcome = tracing::field::Empty);
        ResponseFuture::work(Box::pin(steps.run(plan, request).instrument(span)))
    }

    /// Leaves the request to the handler, and gives the session a token if it wrote.
    fn pass<A, B>(
        &mut self,
        reason: BypassReason,
        session: Option<(Epoch, Position)>,
        request: Request<A>,
    ) -> ResponseFuture<S::Future, B, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        A: HttpBody + Send + 'static,
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        self.routes.cache.shared.counters.count(Outcome::Bypass(reason));
        let record = self.routes.cache.record(None, Ask { session, ..Ask::default() });
        if self.routes.sessions.is_none() {
            return ResponseFuture::passed(record.scope(self.inner.call(request)), reason);
        }
        let steps = Steps { inner: self.ready_inner(), routes: self.routes.clone() };
        ResponseFuture::work(Box::pin(steps.pass(reason, record, request)))
    }

    /// The service that was polled ready; a clone of it takes its place.
    fn ready_inner(&mut self) -> S
    where
        S: Clone,
    {
        let clone = self.inner.clone();
        std::mem::replace(&mut self.inner, clone)
    }
}

/// The steps that have to wait for something.
struct Steps<S> {
    inner: S,
    routes: Arc<Routes>,
}

impl<S> Steps<S> {
    async fn run<A, B>(
        mut self,
        plan: Plan,
        request: Request<A>,
    ) -> Result<Response<Body<B>>, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>> + Send + 'static,
        S::Future: Send,
        S::Error: Send,
        A: Send + 'static,
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        let cache = self.routes.cache.clone();
        let mut found = cache.lookup(&plan.key, &plan.policy, plan.ask.clone()).await;
        if let Lookup::Hit(hit) = &mut found {
            let renew = hit.renew.take();
            if let Some(response) = self.serve(hit, &plan) {
                if let Some(lead) = renew {
                    tokio::spawn(self.renew(lead, plan, request));
                }
                return Ok(response);
            }
            // A head that can't be read is as good as no entry.
            drop(renew);
            cache.forget(&plan.key).await;
            found = cache.lookup(&plan.key, &plan.policy, plan.ask.clone()).await;
        }
        match found {
            Lookup::Miss(lead) => self.make(lead, &plan, request).await,
            Lookup::Bypass(bypass) => self.bypassed(bypass, &plan, request).await,
            Lookup::Hit(hit) => self.after_all(&hit, plan, request).await,
        }
    }

    /// What another request has stored since we found it unreadable; or the handler's answer.
    async fn after_all<A, B>(
        self,
        hit: &Hit,
        plan: Plan,
        request: Request<A>,
    ) -> Result<Response<Body<B>>, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>>,
        B: HttpBody<Data = Bytes>,
    {
        match self.serve(hit, &plan) {
            Some(response) => Ok(response),
            None => self.uncached(BypassReason::Unreadable, plan, request).await,
        }
    }

    fn serve<B: HttpBody>(&self, hit: &Hit, plan: &Plan) -> Option<Response<Body<B>>> {
        let response = respond(hit, &plan.method, &plan.asked).ok()?;
        self.count(hit.outcome);
        Some(response)
    }

    /// Makes the answer, sends it, and fills the cache.
    async fn make<A, B>(
        &mut self,
        mut lead: Box<Lead>,
        plan: &Plan,
        request: Request<A>,
    ) -> Result<Response<Body<B>>, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>>,
        B: HttpBody<Data = Bytes>,
    {
        let (outcome, record, fallback) = (lead.outcome(), lead.record().clone(), lead.fallback());
        let answered = record.scope(self.inner.call(unconditional(request))).await;
        if is_failure(&answered)
            && let Some(response) = fallback.and_then(|hit| self.serve(&hit, plan))
        {
            lead.pass(Unfit::new("failed", "the handler failed"));
            return Ok(response);
        }
        self.count(outcome);
        Ok(filled(lead, answered?, &plan.policy).await)
    }

    /// Makes an answer anew for others; nobody waits for it.
    async fn renew<A, B>(mut self, mut lead: Box<Lead>, plan: Plan, request: Request<A>)
    where
        S: Service<Request<A>, Response = Response<B>>,
        B: HttpBody<Data = Bytes>,
    {
        if !lead.claim().await {
            return;
        }
        let record = lead.record().clone();
        let Ok(response) = record.scope(self.inner.call(unconditional(request))).await else {
            return;
        };
        let response = filled(lead, response, &plan.policy).await;
        let mut body = pin!(response.into_body());
        while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
    }

    async fn bypassed<A, B>(
        &mut self,
        bypass: Bypass,
        plan: &Plan,
        request: Request<A>,
    ) -> Result<Response<Body<B>>, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>>,
        B: HttpBody<Data = Bytes>,
    {
        let answered = bypass.record.scope(self.inner.call(request)).await;
        if is_failure(&answered)
            && let Some(response) = bypass.fallback.and_then(|hit| self.serve(&hit, plan))
        {
            return Ok(response);
        }
        self.count(Outcome::Bypass(bypass.reason));
        let mut response = answered?.map(Body::passed);
        status::append(response.headers_mut(), &status::of_bypass(bypass.reason));
        Ok(response)
    }

    async fn uncached<A, B>(
        mut self,
        reason: BypassReason,
        plan: Plan,
        request: Request<A>,
    ) -> Result<Response<Body<B>>, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>>,
        B: HttpBody<Data = Bytes>,
    {
        let record = self.routes.cache.record(None, plan.ask);
        let mut response = record.scope(self.inner.call(request)).await?.map(Body::passed);
        self.count(Outcome::Bypass(reason));
        status::append(response.headers_mut(), &status::of_bypass(reason));
        Ok(response)
    }

    async fn pass<A, B>(
        mut self,
        reason: BypassReason,
        record: Record,
        request: Request<A>,
    ) -> Result<Response<Body<B>>, S::Error>
    where
        S: Service<Request<A>, Response = Response<B>>,
        B: HttpBody<Data = Bytes>,
    {
        let may_write = !request.method().is_safe();
        let response = record.scope(self.inner.call(request)).await?;
        let mut response = response.map(Body::passed);
        status::append(response.headers_mut(), &status::of_bypass(reason));
        if may_write || record.has_written() {
            give_token(&self.routes, response.headers_mut()).await;
        }
        Ok(response)
    }

    fn count(&self, outcome: Outcome) {
        self.routes.cache.shared.counters.count(outcome);
        tracing::Span::current().record("outcome", outcome.token());
    }
}

/// Gives the session a position past what it wrote.
async fn give_token(routes: &Routes, headers: &mut HeaderMap) {
    let (Some(sessions), Some(log)) = (&routes.sessions, routes.cache.log()) else { return };
    match log.position().await {
        Ok(at) => sessions.write(headers, at),
        Err(error) => tracing::warn!(%error, "a session got no token for its write"),
    }
}

/// Stores an answer as it streams to the client; one that is there at once is stored before its head
/// is sent, so that `Cache-Status` tells what became of it.
async fn filled<B: HttpBody<Data = Bytes>>(
    lead: Box<Lead>,
    response: Response<B>,
    policy: &Policy,
) -> Response<Body<B>> {
    let (outcome, record) = (lead.outcome(), lead.record().clone());
    let (mut parts, body) = response.into_parts();
    let status = parts.status;
    let tell = |headers: &mut HeaderMap, fate: Fate<'_>| {
        status::append(headers, &status::of_miss(outcome, status, &record, fate));
    };
    let negative = match storable::may_store(status, &parts.headers, policy) {
        Ok(negative) => negative,
        Err(unfit) => {
            tell(&mut parts.headers, Fate::NotStored(&lead.pass(unfit)));
            return Response::from_parts(parts, Body::passed(body));
        }
    };
    let head = encode_head(status, &parts.headers);
    let capture = Capture::new(lead, head, negative, policy.body_limit);
    let mut captured = Captured::new(body, capture);
    let body = match poll_fn(|cx| Poll::Ready(captured.read_ahead(cx))).await {
        Some(End::Whole(Filled::Stored(_), bytes)) => {
            tell(&mut parts.headers, Fate::Stored);
            Body::stored(bytes)
        }
        Some(End::Whole(Filled::NotStored(unfit), bytes)) => {
            tell(&mut parts.headers, Fate::NotStored(&unfit));
            Body::stored(bytes)
        }
        Some(End::NotKept(unfit)) => {
            tell(&mut parts.headers, Fate::NotStored(&unfit));
            Body::captured(captured)
        }
        None => {
            tell(&mut parts.headers, Fate::Undecided);
            Body::captured(captured)
        }
    };
    Response::from_parts(parts, body)
}

/// Whether the handler could not answer.
fn is_failure<B, E>(answered: &Result<Response<B>, E>) -> bool {
    answered.as_ref().map_or(true, |response| response.status().is_server_error())
}

/// The headers by which a client asks for an answer only if it has changed.
fn conditions(headers: &HeaderMap) -> HeaderMap {
    let lines = headers.get_all(IF_NONE_MATCH).into_iter();
    lines.map(|line| (IF_NONE_MATCH, line.clone())).collect()
}

/// The request for a whole answer: one that can be stored is good for everybody.
fn unconditional<A>(mut request: Request<A>) -> Request<A> {
    for name in [IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_MATCH, IF_UNMODIFIED_SINCE, IF_RANGE, RANGE] {
        request.headers_mut().remove(name);
    }
    request
}
