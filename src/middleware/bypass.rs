//! Requests that bypass the cache, and the simulation of what the cache would do with them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;

use super::body::Body;
use super::context::RequestContext;
use super::exchange::{Exchange, is_failure, is_stale_better};
use super::handler::{Handler, HandlerResult};
use super::keying::{self, KeySource};
use super::response::passed;
use super::rules::cookies;
use super::rules::groups::note_unread;
use super::rules::request::RequestDirectives;
use super::rules::session_cookie::is_session_cookie;
use super::rules::storable::{Times, cacheability};
use super::rules::unsafe_method::InvalidatedByWrite;
use super::settings::LayerSettings;
use super::status;
use super::writes::{give_token, invalidate};
use crate::cache::{Bypass, Policy, ReadObserver, Record, Uncacheable};
use crate::clock;
use crate::entry::Key;
use crate::outcome::{BypassReason, Outcome};
use crate::traffic::{RequestTimer, Traffic, simulation};

/// What is known about a request that bypasses the cache.
pub(crate) struct BypassContext {
    pub(crate) reason: BypassReason,
    pub(crate) record: Record,
    /// Whether it may write, perhaps without `Database`.
    pub(crate) may_write: bool,
    /// The policy of its route, if its response is a part of another one.
    pub(crate) policy: Option<Arc<Policy>>,
    /// What it invalidates if it succeeds.
    pub(crate) written: Option<InvalidatedByWrite>,
    /// The request to simulate, if the cache's effect on this route is estimated.
    pub(crate) simulated: Option<Box<SimulatedRequest>>,
}

impl<S> Exchange<S> {
    /// Calls the handler without a lookup.
    pub(crate) async fn bypass<A>(
        mut self,
        passing: BypassContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let BypassContext { reason, record, may_write, policy, written, simulated } = passing;
        let method = request.method().clone();
        let result = record.enter(|| self.inner.call(request)).await;
        if let Some(timer) = &self.timer {
            timer.end(Outcome::Bypass(reason));
        }
        let response = result?;
        if let Some(policy) = policy {
            note_unread(&record, response.headers(), &policy);
        }
        if let Some((simulated, timer)) = simulated.zip(self.timer.as_ref()) {
            self.simulate(&simulated, &response, &record, &timer.traffic);
        }
        let tags = written.map(|written| written.tags(&method, &response, &self.routes.namespace));
        if let Some(tags) = tags.filter(|tags| !tags.is_empty()) {
            invalidate(&self.routes, tags).await;
        }
        let wrote = may_write || record.has_written();
        let mut response = passed(response, reason, record);
        give_token(&self.routes, wrote, response.headers_mut()).await;
        Ok(response)
    }

    /// Calls the handler after a lookup that ended in a bypass.
    pub(super) async fn bypassed<A>(
        mut self,
        bypass: Bypass,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let headers = request.headers().clone();
        let request = context.to_handler_request(request);
        let result = bypass.record.enter(|| self.inner.call(request)).await;
        bypass.record.close(context.policy.lasts(false).filter(|_| !is_failure(&result)));
        if is_stale_better(&result)
            && let Some(response) =
                self.instead(bypass.fallback.as_ref(), &context, &headers, &bypass.record).await
        {
            return Ok(response);
        }
        self.count(Outcome::Bypass(bypass.reason));
        let response = result?;
        note_unread(&bypass.record, response.headers(), &context.policy);
        Ok(bypassed(&self.routes, response, bypass.reason, bypass.record).await)
    }

    /// Calls the handler for this reason, which the lookup does not know.
    pub(crate) async fn uncached<A>(
        mut self,
        reason: BypassReason,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        if context.wants_only_stored() {
            return Ok(self.not_cached());
        }
        let tags = context.options.tags.clone();
        let record = self.routes.cache.record(None, context.options);
        let is_known = reason != BypassReason::NoParameter;
        record.note_policy(&context.policy, is_known.then_some(&tags));
        let response = record.enter(|| self.inner.call(request)).await?;
        note_unread(&record, response.headers(), &context.policy);
        self.count(Outcome::Bypass(reason));
        Ok(bypassed(&self.routes, response, reason, record).await)
    }

    /// RFC 9111, section 5.2.1.7.
    pub(crate) fn not_cached<B: HttpBody>(&self) -> Response<Body<B>> {
        self.count(Outcome::Bypass(BypassReason::OnlyIfCached));
        if let Some(record) = Record::current() {
            record.note_uncacheable(Uncacheable::new(
                "not-cached",
                "a part of it was requested with only-if-cached, and is not cached",
            ));
        }
        let mut response = Response::new(Body::stored(Bytes::new(), None));
        *response.status_mut() = StatusCode::GATEWAY_TIMEOUT;
        status::append(response.headers_mut(), "tidegate; detail=\"only-if-cached\"");
        response
    }

