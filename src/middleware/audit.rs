//! Compares stored responses with those of the handler: after a hit (audit), or instead of one (shadow mode).

use std::sync::Arc;

use http::Request;

use super::body::Body;
use super::comparison::Comparison;
use super::context::RequestContext;
use super::exchange::{Exchange, drain, whole};
use super::handler::{Handler, HandlerResult};
use super::route;
use super::rules::groups::note_unread;
use super::rules::validation::unconditional;
use super::settings::OTHERS;
use super::status;
use super::writes::give_token;
use crate::cache::Permit;
use crate::entry::Entry;
use crate::outcome::{BypassReason, Event, Outcome};

impl<S> Exchange<S> {
    /// Calls the handler in the background, and compares its response with the one that was served from the cache.
    pub(crate) async fn audit<A>(
        mut self,
        entry: Arc<Entry>,
        mut context: Box<RequestContext>,
        mut request: Request<A>,
    ) where
        S: Handler<A>,
    {
        // A comparison that waits for others is not worth a connection to the database.
        let Some(permit) = self.routes.cache.try_permit(&context.policy) else { return };
        if !self.tag(&mut context, &mut request) {
            return;
        }
        self.routes.cache.shared.counters.note(Event::BackgroundLoad);
        whole(request.method_mut());
        let request = unconditional(request, None);
        let compared = self.compared(&entry, &context, Some(&permit), request);
        let Ok(response) = compared.await else { return };
        drain(response).await;
    }

    /// Serves the handler's response although one is stored, and compares the two.
    pub(crate) async fn shadowed<A>(
        mut self,
        entry: Arc<Entry>,
        context: Box<RequestContext>,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        if !context.is_comparable() {
            return self.uncached(BypassReason::Shadow, context, request).await;
        }
        let mut response = self.compared(&entry, &context, None, request).await?;
        self.count(Outcome::Bypass(BypassReason::Shadow));
        status::append_bypass(response.headers_mut(), BypassReason::Shadow, None);
        Ok(response)
    }

    async fn compared<A>(
        &mut self,
        entry: &Arc<Entry>,
        context: &RequestContext,
        permit: Option<&Arc<Permit>>,
        request: Request<A>,
    ) -> HandlerResult<S, A>
    where
        S: Handler<A>,
    {
        let cache = self.routes.cache.clone();
        // Don't use the path if no route matched: clients could create any number of names.
        let route: Arc<str> = route::pattern(&request).unwrap_or(OTHERS).into();
        let record = cache.record_for(&[], permit, Some(&context.policy), context.options.clone());
        let request = context.to_handler_request(request);
        let response = record.enter(|| self.inner.call(request)).await?;
        record.close(context.policy.lasts(false));
        note_unread(&record, response.headers(), &context.policy);
        let has_written = record.has_written();
        let comparison = Comparison::new(&cache, &route, entry, response.status(), record);
        let mut response = response.map(|body| Body::compared(body, comparison));
        give_token(&self.routes, has_written, response.headers_mut()).await;
        Ok(response)
    }
}
