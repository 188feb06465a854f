//! What the page shows, and how a service sets it up.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

#[cfg(feature = "postgres")]
use super::primary;
use super::samples::TrafficHistory;
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
    pub(super) layers: Vec<Arc<LayerSettings>>,
    pub(super) cache: Cache,
    #[cfg(feature = "postgres")]
    pub(super) database: Option<Database>,
    /// Whether recent changes show the values of columns.
    pub(super) shows_values: bool,
    /// When the page first read the number of rows written to each table, and those numbers.
    #[cfg(feature = "postgres")]
    written: std::sync::OnceLock<(Instant, std::collections::BTreeMap<String, i64>)>,
    pub(super) started: Instant,
    pub(super) history: TrafficHistory,
    /// Whether a task samples the traffic.
    pub(super) is_sampling: AtomicBool,
}

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
            history: TrafficHistory::default(),
            is_sampling: AtomicBool::new(false),
        };
        admin.layer(layer)
    }

    /// Adds another layer over the same cache.
    #[must_use]
    pub fn layer(mut self, layer: &CacheLayer) -> Self {
        layer.shared.recorder.turn_on();
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

    /// When the numbers of rows written to tables were first read from the primary, and those numbers.
    #[cfg(feature = "postgres")]
    pub(super) async fn written(
        &self,
    ) -> Option<&(Instant, std::collections::BTreeMap<String, i64>)> {
        let db = self.database.as_ref()?;
        if self.written.get().is_none() {
            // Concurrent requests each run their own query: if one waited for another's, that one's runtime might stall.
            let first = (clock::now(), primary::writes(db).await.ok()?);
            return Some(self.written.get_or_init(|| first));
        }
        self.written.get()
    }
}