    /// Determines what the cache would have done with the response.
    fn simulate<B>(
        &self,
        simulated: &SimulatedRequest,
        response: &Response<B>,
        record: &Record,
        traffic: &Traffic,
    ) {
        let SimulatedRequest { key, directives, policy } = simulated;
        let times = Times { now: clock::wall(), delay: Duration::ZERO };
        let kept = cacheability(response.status(), response.headers(), directives, policy, times);
        match kept.and_then(|_| record.simulated_proof()) {
            Ok(read) => {
                let fences = self.routes.cache.fences();
                self.routes.recorder.simulation.note(*key, read, fences, traffic);
            }
            Err(uncacheable) => traffic.reads.note_uncacheable(&uncacheable),
        }
    }
}

/// A response that bypassed the cache, with the reason, and with a token if the handler wrote.
pub(super) async fn bypassed<B: HttpBody>(
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

/// A request for which the cache is simulated.
pub(crate) struct SimulatedRequest {
    /// The hash of the request's key.
    key: u64,
    directives: RequestDirectives,
    policy: Policy,
}

impl LayerSettings {
    /// What to simulate for a request that could be cached. In the simulation, responses vary by everything that may
    /// identify the client.
    pub(crate) fn simulated_request<A: HttpBody>(
        &self,
        request: &Request<A>,
        timer: &RequestTimer,
    ) -> Option<Box<SimulatedRequest>> {
        if request.method() != Method::GET {
            return None;
        }
        let client = self.client(request.headers());
        if client.is_some() {
            timer.traffic.simulated.note_personal();
        }
        // An extension of an unknown type may identify the client too, but can't be part of a key.
        if self.identity.extensions.lacks_one_of(request.extensions()) {
            return None;
        }
        let policy = Policy::ttl(simulation::TTL);
        let directives = self.identity.directives(request, &policy, client).ok()?;
        let key = keying::key(&self.space, &KeySource::new(request, &directives), &policy).short();
        // The client's part of the key holds them, so a response may vary by them.
        let policy = policy.vary([AUTHORIZATION, COOKIE].iter().map(HeaderName::as_str));
        Some(Box::new(SimulatedRequest { key, directives, policy }))
    }

    /// A hash of what may identify the client of a request: its credentials, the headers that say who the client is, and all
    /// cookies but those of our sessions; `None` if it has none of these. Each part is read once, since a client may send any
    /// number of them.
    fn client(&self, headers: &HeaderMap) -> Option<String> {
        let is_sign =
            |name: &HeaderName| *name == AUTHORIZATION || self.identity.headers.has(name.as_str());
        let signs = headers.iter().filter(|(name, _)| is_sign(name));
        let signs =
            signs.map(|(name, value)| ("header", name.as_str().as_bytes(), value.as_bytes()));
        let cookies = cookies::all(headers).filter(|(name, _)| !is_session_cookie(name));
        let cookies = cookies.map(|(name, value)| ("cookie", name, value));
        let mut parts = signs.chain(cookies).peekable();
        parts.peek()?;
        let text = parts.fold(Key::new("client"), |text, (kind, name, value)| {
            text.part(kind).part(name).part(value)
        });
        Some(text.finish().to_hex().to_owned())
    }
}

#[cfg(all(test, feature = "admin"))]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::cache::Cache;
    use crate::middleware::CacheLayer;
    use crate::store::Memory;

    /// The hash of a GET request with one more field.
    fn simulated(layer: &CacheLayer, name: &str, value: &str) -> Option<u64> {
        let timer = layer.shared.recorder.other_request(None)?;
        let request = Request::get("/").header(name, value).body(Body::empty()).ok()?;
        Some(layer.shared.simulated_request(&request, &timer)?.key)
    }

    #[test]
    fn a_simulated_request_is_keyed_by_every_field_that_identifies_its_client() {
        let layer = CacheLayer::new(Cache::new(Memory::new(0)));
        layer.shared.recorder.turn_on();
        let anybody = simulated(&layer, "accept", "*/*");
        assert!(anybody.is_some());
        assert_eq!(simulated(&layer, "cookie", "__Host-tidegate-position=1"), anybody);
        let alice = simulated(&layer, "cookie", "sid=alice");
        assert_eq!(simulated(&layer, "cookie", "tidegate-position=1; sid=alice"), alice);
        let others = [
            ("cookie", "sid=bob"),
            ("cookie", "sid"),
            ("cookie", "sid=alice; a=1"),
            ("authorization", "alice"),
            ("x-user", "alice"),
        ];
        let mut all = others.map(|(name, value)| simulated(&layer, name, value)).to_vec();
        all.extend([anybody, alice]);
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), others.len() + 2, "each has a key of its own");
    }
}
