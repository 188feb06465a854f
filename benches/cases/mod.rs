//! The work that is measured, by time in the benchmarks beside this and by instructions in `instructions`.

#![allow(dead_code, reason = "each benchmark takes some")]
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::header::{CONTENT_TYPE, ETAG, HOST, USER_AGENT};
use axum::http::{Request, Response};
use axum::routing::get;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Collected};
use tidegate::{
    Cache, CacheLayer, Entry, Found, Key, Memory, Policy, Store, StoreError, Tier, ValuePolicy,
    internals,
};
use tokio::runtime::Runtime;
use tower::Service;

pub(crate) type Failure = Box<dyn std::error::Error>;

/// 1 KiB of JSON.
pub(crate) fn body() -> Bytes {
    let text = format!("{{\"text\":\"{}\"}}", "x".repeat(1024 - 11));
    assert_eq!(text.len(), 1024);
    text.into()
}

/// An axum router, with a cache in front of its handlers or without.
pub(crate) struct App {
    runtime: Runtime,
    router: Router,
    pub(crate) cache: Cache,
}

impl App {
    pub(crate) fn bare() -> Result<Self, Failure> {
        Self::new(Memory::new(0), |router, _| router)
    }

    /// With a layer that does nothing: what axum takes for any.
    pub(crate) fn layered() -> Result<Self, Failure> {
        Self::new(Memory::new(0), |router, _| router.layer(tower::layer::util::Identity::new()))
    }

    pub(crate) fn cached() -> Result<Self, Failure> {
        Self::cached_within(256 << 20)
    }

    /// With so many bytes of memory.
    pub(crate) fn cached_within(bytes: u64) -> Result<Self, Failure> {
        Self::over(Memory::new(bytes))
    }

    /// Over a store.
    pub(crate) fn over(store: impl Store) -> Result<Self, Failure> {
        Self::new(store, |router, cache| {
            let layer = CacheLayer::new(cache.clone())
                .route("/items/{id}", policy().tag("items:id={id}"))
                .route("/tagged/{id}", policy())
                .route("/search", policy());
            router.layer(layer)
        })
    }

    /// With a layer that has no policies, and a page for operators that counts what the cache would do.
    #[cfg(feature = "admin")]
    pub(crate) fn observed() -> Result<Self, Failure> {
        Self::new(Memory::new(0), |router, cache| {
            let layer = CacheLayer::new(cache.clone());
            drop(tidegate::Admin::new(&layer));
            router.layer(layer)
        })
    }

    fn new(
        store: impl Store,
        wrap: impl FnOnce(Router, &Cache) -> Router,
    ) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let cache = Cache::new(store);
        let body = body();
        let answer = move || async move { ([(CONTENT_TYPE, "application/json")], body) };
        let tagged = answer.clone();
        let tagged = move || async move { ([(ETAG, "\"1\"")], tagged().await) };
        let router = Router::new()
            .route("/items/{id}", get(answer.clone()))
            .route("/tagged/{id}", get(tagged))
            .route("/search", get(answer));
        Ok(Self { runtime, router: wrap(router, &cache), cache })
    }

    /// Sends a request and reads all of the answer.
    pub(crate) fn ask(&mut self, request: Request<Body>) -> Response<Bytes> {
        let response = self.router.call(request);
        self.runtime.block_on(async {
            let (parts, body) = match response.await {
                Ok(response) => response.into_parts(),
                Err(never) => match never {},
            };
            let body = body.collect().await.map(Collected::to_bytes);
            Response::from_parts(parts, body.unwrap_or_default())
        })
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}

/// Entries in the form that they have in Redis, as if it answered at once.
#[derive(Debug, Default)]
pub(crate) struct Encoded(Mutex<HashMap<[u8; 32], Bytes>>);

impl Store for Encoded {
    fn peek(&self, _: &Key) -> Option<Found> {
        None
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async {
            let bytes = self.0.lock().unwrap().get(key.hash()).cloned();
            let entry = bytes.and_then(|bytes| internals::decode(&bytes)).map(Arc::new);
            let found = entry.map(|entry| Found { entry, tier: Tier::Shared });
            Ok(found.filter(|found| found.entry.is_for(key)))
        })
    }

    fn put(
        &self,
        key: &Key,
        entry: &Arc<Entry>,
    ) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        self.0.lock().unwrap().insert(*key.hash(), internals::encode(entry));
        None
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        self.0.lock().unwrap().remove(key.hash());
        Box::pin(async { Ok(()) })
    }
}

/// A GET request with the fields that most clients send.
pub(crate) fn request(path: &str) -> Request<Body> {
    let request = Request::get(path)
        .header(HOST, "shop.example")
        .header(USER_AGENT, "curl/8.5.0")
        .header("accept", "*/*");
    request.body(Body::empty()).unwrap_or_default()
}

/// What was answered from memory.
pub(crate) fn is_hit(response: &Response<Bytes>) -> bool {
    let status = response.headers().get("cache-status").and_then(|status| status.to_str().ok());
    status.is_some_and(|status| status.contains("; hit;")) && response.body().len() == 1024
}

/// How many requests wait for one answer in a flight.
pub(crate) const FOLLOWERS: usize = 100;

/// Many at once for one key that is not there: one makes it.
pub(crate) fn flight(app: &App, key: &Key, policy: &ValuePolicy) -> usize {
    let runs = std::sync::atomic::AtomicUsize::new(0);
    let load = || async {
        runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        tokio::task::yield_now().await;
        Ok::<_, ()>(1_u64)
    };
    app.block_on(async {
        let all = (0..FOLLOWERS).map(|_| app.cache.get_or_load(key, policy, load));
        futures_util::future::join_all(all).await
    });
    runs.into_inner()
}

pub(crate) fn policy() -> Policy {
    Policy::ttl(Duration::from_secs(3600)).tag("all").untracked()
}

pub(crate) fn values() -> ValuePolicy {
    ValuePolicy::ttl(Duration::from_secs(3600)).tag("all").untracked().build().unwrap()
}

/// An entry with a body of so many bytes and so many tags, of which one is `tag-0`, and the cache that it is in.
pub(crate) fn entry(size: usize, tags: usize) -> Result<(Cache, Arc<Entry>), Failure> {
    let app = App::bare()?;
    let cache = Cache::new(Memory::new(1 << 30));
    let policy = ValuePolicy::ttl(Duration::from_secs(3600)).untracked().build()?;
    let policy = policy.with_tags((0..tags).map(|at| format!("tag-{at}")));
    let key = Key::new("entry").finish();
    let load = async || Ok::<_, ()>("x".repeat(size));
    app.block_on(cache.get_or_load(&key, &policy, load)).map_err(|()| "no value")?;
    let entry = app.block_on(internals::stored(&cache, &key)).ok_or("it was not stored")?;
    assert_eq!(entry.tags().len(), tags);
    Ok((cache, entry))
}

/// A cache with so many entries that all carry the tag `all`.
pub(crate) fn carried(entries: u64) -> Cache {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (cache, policy) = (Cache::new(Memory::new(4 << 30)), values());
    runtime.block_on(async {
        for at in 0..entries {
            let key = Key::new("carried").part(at.to_le_bytes()).finish();
            let load = async || Ok::<_, ()>(at);
            cache.get_or_load(&key, &policy, load).await.unwrap();
        }
    });
    let kept = cache.store_status().memory.unwrap();
    assert_eq!(kept.entries, entries);
    cache
}
