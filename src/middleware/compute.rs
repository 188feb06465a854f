//! Calls the handler to compute a response: for a client, in the background, or for a part.

use std::future::poll_fn;

use http::header::{AUTHORIZATION, COOKIE, ETAG, LAST_MODIFIED};
use http::{HeaderName, Method, Request, Response, StatusCode};

use super::bypass::bypassed;
use super::content;
use super::context::RequestContext;
use super::exchange::{Exchange, drain, is_failure, is_stale_better, whole};
use super::fill::ResponseFill;
use super::handler::{Handler, HandlerResult};
use super::identity::IdentitySource;
use super::rendered::RenderedHead;
use super::rules::cookies;
use super::rules::groups::note_unread;
use super::rules::validation::{names_another, unconditional};
use super::stored::{StoredHead, StoredResponse, vary_marker};
use super::writes::give_token;
use crate::cache::{FillGuard, Record};
use crate::clock;
use crate::entry::Entry;
use crate::observe;
use crate::outcome::{BypassReason, Event, Outcome};

impl<S> Exchange<S> {
    /// Computes the response, sends it, and fills the cache.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of one has room for its arguments twice"
    )]
    pub(super) fn compute<A>(
        mut self,
        mut guard: Box<FillGuard>,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> impl Future<Output = HandlerResult<S, A>> + Send
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        async move {
            let (outcome, fallback) = (guard.outcome(), guard.fallback());
            let (result, fill) = self.call(guard, &context, request).await;
            let record = fill.guard.record().clone();
            let is_refuted = is_about_another(&result, fill.stored.as_deref());
            if (is_refuted || is_stale_better(&result))
                && let Some(response) =
                    Box::pin(self.instead(fallback.as_ref(), &context, &fill.headers, &record))
                        .await
            {
                match is_refuted {
                    true => drop(Box::pin(fill.refute()).await),
                    false => fill.fail(fallback.as_ref()),
                }
                return Ok(response);
            }
            self.count(outcome);
            let response = match result {
                Ok(response) => response,
                Err(error) => {
                    record.close(None);
                    fill.guard.fail(None);
                    return Err(error);
                }
            };
            let mut response = fill.with(response).await;
            give_token(&self.routes, record.has_written(), response.headers_mut()).await;
            Ok(response)
        }
    }

    /// Calls the handler. Under `Policy::standard`, this is a conditional request if there is a stored response to
    /// revalidate, except by POST. Other policies prove freshness by the log, and don't rely on dates with a resolution
    /// of one second.
    ///
    /// If the handler's 304 is about another response, repeats the request without conditions, if that is possible.
    fn call<'p, A>(
        &mut self,
        guard: Box<FillGuard>,
        context: &'p RequestContext,
        request: Request<A>,
    ) -> impl Future<Output = (Result<S::Response, S::Error>, ResponseFill<'p>)> + Send
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        // A condition has another meaning with POST (RFC 9110, section 13.1.2).
        let may_revalidate =
            context.policy.is_standard && context.directives.method != Method::POST;
        let stored = may_revalidate.then(|| stored(&guard, context)).flatten();
        let stored = stored.filter(|stored| has_validator(&stored.head)).map(Box::new);
        let headers = request.headers().clone();
        let given = request.extensions().len();
        let request = context.to_handler_request(request);
        let is_withheld = request.extensions().len() < given;
        // A response that is not shared is for this client alone: keep the client's own conditions.
        let request =
            match stored.is_none() && guard.is_known_unshared(context.options.is_identified) {
                true => request,
                false => unconditional(request, stored.as_ref().map(|stored| &stored.head.headers)),
            };
        // A GET request has no content that the first call could have consumed.
        let may_repeat = stored.is_some() && context.directives.content.is_none();
        let (request, again) = if may_repeat { content::twice(request) } else { (request, None) };
        let again = again.map(|request| {
            let request = unconditional(request, None);
            Box::new(SecondCall { inner: self.inner.clone(), request })
        });
        let (record, mut began) = (guard.record().clone(), clock::now());
        let result = record.enter(|| self.inner.call(request));
        let routes = self.routes.clone();
        async move {
            let (mut result, mut stored) = (result.await, stored);
            if let Some(again) = again.filter(|_| is_about_another(&result, stored.as_deref())) {
                (stored, began) = (None, clock::now());
                result = Box::pin(again.run(&record)).await;
            }
            let delay = began.elapsed();
            observe::load(delay);
            if let (true, Ok(response)) = (is_withheld, &result) {
                routes.identity.extensions.warn_of_withheld(response.status());
            }
            (result, ResponseFill { guard, context, headers, stored, delay, routes })
        }
    }

    /// Recomputes a response in the background.
    pub(super) async fn renew<A>(
        mut self,
        mut guard: Box<FillGuard>,
        mut context: Box<RequestContext>,
        mut request: Request<A>,
    ) where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !self.tag(&mut context, &mut request) || !guard.claim().await {
            return;
        }
        self.routes.cache.shared.counters.note(Event::BackgroundLoad);
        guard.detach();
        guard.tag(&context.options.tags);
        let identity = &self.routes.identity;
        let is_stripped =
            strip_client(&mut request, &mut context, identity, guard.marker.as_deref());
        whole(request.method_mut());
        whole(&mut context.directives.method);
        // The client has its response already.
        context.directives.conditions.clear();
        let replaced = guard.replaced.as_ref().map(|entry| RenderedHead::from_entry(entry));
        let asks_all = matches!(replaced, Some(Ok(head)) if asks_for_identity(head.status));
        let (Ok(response), fill) = self.call(guard, &context, request).await else { return };
        if is_stripped && !asks_all && asks_for_identity(response.status()) {
            // No client has sent this request, so its response does not supersede the stored one. An entry from before a
            // failover is removed all the same, and the next request computes another.
            if !fill.guard.replaces_valid() {
                fill.guard.remove_stored();
            }
            return fill.fail(None);
        }
        drain(fill.with(response).await).await;
    }

    /// Passes a HEAD or range request to the handler. The response to HEAD may confirm or invalidate the stored response to
    /// GET (RFC 9111, section 4.3.5).
    pub(super) async fn compute_part<A>(
        mut self,
        mut guard: Box<FillGuard>,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let cache = self.routes.cache.clone();
        let is_head = context.directives.method == Method::HEAD;
        let reason = if is_head { BypassReason::Method } else { BypassReason::Range };
        let (record, headers) = (guard.record().clone(), request.headers().clone());
        let (request, began) = (context.to_handler_request(request), clock::now());
        let result = record.enter(|| self.inner.call(request)).await;
        record.close(context.policy.lasts(false).filter(|_| !is_failure(&result)));
        if is_stale_better(&result)
            && let Some(response) =
                self.instead(guard.fallback().as_ref(), &context, &headers, &record).await
        {
            return Ok(response);
        }
        self.count(Outcome::Bypass(reason));
        let mut response = result?;
        note_unread(&record, response.headers(), &context.policy);
        if is_head && context.policy.is_standard {
            let stored = stored(&guard, &context).map(Box::new);
            let (routes, delay) = (self.routes.clone(), began.elapsed());
            let fill = ResponseFill { guard, context: &context, headers, stored, delay, routes };
            if let Some(updated) =
                fill.updated_by_head(response.status(), response.headers(), &cache).await
            {
                *response.headers_mut() = updated;
            }
        }
        Ok(bypassed(&self.routes, response, reason, record).await)
    }
}

