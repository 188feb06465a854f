//! Turns the handler's response into an entry.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{AGE, DATE, SET_COOKIE, VARY};
use http::response::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body::Body as HttpBody;

use super::body::Body;
use super::buffer::{BodyBuffer, BufferOutcome, StoreTarget, fits};
use super::context::RequestContext;
use super::date::date;
use super::rules::directives::Directives;
use super::rules::groups;
use super::rules::precondition::is_new_known;
use super::rules::request::{Client, RequestDirectives};
use super::rules::search_variance::SearchVariance;
use super::rules::storable::{
    Cacheability, PERSONAL, Times, cacheability, grpc_failure, is_failure_of_one_call,
    is_grpc_failure,
};
use super::rules::targeted::ResponseControl;
use super::rules::validation::{HeadComparison, compare_head, names_another, updated};
use super::rules::vary;
use super::settings::LayerSettings;
use super::status::{self, StoreOutcome};
use super::stored::{StoredHead, StoredResponse, encode_vary_marker, vary_marker};
use super::tee::TeeBody;
use crate::cache::{
    Cache, ComputedEntry, FillGuard, FillOutcome, Hit, PolicyTag, Record, Uncacheable, VaryMarker,
};
use crate::clock;
use crate::entry::Entry;
use crate::outcome::Outcome;

/// A fill of the cache with a response, and everything that it needs.
pub(crate) struct ResponseFill<'p> {
    pub(crate) guard: Box<FillGuard>,
    pub(crate) context: &'p RequestContext,
    /// The request's headers.
    pub(crate) headers: HeaderMap,
    /// The stored response that is being revalidated: stale by time, but not invalid.
    pub(crate) stored: Option<Box<StoredResponse>>,
    /// How long the handler took.
    pub(crate) delay: Duration,
    pub(crate) routes: Arc<LayerSettings>,
}

/// A response on its way into the cache. The future is written by hand: the compiler's would hold its contents twice.
#[expect(clippy::large_enum_variant, reason = "the large one is the one that there mostly is")]
pub(crate) enum FillFuture<'p, B: HttpBody> {
    Answered(Option<(ResponseFill<'p>, Response<B>)>),
    Confirmed(BoxFuture<'p, Response<Body<B>>>),
}

// No field is structurally pinned.
impl<B: HttpBody> Unpin for FillFuture<'_, B> {}

impl<B> Future for FillFuture<'_, B>
where
    B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
{
    type Output = Response<Body<B>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Answered(result) => match result.take() {
                Some((fill, response)) => Poll::Ready(fill.stream(response, cx)),
                None => Poll::Pending, // polled after it was ready
            },
            Self::Confirmed(confirmed) => confirmed.as_mut().poll(cx),
        }
    }
}

/// What `Cache-Status` says about a response.
struct FillStatus {
    outcome: Outcome,
    status: StatusCode,
    record: Record,
    is_variant: bool,
}

impl FillStatus {
    fn append_to(&self, headers: &mut HeaderMap, outcome: StoreOutcome<'_>) {
        let text =
            status::miss_member(self.outcome, self.is_variant, self.status, &self.record, outcome);
        status::append(headers, &text);
    }
}

impl<'p> ResponseFill<'p> {
    /// Ends the fill after the handler failed. `instead` is the stale response that is served.
    pub(crate) fn fail(self, instead: Option<&Hit>) {
        self.guard.fail_for(Uncacheable::new("failed", "the handler failed"), instead);
    }

