//! A scope for the layers around the cache.

use std::task::{Context, Poll};

use tokio::task::futures::TaskLocalFuture;
use tower_layer::Layer;
use tower_service::Service;

use crate::cache::Record;

/// Gives each request a scope of its own, for layers around a [`CacheLayer`](crate::CacheLayer) that read the database:
/// authentication, sessions, rate limits. Put it around all of them.
///
/// Without it, their reads run outside any scope and could be part of any response. So a response that is computed at the
/// same time is not stored (`unscoped-read`). With it, these reads count for no response, as if they were in
/// [`Record::detached`]. So whatever a handler takes from these layers, such as the user, must be part of the key: see
/// [`Policy::vary_by`](crate::Policy::vary_by). The handler's reads see what these layers have written through `Database`.
///
/// Within another scope, as when a cached handler calls this service, the layer does nothing. The scope that it gives a
/// request ends with the head of the response.
///
/// Only the `CacheLayer` reads and issues session tokens. So the reads of the layers around it ignore a request's
/// token, and the client gets no token for their writes. If such a layer must see what an earlier request has written,
/// it has to read through `Database::writer`.
///
/// ```
/// use std::time::Duration;
/// use axum::{Router, extract::Request, middleware::{Next, from_fn}, response::Response, routing::get};
/// use tidegate::{Cache, CacheLayer, Memory, Policy, ScopeLayer};
///
/// #[derive(Clone)]
/// struct User(u64);
///
/// async fn authenticate(mut request: Request, next: Next) -> Response {
///     request.extensions_mut().insert(User(7)); // from the database
///     next.run(request).await
/// }
///
/// let account = Policy::ttl(Duration::from_secs(60))
///     .vary_by(|parts| parts.extensions.get::<User>().map(|user| user.0.to_string()));
/// let cache = CacheLayer::new(Cache::new(Memory::new(64 << 20))).route("/account", account);
/// let app: Router = Router::new()
///     .route("/account", get(|| async { "42 coins" }))
///     .layer(cache)
///     .layer(from_fn(authenticate))
///     .layer(ScopeLayer);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ScopeLayer;

/// The service that [`ScopeLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct ScopeService<S>(S);

impl<S> Layer<S> for ScopeLayer {
    type Service = ScopeService<S>;

    fn layer(&self, inner: S) -> ScopeService<S> {
        ScopeService(inner)
    }
}

impl<R, S: Service<R>> Service<R> for ScopeService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = TaskLocalFuture<Record, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        // Within a scope, such as that of a handler that calls this service, everything counts for that one.
        Record::current().unwrap_or_else(Record::apart_from_all).enter(|| self.0.call(request))
    }
}
