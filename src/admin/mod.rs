//! The page for operators.
//!
//! [`Admin`] builds a router to mount beside a service's own. `access` controls who may use it, `status` shows the
//! node's state, `explain` shows how the cache would handle a request, `suggest` shows what is worth caching, and `page`
//! is the HTML for people. Programs get the same data as JSON, terminals as text.

mod access;
mod answer;
mod changes;
mod explain;
mod limit;
mod page;
#[cfg(feature = "postgres")]
mod primary;
mod status;
mod suggest;
mod switch;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn;
use axum::response::IntoResponse;
use axum::routing::{Route, get, post};
use tower_layer::Layer;
use tower_service::Service;

use crate::cache::Cache;
use crate::clock::{self, Instant};
use crate::middleware::{CacheLayer, LayerSettings};
#[cfg(feature = "postgres")]
use crate::postgres::Database;

/// The operators' page, and its data as JSON.
///
/// The page shows what the cache does for each route, the servers and their lag, recent changes, and what is worth
/// caching. It explains how the cache would handle a request, invalidates tags, and switches the cache off and on. Once
/// an `Admin` exists, the layer counts requests by route, which costs well under a microsecond per request. Statements
/// on routes without a policy are then analysed like those on routes with one, so that the page can estimate what the
/// cache would do for them.
///
/// Anyone who can open the page can switch the cache off, so you have to choose who may open it before you can mount it:
/// [`behind`](Self::behind) your own authentication, [`with_token`](Self::with_token), or
/// [`unprotected`](Self::unprotected).
///
/// ```
/// # use std::time::Duration;
/// use axum::{Router, routing::get};
/// use tidegate::{Admin, Cache, CacheLayer, Memory, Policy};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let secret = "0123456789abcdef0123456789abcdef";
/// let layer = CacheLayer::new(Cache::new(Memory::new(64 << 20)))
///     .route("/", Policy::ttl(Duration::from_secs(60)));
/// let admin = Admin::new(&layer).with_token(secret)?;
/// let app: Router = Router::new()
///     .route("/", get(async || "hello"))
///     .layer(layer)
///     .nest("/admin/cache", admin);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Admin {
    layers: Vec<Arc<LayerSettings>>,
    cache: Cache,
    #[cfg(feature = "postgres")]
    database: Option<Database>,
    /// Whether recent changes show the values of columns.
    shows_values: bool,
    /// When the page first read the number of rows written to each table, and those numbers.
    #[cfg(feature = "postgres")]
    written: std::sync::OnceLock<(Instant, std::collections::BTreeMap<String, i64>)>,
    started: Instant,
}

/// The token is too short to be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token has {0} bytes; it needs 16 or more random bytes, such as from `openssl rand -hex 32`"
)]
pub struct TokenError(usize);

impl Admin {
    /// Creates the page for a layer and its cache. Call this after you have added all routes to the layer.
    pub fn new(layer: &CacheLayer) -> Self {
        let cache = layer.shared.cache.clone();
        let admin = Self {
            layers: Vec::new(),
            cache,
            #[cfg(feature = "postgres")]
            database: None,
            shows_values: false,
            #[cfg(feature = "postgres")]
            written: std::sync::OnceLock::new(),
            started: clock::now(),
        };
        admin.layer(layer)
    }

    /// Adds another layer over the same cache.
    #[must_use]
    pub fn layer(mut self, layer: &CacheLayer) -> Self {
        layer.shared.watch.turn_on();
        self.layers.push(layer.shared.clone());
        self
    }

    /// Adds the database: its servers and their lag, recent changes, and statements that are worth caching.
    #[cfg(feature = "postgres")]
    #[must_use]
    pub fn database(mut self, database: &Database) -> Self {
        database.inner.statements.turn_on();
        self.database = Some(database.clone());
        self
    }

    /// Shows the column values in recent changes, so that the page shows which rows change. By default, a value is
    /// replaced by the hash of its tag: `users:email=#` and 16 hexadecimal digits.
    #[must_use]
    pub fn show_values(mut self) -> Self {
        self.shows_values = true;
        self
    }

    /// The router, behind your own authentication layer, which must reject everyone who may not use the page.
    pub fn behind<L>(self, authentication: L) -> Router
    where
        L: Layer<Route> + Clone + Send + Sync + 'static,
        L::Service: Service<Request> + Clone + Send + Sync + 'static,
        <L::Service as Service<Request>>::Response: IntoResponse + 'static,
        <L::Service as Service<Request>>::Error: Into<Infallible> + 'static,
        <L::Service as Service<Request>>::Future: Send + 'static,
    {
        self.router().layer(authentication)
    }

    /// The router, for requests that have a secret token: `Authorization: Bearer SECRET`, or HTTP Basic with any user name
    /// and the secret as the password, for which browsers prompt. Use it over TLS only.
    ///
    /// Wrong tokens are rate-limited (429). A client whose address the server provides
    /// (`into_make_service_with_connect_info::<SocketAddr>()`) may send ten at once, and one more every six seconds; beyond
    /// that, its tokens are not checked at all. If client addresses are unknown, a correct token is always accepted.
    ///
    /// # Errors
    ///
    /// If the secret is shorter than 16 bytes.
    pub fn with_token(self, secret: &str) -> Result<Router, TokenError> {
        if secret.len() < 16 {
            return Err(TokenError(secret.len()));
        }
        let token = access::TokenHash::new(secret);
        let known = (token, limit::WrongTokens::default());
        let check = move |request, next| access::check(known.clone(), request, next);
        Ok(self.router().layer(from_fn(check)))
    }

    /// The router, without authentication. Serve it on a port of its own that only operators can reach.
    pub fn unprotected(self) -> Router {
        self.router()
    }

    fn router(self) -> Router {
        let page = page::Page::new();
        let requests = limit::RequestLimiter::new();
        let limited = move |request, next| limit::check(requests.clone(), request, next);
        let admin = Arc::new(self);
        #[cfg(feature = "postgres")]
        crate::cache::spawn({
            let admin = admin.clone();
            async move {
                admin.written().await;
            }
        });
        Router::new()
            .route("/", get(async move || page.answer()))
            .route("/api/status", get(status::show))
            .route("/api/changes", get(changes::show))
            .route("/api/suggest", get(suggest::show))
            .route("/api/explain", post(explain::show))
            .route("/api/invalidate", post(switch::invalidate))
            .route("/api/switch", post(switch::switch))
            .layer(from_fn(access::same_origin))
            .layer(from_fn(limited))
            .layer(from_fn(access::harden))
            .with_state(admin)
    }

    /// When the numbers of rows written to tables were first read from the primary, and those numbers.
    #[cfg(feature = "postgres")]
    async fn written(&self) -> Option<&(Instant, std::collections::BTreeMap<String, i64>)> {
        let db = self.database.as_ref()?;
        if self.written.get().is_none() {
            // Concurrent requests each run their own query: if one waited for another's, that one's runtime might stall.
            let first = (clock::now(), primary::writes(db).await.ok()?);
            return Some(self.written.get_or_init(|| first));
        }
        self.written.get()
    }
}
