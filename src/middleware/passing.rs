//! Requests that the cache leaves alone, and what follows from them when they write.

use http::{HeaderMap, Request};

use super::handler::{Answered, Handler};
use super::layer::Routes;
use super::rules::unsafe_method::{Target, invalidates};
use super::status;
use super::steps::Steps;
use crate::cache::Record;
use crate::outcome::BypassReason;

/// What is known of a request that the cache leaves alone.
pub(crate) struct Passing {
    pub(crate) reason: BypassReason,
    pub(crate) record: Record,
    /// What it makes invalid if it goes well.
    pub(crate) target: Option<Target>,
}

impl<S> Steps<S> {
    pub(crate) async fn pass<A>(mut self, passing: Passing, request: Request<A>) -> Answered<S, A>
    where
        S: Handler<A>,
    {
        let Passing { reason, record, target } = passing;
        let method = request.method().clone();
        let response = record.scope(self.inner.call(request)).await?;
        if let Some(target) = target.filter(|_| invalidates(&method, &response)) {
            let tags = target.tags(&self.routes.namespace, response.headers());
            if let Err(error) = self.routes.cache.invalidate(tags).await {
                tracing::warn!(%error, "a write could not make stored answers invalid");
            }
        }
        let mut response = status::passed(response, reason);
        if !method.is_safe() || record.has_written() {
            give_token(&self.routes, response.headers_mut()).await;
        }
        Ok(response)
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
