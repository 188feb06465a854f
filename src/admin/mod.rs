//! The page for operators.
//!
//! [`Admin`] makes a router to mount beside a service's own: `access` says who may see it, `status` what goes
//! on, `explain` what would become of a request, `suggest` what is worth caching, and `page` is what people
//! see of all that. Programs get the same as JSON, terminals as text.

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

/// Makes the page for operators, and what it is made of as JSON.
///
/// It shows what the cache does, route by route, the servers and their lag, what changed lately and what is
/// worth caching; it says what would become of a request, makes tags invalid, and switches the cache off and
/// on. From when it is made, the layer counts by route, which costs a request well under a microsecond; and
/// statements on routes without a policy are looked at as those on routes with one are, so that it can tell
/// what the cache would do for them.
///
/// Whoever sees the page can switch the cache off, so there is no way to mount it without saying who may:
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
    /// When, and what had been written to tables by then.
    #[cfg(feature = "postgres")]
    written: std::sync::OnceLock<(Instant, std::collections::BTreeMap<String, i64>)>,
    started: Instant,
}

/// A secret that is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the token has {0} bytes; it takes 16 or more, from a source of randomness: `openssl rand -hex 32`"
)]
pub struct TokenError(usize);

impl Admin {
    /// A page about a layer and its cache. Call it when all routes have been added to the layer.
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

    /// Shows the values of columns in recent changes: whoever sees the page then sees which rows change. By default, each is
    /// shown as the hash of its tag, `users:email=#` and 16 hexadecimal digits, as dependencies are whose name is not known.
    #[must_use]
    pub fn show_values(mut self) -> Self {
        self.shows_values = true;
        self
    }

    /// The router, behind a layer that lets nobody through but those who may see it.
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

    /// The router, for those who know a secret: `Authorization: Bearer SECRET`, or the secret as the password
    /// of any user name, for which browsers ask. Use it over TLS only.
    ///
    /// Wrong tokens are limited (429): a client whose address the server tells
    /// (`into_make_service_with_connect_info::<SocketAddr>()`) has ten, and one more each six seconds; until then no token of
    /// its requests is looked at. Where addresses are not told, a right token always counts.
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

    /// The router, for all who can reach it: on a port of its own that only operators reach.
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

    /// When it was asked first what had been written to tables, and the answer.
    #[cfg(feature = "postgres")]
    async fn written(&self) -> Option<&(Instant, std::collections::BTreeMap<String, i64>)> {
        let db = self.database.as_ref()?;
        if self.written.get().is_none() {
            // Whoever asks at the same time waits for its own response: the other's runtime may not run it.
            let first = (clock::now(), primary::writes(db).await.ok()?);
            return Some(self.written.get_or_init(|| first));
        }
        self.written.get()
    }
}