/// The stored response, if it is stale only by time and may be served to this client. Any other was not selected for the
/// request, so the handler's response can't confirm it (RFC 9111, section 4.3.1).
fn stored(guard: &FillGuard, context: &RequestContext) -> Option<StoredResponse> {
    let entry = guard.stale.clone().filter(|entry| context.may_serve(entry))?;
    Some(StoredResponse { head: StoredHead::from_entry(&entry).ok()?, entry })
}

fn has_validator(head: &StoredHead) -> bool {
    head.headers.contains_key(ETAG) || head.headers.contains_key(LAST_MODIFIED)
}

/// Removes the headers that identify the client and that the response does not vary by, since a background renewal is for
/// all clients. `marker` has further names by which responses vary. Under `Policy::public`, headers other than `Cookie` and
/// `Authorization` stay: they identify nobody there. Returns whether a header other than `Cookie` was removed.
fn strip_client<A>(
    request: &mut Request<A>,
    context: &mut RequestContext,
    identity: &IdentitySource,
    marker: Option<&Entry>,
) -> bool {
    if context.directives.client_key.is_some() {
        return false;
    }
    let policy = &context.policy;
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
    identity.identify_again(&mut context.directives, request, &context.policy);
    is_stripped
}

/// Whether a response may only mean that the request did not say who the client is.
fn asks_for_identity(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 407)
        || status.is_redirection() && status != StatusCode::NOT_MODIFIED
}

/// Whether the handler's response to a conditional request is a 304 about a response other than the stored one.
fn is_about_another<B, E>(
    result: &Result<Response<B>, E>,
    stored: Option<&StoredResponse>,
) -> bool {
    let (Ok(response), Some(stored)) = (result, stored) else { return false };
    response.status() == StatusCode::NOT_MODIFIED
        && names_another(&stored.head.headers, response.headers())
}

/// A second call of the handler.
struct SecondCall<S, A> {
    inner: S,
    request: Request<A>,
}

impl<S, A> SecondCall<S, A>
where
    S: Handler<A>,
{
    async fn run(mut self, record: &Record) -> Result<S::Response, S::Error> {
        poll_fn(|cx| self.inner.poll_ready(cx)).await?;
        record.enter(|| self.inner.call(self.request)).await
    }
}
