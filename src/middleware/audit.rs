//! Compares stored responses with those of the handler: after a hit (audit), or instead of one (shadow mode).

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use tokio::time::timeout;

use super::body::Body;
use super::context::RequestContext;
use super::exchange::{Exchange, drain, whole};
use super::handler::{Handler, HandlerResult};
use super::rendered::RenderedHead;
use super::route;
use super::rules::groups::note_unread;
use super::rules::validation::unconditional;
use super::settings::OTHERS;
use super::status;
use super::writes::give_token;
use crate::cache::protocol::Verdict;
use crate::cache::{Cache, Permit, Record, spawn};
use crate::clock;
use crate::entry::Entry;
use crate::outcome::{BypassReason, Event, Outcome};

/// How long to wait for the log to be read once more, before a difference is left undecided.
const JUDGE_WITHIN: Duration = Duration::from_secs(10);

/// One comparison, made while the handler's body is sent.
pub(crate) struct Audit {
    cache: Cache,
    route: Arc<str>,
    /// The stored response.
    entry: Arc<Entry>,
    pub(crate) record: Record,
    /// The number of bytes of the body that were the same.
    same: usize,
    is_same: bool,
}

impl Audit {
    /// Starts to compare an entry with a response of this status, whose body follows.
    pub(crate) fn new(
        cache: &Cache,
        route: &Arc<str>,
        entry: &Arc<Entry>,
        (status, record): (StatusCode, Record),
    ) -> Self {
        let is_same = RenderedHead::from_entry(entry).is_ok_and(|ready| ready.status == status);
        let (cache, route, entry) = (cache.clone(), route.clone(), entry.clone());
        Self { cache, route, entry, record, same: 0, is_same }
    }

    /// Compares the next part of the body.
    pub(crate) fn take(&mut self, part: &Bytes) {
        let rest = &self.entry.body()[self.same..];
        self.is_same &= rest.starts_with(part);
        self.same += if self.is_same { part.len() } else { 0 };
    }

    /// Ends the comparison after the whole body.
    pub(crate) fn end(mut self) {
        self.is_same &= self.same == self.entry.body().len();
        if self.is_same {
            self.cache.shared.audits.note(&self.route, false);
        } else {
            spawn(self.judge());
        }
    }

    /// Judges a difference. A change between the two responses may explain it; in that case the entry is invalid after the
    /// node has read the log once more.
    async fn judge(self) {
        let fences = self.cache.fences();
        if let Some(log) = self.cache.log() {
            let Some(seen) = fences.seen() else { return };
            let polled = timeout(JUDGE_WITHIN, log.catch_up(seen.position)).await;
            if !matches!(polled, Ok(Ok(()))) {
                return;
            }
        }
        if self.entry.age() >= self.entry.ttl() || fences.judge(&self.entry) != Verdict::Valid {
            return;
        }
        self.cache.shared.audits.note(&self.route, true);
        let fresh = self.record.basis().ok().map(|proof| proof.basis.position.to_string());
        tracing::error!(
            route = %self.route,
            key = %blake3::hash(&self.entry.key).to_hex(),
            as_of = %self.entry.as_of(),
            fresh_as_of = fresh.as_deref().unwrap_or("unknown"),
            age = ?self.entry.age(),
            at = clock::unix_millis(),
            "a cached response differs from what the handler returns now: it depends on something that is not \
             tracked, or the handler is not deterministic"
        );
    }
}

impl<S> Exchange<S> {
    /// Calls the handler in the background, and compares its response with the one that was served from the cache.
    pub(crate) async fn audit<A>(
        mut self,
        entry: Arc<Entry>,
        mut plan: RequestContext,
        mut request: Request<A>,
    ) where
        S: Handler<A>,
    {
        // A comparison that waits for others is not worth a connection to the database.
        let Some(permit) = self.routes.cache.try_permit(&plan.policy) else { return };
        if !self.tag(&mut plan, &request) {
            return;
        }
        self.routes.cache.shared.counters.note(Event::BackgroundLoad);
        whole(request.method_mut());
        let request = unconditional(request, None);
        let compared = self.compared(&entry, (&plan, Some(&permit)), request);
        let Ok(response) = compared.await else { return };
        drain(response).await;
    }

    /// Serves the handler's response although one is stored, and compares the two.
    pub(crate) async fn shadowed<A>(
        mut self,
        entry: Arc<Entry>,
        plan: RequestContext,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        if !plan.is_comparable() {
            return self.uncached(BypassReason::Shadow, plan, request).await;
        }
        let mut response = self.compared(&entry, (&plan, None), request).await?;
        self.count(Outcome::Bypass(BypassReason::Shadow));
        status::append_bypass(response.headers_mut(), BypassReason::Shadow, None);
        Ok(response)
    }

    async fn compared<A>(
        &mut self,
        entry: &Arc<Entry>,
        (plan, permit): (&RequestContext, Option<&Arc<Permit>>),
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let cache = self.routes.cache.clone();
        // Don't use the path if no route matched: clients could create any number of names.
        let route: Arc<str> = route::pattern(&request).unwrap_or(OTHERS).into();
        let record = cache.record_for((&[], permit), Some(&plan.policy), plan.ask.clone());
        let request = plan.to_handler_request(request);
        let response = record.enter(|| self.inner.call(request)).await?;
        record.close(plan.policy.lasts(false));
        note_unread(&record, response.headers(), &plan.policy);
        let has_written = record.has_written();
        let audit = Audit::new(&cache, &route, entry, (response.status(), record));
        let mut response = response.map(|body| Body::compared(body, audit));
        give_token(&self.routes, has_written, response.headers_mut()).await;
        Ok(response)
    }
}