    /// Stores a response, or renews the stored one if this is a 304 that confirms it.
    pub(crate) fn with<B>(mut self, response: Response<B>) -> FillFuture<'p, B>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        if response.status() == StatusCode::NOT_MODIFIED
            && let Some(stored) = self.stored.take()
        {
            let fresh = response.into_parts().0.headers;
            return FillFuture::Confirmed(Box::pin(self.confirmed(stored, fresh)));
        }
        if self.is_superseded_by(&response) {
            return FillFuture::Confirmed(Box::pin(self.superseded(response)));
        }
        FillFuture::Answered(Some((self, response)))
    }

    /// Whether a response that can't be stored supersedes the stored one, as far as its head says. A full response does
    /// (RFC 9111, section 4.3.3), unless the handler failed or was too busy, or the response may be personal or the client's
    /// fault.
    fn is_superseded_by<B: HttpBody>(&self, response: &Response<B>) -> bool {
        let (status, headers) = (response.status(), response.headers());
        self.may_supersede(status)
            && !(status == StatusCode::OK && is_grpc_failure(headers))
            && self.cacheability_of_head(status, headers, response.body()).is_err()
    }

    /// Whether an entry is stored that a response with this status would supersede.
    fn may_supersede(&self, status: StatusCode) -> bool {
        self.guard.has_stored() && is_full(status) && self.context.directives.is_of_anybody()
    }

    /// Removes the superseded entry, then passes the response on.
    async fn superseded<B>(self, response: Response<B>) -> Response<Body<B>>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        if self.guard.replaced.is_some() {
            self.guard.cache().remove(self.guard.key()).await;
        } else {
            // The store could not say whether there is one.
            self.guard.remove_stored();
        }
        FillFuture::Answered(Some((self, response))).await
    }

    /// Sends a response to the client. If it may be stored, it is stored on the way.
    fn stream<B>(self, response: Response<B>, cx: &mut Context<'_>) -> Response<Body<B>>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        let fill_status = self.fill_status(response.status());
        let (parts, body) = response.into_parts();
        let cacheability = self.cacheability_of_head(parts.status, &parts.headers, &body);
        let record = self.guard.record();
        match cacheability.and_then(|cacheability| record.can_be_stored().map(|()| cacheability)) {
            Ok(cacheability) => self.stream_and_store(&cacheability, &fill_status, parts, body, cx),
            Err(uncacheable) => self.pass_on(uncacheable, fill_status, parts, body, cx),
        }
    }

    /// Sends a response that can't be stored, and ends the fill.
    fn pass_on<B>(
        self,
        uncacheable: Uncacheable,
        fill_status: FillStatus,
        mut parts: Parts,
        body: B,
        cx: &mut Context<'_>,
    ) -> Response<Body<B>>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        let directives = &self.context.directives;
        // What one client provokes does not show that responses for a key that has one can't be shared.
        let is_of_one = !is_full(parts.status) && self.guard.has_stored();
        let is_failure = parts.status.is_server_error()
            || is_of_one
            || is_failure_of_one_call(parts.status, &uncacheable);
        if self.is_failure_for_all(&parts) {
            return self.fail_with(uncacheable, &fill_status, parts, body, cx);
        }
        let uncacheable = match is_failure {
            true => self.guard.fail_for(uncacheable, None),
            false if !directives.is_of_anybody() => self.guard.reject_personal(uncacheable),
            false => self.guard.reject(uncacheable),
        };
        fill_status.append_to(&mut parts.headers, StoreOutcome::NotStored(&uncacheable));
        known(&parts, directives)
            .unwrap_or_else(|| Response::from_parts(parts, Body::within(fill_status.record, body)))
    }

    /// Stores a response while it streams to the client. If the whole body is available at once, it is stored before the
    /// head is sent, so that `Cache-Status` can say so.
    fn stream_and_store<B>(
        self,
        cacheability: &Cacheability,
        fill_status: &FillStatus,
        mut parts: Parts,
        body: B,
        cx: &mut Context<'_>,
    ) -> Response<Body<B>>
    where
        B: HttpBody<Data = Bytes, Error: Send> + Send + 'static,
    {
        let directives = &self.context.directives;
        // Pass the dependencies on now: the caller may use the head before the body ends.
        let lasts = cacheability.freshness.ttl.saturating_sub(cacheability.freshness.age);
        self.guard.record().pass_on(Some(lasts));
        let mut tee = TeeBody::new(body, self.into_buffer(cacheability, &parts));
        let ahead = tee.read_ahead(cx);
        let is_streaming = ahead.is_none();
        match ahead {
            Some(BufferOutcome::Whole(filled)) => {
                fill_status.append_to(&mut parts.headers, StoreOutcome::from_outcome(&filled));
            }
            Some(BufferOutcome::NotKept(uncacheable)) => {
                fill_status.append_to(&mut parts.headers, StoreOutcome::NotStored(&uncacheable));
            }
            None => fill_status.append_to(&mut parts.headers, StoreOutcome::Undecided),
        }
        // RFC 9110, section 13.2.1: the conditions apply as soon as the response's head is known.
        let known = known(&parts, directives);
        if is_streaming {
            tee.begin_streaming(known.is_none());
        }
        if let Some(known) = known {
            tee.read_on();
            return known;
        }
        Response::from_parts(parts, Body::tee(tee))
    }

    /// The buffer for the body of a response with this head.
    fn into_buffer(self, cacheability: &Cacheability, parts: &Parts) -> Box<BodyBuffer> {
        let mut head = StoredHead::storable(parts.status, &parts.headers, &cacheability.withheld);
        head.age = cacheability.age;
        let target = self.store_target(cacheability, &parts.headers);
        let supersedes = self.may_supersede(parts.status);
        let (policy, share) = (&self.context.policy, self.routes.budget.share());
        let mut buffer = BodyBuffer::new(self.guard, head, target, policy, share);
        buffer.expect_trailers_of(&parts.headers);
        buffer.supersedes = supersedes;
        buffer
    }

    /// Whether other requests that wait for this response may get it too, although the handler failed. Under
    /// `Policy::standard`, only a response that could be stored may be shared (RFC 9111, section 4).
    fn is_failure_for_all(&self, parts: &Parts) -> bool {
        let RequestContext { policy, directives, .. } = self.context;
        // A response can vary without saying so, as by an allowed origin.
        let varies_by = vary::names(&parts.headers, policy);
        let is_own = [SET_COOKIE, VARY].iter().any(|name| parts.headers.contains_key(name))
            || !varies_by.is_ok_and(|names| names.is_empty())
            || Directives::from_headers(&parts.headers).forbids_sharing()
            || ResponseControl::from_headers(&parts.headers).directives.forbids_sharing();
        parts.status.is_server_error()
            && !policy.is_standard
            && !policy.shadow
            && directives.is_of_anybody()
            && !is_own
            && !self.guard.record().has_written()
            && !self.guard.record().is_excluded()
    }

    /// Passes on the response of a handler that failed, and hands it to the waiting requests if it is the second in a row.
    fn fail_with<B>(
        self,
        uncacheable: Uncacheable,
        fill_status: &FillStatus,
        mut parts: Parts,
        body: B,
        cx: &mut Context<'_>,
    ) -> Response<Body<B>>
    where
        B: HttpBody<Data = Bytes>,
    {
        let body = match Body::read_whole(fill_status.record.clone(), body, cx) {
            Ok(bytes) => {
                let head = StoredHead::storable(parts.status, &parts.headers, &[]).encode();
                let uncacheable = self.guard.fail_with(uncacheable, head, bytes.clone());
                fill_status.append_to(&mut parts.headers, StoreOutcome::NotStored(&uncacheable));
                Body::stored(bytes, None)
            }
            Err(body) => {
                let uncacheable = self.guard.fail_for(uncacheable, None);
                fill_status.append_to(&mut parts.headers, StoreOutcome::NotStored(&uncacheable));
                *body
            }
        };
        Response::from_parts(parts, body)
    }

    /// Handles a 304: stores the confirmed response again, with its new lifetime (RFC 9111, section 4.3.4).
    async fn confirmed<B: HttpBody>(
        self,
        stored: Box<StoredResponse>,
        fresh: HeaderMap,
    ) -> Response<Body<B>> {
        let fill_status = self.fill_status(StatusCode::NOT_MODIFIED);
        let context = self.context;
        let (mut response, filled) = if names_another(&stored.head.headers, &fresh) {
            // Nothing may be served: the stored response is not validated, and the other one is not here.
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::BAD_GATEWAY;
            (response, FillOutcome::NotStored(self.refute().await))
        } else {
            let new = brought_up_to_date(&stored.head, &fresh);
            let filled = self.renewed(&stored, &new).await;
            (new.into_response_for(stored.entry.body(), &context.directives), filled)
        };
        fill_status.append_to(response.headers_mut(), StoreOutcome::from_outcome(&filled));
        response
    }

    /// Removes the stored response after a 304 that is about another one.
    pub(crate) async fn refute(self) -> Uncacheable {
        let why = "the validator of the handler's 304 differs from the stored response's";
        self.reject_stored(Uncacheable::new("other-etag", why)).await
    }

    /// Applies a response to HEAD to the stored response to GET. If both are the same response and it is stored again,
    /// returns its updated fields. If they differ, the stored one is removed, unless the difference may be personal.
    pub(crate) async fn updated_by_head(
        mut self,
        status: StatusCode,
        fresh: &HeaderMap,
        cache: &Cache,
    ) -> Option<HeaderMap> {
        let stored = self.stored.take()?;
        if status != stored.head.status || is_grpc_failure(fresh) {
            return None;
        }
        match compare_head(&stored.head.headers, stored.entry.body().len(), fresh) {
            HeadComparison::Same => {
                let new = brought_up_to_date(&stored.head, fresh);
                let filled = self.renewed(&stored, &new).await;
                matches!(filled, FillOutcome::Stored).then_some(new.headers)
            }
            HeadComparison::Other if self.context.directives.is_of_anybody() => {
                cache.remove(self.guard.key()).await;
                None
            }
            HeadComparison::Other | HeadComparison::Nothing => None,
        }
    }

    /// Removes the stored response, which may no longer be served. The next request recomputes it.
    async fn reject_stored(self, uncacheable: Uncacheable) -> Uncacheable {
        let (cache, key) = (self.guard.cache().clone(), self.guard.key().clone());
        let uncacheable = self.guard.reject(uncacheable);
        cache.remove(&key).await;
        uncacheable
    }

    /// Stores the body again with an updated head, unless something that the body depends on has changed. In that case this
    /// record may have begun after the change, and its position would wrongly show that the body contains the change. The
    /// handler's confirmation proves nothing: it may compare only dates in whole seconds, or a length.
    ///
    /// `new` is the stored head, updated by the handler's response. If that response is personal, only its `Date` and `Age`
    /// are stored.
    async fn renewed(self, stored: &StoredResponse, new: &StoredHead) -> FillOutcome {
        let StoredResponse { head: stored, entry } = stored;
        if !self.guard.is_valid(entry) {
            return FillOutcome::NotStored(self.guard.reject_overtaken());
        }
        if is_grpc_failure(&new.headers) {
            // The call failed, which shows nothing about the stored response.
            return FillOutcome::NotStored(self.guard.fail_for(grpc_failure(), None));
        }
        let refused = match self.context.directives.is_of_anybody() {
            true => None,
            false => {
                self.cacheability_for(&self.context.directives, new.status, &new.headers).err()
            }
        };
        let head = match refused {
            None => Cow::Borrowed(new),
            Some(uncacheable) if uncacheable.token == PERSONAL => {
                Cow::Owned(confirmed_at(stored, new))
            }
            Some(uncacheable) => {
                return FillOutcome::NotStored(self.guard.reject_personal(uncacheable));
            }
        };
        // The response was stored for all clients, whichever client's request confirms it.
        let directives = RequestDirectives {
            client: Client::default(),
            has_other_cookies: false,
            ..self.context.directives.clone()
        };
        // The body is the same, so its dependencies are too.
        self.guard.record().depend_on(entry.tags().iter().copied());
        let cacheability = self.cacheability_for(&directives, head.status, &head.headers);
        let noted = self.note_tags(&head.headers).and_then(|()| self.note_variance(&head.headers));
        let cacheability = match cacheability.and_then(|cacheability| noted.map(|()| cacheability))
        {
            Ok(cacheability) => cacheability,
            Err(uncacheable) => {
                return FillOutcome::NotStored(self.reject_stored(uncacheable).await);
            }
        };
        let kept = StoredHead::storable(head.status, &head.headers, &cacheability.withheld);
        let kept = StoredHead { trailers: head.trailers.clone(), age: cacheability.age, ..kept };
        let StoreTarget { key, freshness, vary_marker } =
            self.store_target(&cacheability, &head.headers);
        let (head, body) = (kept.encode(), entry.body().clone());
        self.guard.store(ComputedEntry { key, freshness, head, body, vary_marker })
    }

    fn cacheability(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Cacheability, Uncacheable> {
        if is_error_of_one(status) && self.guard.has_usable() {
            return Err(Uncacheable::new(
                "failed",
                "a stored response is more useful than this error",
            ));
        }
        self.cacheability_for(&self.context.directives, status, headers)
    }

    /// As [`cacheability`](Self::cacheability), with all other checks of the response that are possible before the body
    /// arrives. If one fails, waiting requests can continue at once.
    fn cacheability_of_head<B: HttpBody>(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        body: &B,
    ) -> Result<Cacheability, Uncacheable> {
        let cacheability = self.cacheability(status, headers)?;
        fits(headers, body, self.context.policy.body_limit)?;
        self.note_tags(headers)?;
        self.note_variance(headers)?;
        Ok(cacheability)
    }

    /// Notes the tags that the response names itself. An invalidation during the work counts.
    fn note_tags(&self, headers: &HeaderMap) -> Result<(), Uncacheable> {
        let RequestContext { policy, request_target, .. } = self.context;
        let target = request_target.as_ref().map(|request_target| &request_target.target);
        let tags = groups::tags(headers, policy, target, &self.routes.namespace)?;
        self.guard.record().depend_on(tags.iter().flat_map(PolicyTag::with_bulk));
        Ok(())
    }

    /// Notes for later requests which query parameters count. Such a rule is part of the key, so a response with another
    /// rule is not stored under this key.
    fn note_variance(&self, headers: &HeaderMap) -> Result<(), Uncacheable> {
        let Some(request_target) = &self.context.request_target else { return Ok(()) };
        let said = SearchVariance::from_headers(headers);
        self.routes.variances.note(&request_target.path, said.as_ref());
        match &self.context.variance {
            Some(known) if said.as_ref() != Some(&**known) => {
                let why =
                    "its No-Vary-Search differs from that of the previous response at this path";
                Err(Uncacheable::new("no-vary-search", why))
            }
            _ => Ok(()),
        }
    }

    fn cacheability_for(
        &self,
        directives: &RequestDirectives,
        status: StatusCode,
        headers: &HeaderMap,
    ) -> Result<Cacheability, Uncacheable> {
        let times = Times { now: clock::wall(), delay: self.delay };
        cacheability(status, headers, directives, &self.context.policy, times)
    }

    /// The key to store a response with these headers under, and a vary marker if it is one of several variants.
    fn store_target(&self, cacheability: &Cacheability, headers: &HeaderMap) -> StoreTarget {
        let names = self.variant_names(cacheability, headers);
        let key = vary::key(&self.context.key, &names, &self.headers);
        let vary_marker = (key != self.context.key).then(|| VaryMarker {
            key: self.context.key.clone(),
            head: encode_vary_marker(&names),
        });
        StoreTarget { key, freshness: cacheability.freshness, vary_marker }
    }

    /// The names that distinguish the response from others under the request's key: those by which it varies itself, and
    /// those by which stored responses vary, unless the response shows that this has changed.
    fn variant_names<'l>(
        &self,
        cacheability: &'l Cacheability,
        headers: &HeaderMap,
    ) -> Cow<'l, [HeaderName]> {
        let own = &cacheability.varies_by;
        let Some(known) = self.marker().and_then(|marker| vary_marker(&marker).ok()) else {
            return Cow::Borrowed(own);
        };
        // What the last response to such a request varied by: if this one does not, the handler has changed.
        let replaced = self.guard.replaced.as_ref();
        let last = replaced.and_then(|entry| StoredHead::from_entry(entry).ok());
        // That a field is missing from which a name was inferred shows no such change.
        let last = last.and_then(|head| {
            let mut names = vary::names(&head.headers, &self.context.policy).ok()?;
            names.retain(|name| vary::is_named(&head.headers, name));
            Some(names)
        });
        Cow::Owned(vary::with_known(own, &known, &last.unwrap_or_default(), headers))
    }

    /// The vary marker under the request's key, if one is known.
    fn marker(&self) -> Option<Arc<Entry>> {
        match self.guard.cache().shared.store.peek(&self.context.key) {
            Some(found) => found.entry.is_vary_marker().then_some(found.entry),
            None => self.guard.marker.clone(),
        }
    }

    fn fill_status(&self, status: StatusCode) -> FillStatus {
        let is_variant = *self.guard.key() != self.context.key;
        FillStatus {
            outcome: self.guard.outcome(),
            status,
            record: self.guard.record().clone(),
            is_variant,
        }
    }
}

