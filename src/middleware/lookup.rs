//! Looks up the response to a request that has to wait, and serves it or decides which steps follow.

use std::future::ready;

use futures_util::future::BoxFuture;
use http::Request;

use super::context::RequestContext;
use super::exchange::{Exchange, unattended};
use super::handler::{Handler, HandlerResult};
use crate::cache::{Hit, LookupResult, spawn};
use crate::outcome::{BypassReason, Outcome};

impl<S> Exchange<S> {
    /// Serves a hit. Everything else runs in separate boxed futures, so that a hit's future needs no space for a miss.
    #[expect(
        clippy::manual_async_fn,
        reason = "the future of one has room for its arguments twice"
    )]
    pub(crate) fn run<A>(
        self,
        plan: Box<RequestContext>,
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
        mut plan: Box<RequestContext>,
        mut request: Request<A>,
    ) -> BoxFuture<'static, HandlerResult<S, A>>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !self.tag(&mut plan, &mut request) {
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
        plan: Box<RequestContext>,
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
        plan: Box<RequestContext>,
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
}
