//! Requests that the cache leaves alone, and what follows from them when they write.

use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName, Method, Request, Response};
use http_body::Body as HttpBody;
use tokio::time::timeout;

use super::body::Body;
use super::cookies;
use super::exchange::Exchange;
use super::handler::{Handler, HandlerResult};
use super::keying::{self, KeySource};
use super::layer::LayerSettings;
use super::rules::groups::note_unread;
use super::rules::request::RequestDirectives;
use super::rules::storable::{Times, cacheability};
use super::rules::unsafe_method::{InvalidatedByWrite, is_safe};
use super::session::is_session_cookie;
use super::status;
use crate::cache::{Policy, Record, to_the_end};
use crate::clock;
use crate::entry::Key;
use crate::outcome::{BypassReason, Outcome};
use crate::traffic::{RequestTimer, Traffic, simulation};

/// How long a response waits for what its write invalidates; as long as for the position of its token.
const PATIENCE: Duration = Duration::from_secs(3);

/// What is known of a request that the cache leaves alone.
pub(crate) struct BypassContext {
    pub(crate) reason: BypassReason,
    pub(crate) record: Record,
    /// That of its route, if its response is a part of another one.
    pub(crate) policy: Option<Arc<Policy>>,
    /// What it makes invalid if it goes well.
    pub(crate) written: Option<InvalidatedByWrite>,
    /// The hash that tells its answer from others, if what the cache would do is to be tried.
    pub(crate) rehearsed: Option<Box<SimulatedRequest>>,
}

impl<S> Exchange<S> {
    pub(crate) async fn bypass<A>(
        mut self,
        passing: BypassContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let BypassContext { reason, record, policy, written, rehearsed } = passing;
        let method = request.method().clone();
        let answered = record.enter(|| self.inner.call(request)).await;
        if let Some(seen) = &self.seen {
            seen.end(Outcome::Bypass(reason));
        }
        let response = answered?;
        if let Some(policy) = policy {
            note_unread(&record, response.headers(), &policy);
        }
        if let Some((rehearsing, seen)) = rehearsed.zip(self.seen.as_ref()) {
            self.simulate(&rehearsing, &response, &record, &seen.traffic);
        }
        let tags = written.map(|written| written.tags(&method, &response, &self.routes.namespace));
        if let Some(tags) = tags.filter(|tags| !tags.is_empty()) {
            invalidate(&self.routes, tags).await;
        }
        // Where it is not safe, it may have written by other means than `Database`.
        let wrote = !is_safe(&method) || record.has_written();
        let mut response = status::passed(response, reason, record);
        give_token(&self.routes, wrote, response.headers_mut()).await;
        Ok(response)
    }

    /// Works out what the cache would have done with the answer.
    fn simulate<B>(
        &self,
        rehearsing: &SimulatedRequest,
        response: &Response<B>,
        record: &Record,
        traffic: &Traffic,
    ) {
        let SimulatedRequest { key, asked, policy } = rehearsing;
        let times = Times { now: clock::wall(), delay: Duration::ZERO };
        let kept = cacheability(response.status(), response.headers(), asked, policy, times);
        match kept.and_then(|_| record.rehearsed()) {
            Ok(read) => {
                let fences = self.routes.cache.fences();
                self.routes.watch.rehearsal.note(*key, read, fences, traffic);
            }
            Err(unfit) => traffic.note_uncacheable(&unfit),
        }
    }
}

/// A request for which what the cache would do is tried.
pub(crate) struct SimulatedRequest {
    /// The hash that tells its answer from others.
    key: u64,
    asked: RequestDirectives,
    policy: Policy,
}

impl LayerSettings {
    /// What to try for a request that could be answered from a cache: whoever has a cookie or a name gets an
    /// answer of their own.
    pub(crate) fn rehearsed<A: HttpBody>(
        &self,
        request: &Request<A>,
        seen: &RequestTimer,
    ) -> Option<Box<SimulatedRequest>> {
        if request.method() != Method::GET {
            return None;
        }
        let client = self.client(request.headers());
        if client.is_some() {
            seen.traffic.rehearsed.note_personal();
        }
        // An extension of an unknown type may identify the client too, and can't be keyed by.
        if self.identity.extensions.lacks_one_of(request.extensions()) {
            return None;
        }
        let policy = Policy::ttl(simulation::TTL);
        let asked = RequestDirectives::new(request, &policy, &self.identity, client).ok()?;
        let key = keying::key(self.space(), &KeySource::new(request, &asked), &policy).short();
        // The client's part of the key holds them, so a response may vary by them.
        let policy = policy.vary([AUTHORIZATION, COOKIE].iter().map(HeaderName::as_str));
        Some(Box::new(SimulatedRequest { key, asked, policy }))
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

/// Invalidates what a write has made so, even if the client is gone before its end. The response does not wait for it longer
/// than [`PATIENCE`], nor is a failure the client's: the handler's write is committed.
async fn invalidate(routes: &LayerSettings, tags: Vec<String>) {
    let cache = routes.cache.clone();
    let has_log = cache.log().is_some();
    let work = to_the_end(async move {
        if let Err(error) = cache.invalidate(tags).await {
            tracing::warn!(%error, "a write could not make stored answers invalid");
        }
    });
    match has_log {
        true => drop(timeout(PATIENCE, work).await),
        // There is nothing to wait for.
        false => work.await,
    }
}

/// A response that the cache had no part in, with the reason, and with a token if the handler wrote.
pub(super) async fn bypassed<B: HttpBody>(
    routes: &LayerSettings,
    response: Response<B>,
    reason: BypassReason,
    record: Record,
) -> Response<Body<B>> {
    let has_written = record.has_written();
    let mut response = status::passed(response, reason, record);
    give_token(routes, has_written, response.headers_mut()).await;
    response
}

/// Gives the session a position past what it wrote, if it did. A request that did not needs no room for that.
pub(super) async fn give_token(routes: &LayerSettings, wrote: bool, headers: &mut HeaderMap) {
    if wrote {
        Box::pin(write_token(routes, headers)).await;
    }
}

async fn write_token(routes: &LayerSettings, headers: &mut HeaderMap) {
    let (Some(sessions), Some(log)) = (&routes.sessions, routes.cache.log()) else { return };
    match log.position().await {
        Ok(at) => sessions.write(headers, at),
        Err(error) => tracing::warn!(%error, "a session got no token for its write"),
    }
}

// loom and shuttle have no services.
#[cfg(all(test, feature = "memory", not(tidegate_loom), not(tidegate_shuttle)))]
mod tests {
    use axum::body::Body;

    use super::*;
    use crate::cache::Cache;
    use crate::middleware::CacheLayer;
    use crate::store::Memory;

    /// The hash of a GET request with one more field.
    fn simulated(layer: &CacheLayer, name: &str, value: &str) -> Option<u64> {
        let seen = layer.shared.watch.other_request(None)?;
        let request = Request::get("/").header(name, value).body(Body::empty()).ok()?;
        Some(layer.shared.rehearsed(&request, &seen)?.key)
    }

    #[test]
    fn a_simulated_request_is_keyed_by_all_that_identifies_its_client() {
        let layer = CacheLayer::new(Cache::new(Memory::new(0)));
        layer.shared.watch.turn_on();
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