/// The stored head, updated with the fields of the 304 or HEAD response that confirms it. If that has no `Date`, the
/// date is now.
fn brought_up_to_date(head: &StoredHead, fresh: &HeaderMap) -> StoredHead {
    let mut headers = updated(&head.headers, fresh);
    if !fresh.contains_key(DATE) {
        date(&mut headers);
    }
    let mut kept = StoredHead::storable(head.status, &headers, &[]);
    // A cache in between may have sent the confirmation, so its `Age` counts (sections 3.2 and 4.2.3).
    if let Some(age) = fresh.get(AGE) {
        kept.headers.insert(AGE, age.clone());
    }
    StoredHead { trailers: head.trailers.clone(), ..kept }
}

/// The stored head with the `Date` and `Age` of the new one.
fn confirmed_at(stored: &StoredHead, new: &StoredHead) -> StoredHead {
    let mut confirmed = stored.clone();
    for name in [DATE, AGE] {
        confirmed.headers.remove(&name);
        if let Some(value) = new.headers.get(&name) {
            confirmed.headers.insert(name, value.clone());
        }
    }
    confirmed
}

/// Whether a response represents the whole current state of its URI.
fn is_full(status: StatusCode) -> bool {
    let is_part = matches!(status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED);
    !is_part && !status.is_informational() && !is_error_of_one(status)
}

/// Whether a status is an error of the handler or of this one request. The other errors are about the resource (RFC 9110,
/// section 15.5, and RFC 7725).
fn is_error_of_one(status: StatusCode) -> bool {
    let is_of_resource = matches!(status.as_u16(), 401 | 403 | 404 | 405 | 410 | 451);
    status.is_server_error() || status.is_client_error() && !is_of_resource
}

/// A 304, if the client has this response already.
fn known<B: HttpBody>(parts: &Parts, directives: &RequestDirectives) -> Option<Response<Body<B>>> {
    if parts.status != StatusCode::OK || !is_new_known(&directives.conditions, &parts.headers) {
        return None;
    }
    let head = StoredHead::storable(parts.status, &parts.headers, &[]);
    let mut response = head.into_response_for(&Bytes::new(), directives);
    if let Some(age) = parts.headers.get(AGE) {
        response.headers_mut().insert(AGE, age.clone());
    }
    Some(response)
}

// loom and shuttle have no services.
#[cfg(test)]
#[cfg(all(feature = "memory", not(tidegate_loom), not(tidegate_shuttle)))]
mod tests;
