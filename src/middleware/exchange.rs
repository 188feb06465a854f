//! A request that has to wait for something: what all of its steps share.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::timeout;

use super::body::Body;
use super::context::{RequestContext, RequestTarget, invalidation_target};
use super::keying::KeySource;
use super::response::respond;
use super::settings::LayerSettings;
use super::variances;
use crate::cache::{Hit, Record};
use crate::outcome::Outcome;
use crate::traffic::RequestTimer;

/// A service that is ready for one request, and the layer's settings.
pub(crate) struct Exchange<S> {
    pub(crate) inner: S,
    pub(crate) routes: Arc<LayerSettings>,
    /// The request's timer, if traffic is recorded.
    pub(crate) timer: Option<RequestTimer>,
}

impl<S> Exchange<S> {
    /// Fills in the tags that a new response gets from the policy; under `Policy::standard`, also the tag that a write to
    /// its URI invalidates. Returns `false` if a path parameter is missing.
    pub(super) fn tag<A>(&self, context: &mut RequestContext, request: &mut Request<A>) -> bool {
        let is_whole = context.tag(request) && context.prepare(request, &self.routes.identity);
        if let Some(target) = invalidation_target(request, &context.policy) {
            context.options.tags.push(self.routes.invalidation_tag(&target));
            let path = variances::path(
                &self.routes.space,
                &KeySource::new(request, &context.directives),
                &context.policy,
            );
            context.request_target = Some(Box::new(RequestTarget { target, path }));
        }
        is_whole
    }

    /// The response to a hit, which is counted. `None` if the stored head is unreadable.
    pub(super) fn serve<B: HttpBody>(
        &self,
        hit: &Hit,
        context: &RequestContext,
    ) -> Option<Response<Body<B>>> {
        let response = respond(hit, &context.directives).ok()?;
        self.routes.cache.shows(hit, &context.policy);
        self.count(hit.outcome);
        Some(response)
    }

    /// A stale response in place of an error, if the policy allows one. After a write by the handler there is none, since it
    /// would lack that write.
    pub(super) async fn instead<B: HttpBody>(
        &mut self,
        fallback: Option<&Hit>,
        context: &RequestContext,
        headers: &HeaderMap,
        record: &Record,
    ) -> Option<Response<Body<B>>> {
        if context.policy.shadow || record.has_written() {
            return None;
        }
        let given = fallback.filter(|hit| context.may_serve(&hit.found.entry));
        if let Some(hit) = given {
            return self.serve(hit, context);
        }
        let hit = context.fallback(&self.routes.cache, headers).await?;
        self.serve(&hit, context)
    }

    /// Counts the outcome, and ends the request's timer.
    pub(crate) fn count(&self, outcome: Outcome) {
        self.routes.cache.shared.counters.count(outcome);
        if let Some(timer) = &self.timer {
            timer.end(outcome);
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

/// Whether a stale response is better than this result: an error as in RFC 5861, section 4, or no response.
pub(super) fn is_stale_better<B, E>(result: &Result<Response<B>, E>) -> bool {
    let is_error = |status: StatusCode| matches!(status.as_u16(), 500 | 502 | 503 | 504);
    result.as_ref().map_or(true, |response| is_error(response.status()))
}

/// Whether the handler failed: a 5xx status, or no response.
pub(super) fn is_failure<B, E>(result: &Result<Response<B>, E>) -> bool {
    result.as_ref().map_or(true, |response| response.status().is_server_error())
}
