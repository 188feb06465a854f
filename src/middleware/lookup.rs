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
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> impl Future<Output = HandlerResult<S, A>> + Send
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        async move {
            let mut found = context.find(&self.routes.cache, request.headers()).await;
            if let LookupResult::Hit(hit) = &mut found
                && !context.policy.shadow
                && context.may_serve(&hit.found.entry)
                && let Some(response) = self.serve(hit, &context)
            {
                let cost = hit.found.entry.life.cost;
                if let Some(guard) = hit.take_renewal() {
                    spawn(unattended(cost, self.renew(guard, context, request)));
                } else if hit.outcome != Outcome::Collapsed && context.policy.audits_this() {
                    let entry = hit.found.entry.clone();
                    spawn(unattended(cost, self.audit(entry, context, request)));
                }
                return Ok(response);
            }
            self.serve_otherwise(found, context, request).await
        }
    }

    /// Responds if what was found can't simply be served. Each case has a future of its own, so that none needs space for
    /// another.
    fn serve_otherwise<A>(
        self,
        mut found: LookupResult,
        mut context: Box<RequestContext>,
        mut request: Request<A>,
    ) -> BoxFuture<'static, HandlerResult<S, A>>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !self.tag(&mut context, &mut request) {
            drop(found);
            return Box::pin(self.uncached(BypassReason::NoParameter, context, request));
        }
        found.tag(&context.options.tags);
        self.call_handler(found, context, request)
    }

    /// Handles the result of a lookup; on a miss, calls the handler.
    fn call_handler<A>(
        self,
        found: LookupResult,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> BoxFuture<'static, HandlerResult<S, A>>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        match found {
            LookupResult::Hit(hit) => Box::pin(self.unserved(hit, context, request)),
            _ if context.wants_only_stored() => Box::pin(ready(Ok(self.not_cached()))),
            LookupResult::Miss(guard) if context.directives.is_for_a_part() => {
                Box::pin(self.compute_part(guard, context, request))
            }
            LookupResult::Miss(guard) => Box::pin(self.compute(guard, context, request)),
            LookupResult::Bypass(bypass) => Box::pin(self.bypassed(bypass, context, request)),
        }
    }

    /// Handles a hit that can't be served: it is not for this client, is only compared (shadow mode), or has an unreadable
    /// head.
    async fn unserved<A>(
        self,
        hit: Hit,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
        A: Send + 'static,
    {
        if !context.may_serve(&hit.found.entry) {
            drop(hit);
            return self.uncached(BypassReason::Personal, context, request).await;
        }
        let Hit { found, renew, .. } = hit;
        drop(renew);
        if context.policy.shadow {
            return self.shadowed(found.entry, context, request).await;
        }
        // The head is unreadable: treat the entry as absent.
        let cache = self.routes.cache.clone();
        cache.remove(&context.key).await;
        match context.find(&cache, request.headers()).await {
            // Another request has stored a new entry meanwhile.
            LookupResult::Hit(hit) => {
                let given = Some(&hit).filter(|hit| context.may_serve(&hit.found.entry));
                match given.and_then(|hit| self.serve(hit, &context)) {
                    Some(response) => Ok(response),
                    None => self.uncached(BypassReason::Unreadable, context, request).await,
                }
            }
            found => self.call_handler(found, context, request).await,
        }
    }
}
