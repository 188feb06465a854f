//! The layer around services that are not axum's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use tidegate::{Cache, CacheLayer, Memory, Policy};
use tower::{Layer, Service, ServiceExt};

const TTL: Duration = Duration::from_secs(60);

/// An error of the service's own, as few handlers and many clients have one.
#[derive(Debug, PartialEq)]
struct Refused(&'static str);

/// A service that is ready on demand, fails at first, and insists on being polled ready.
#[derive(Default)]
struct Fussy {
    open: Arc<AtomicBool>,
    runs: Arc<AtomicUsize>,
    polled: bool,
}

impl Clone for Fussy {
    fn clone(&self) -> Self {
        Self { open: self.open.clone(), runs: self.runs.clone(), polled: false }
    }
}

impl Service<Request<Empty<Bytes>>> for Fussy {
    type Response = Response<Full<Bytes>>;
    type Error = Refused;
    type Future = BoxFuture<'static, Result<Self::Response, Refused>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Refused>> {
        self.polled = self.open.load(Ordering::SeqCst);
        if self.polled { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn call(&mut self, _: Request<Empty<Bytes>>) -> Self::Future {
        assert!(std::mem::take(&mut self.polled), "called without having been ready");
        let run = self.runs.fetch_add(1, Ordering::SeqCst) + 1;
        Box::pin(async move {
            match run {
                1 => Err(Refused("not yet")),
                _ => Ok(Response::new(Full::from(format!("run {run}")))),
            }
        })
    }
}

fn request(path: &str) -> Request<Empty<Bytes>> {
    Request::get(path).body(Empty::new()).unwrap()
}

#[tokio::test]
async fn readiness_errors_and_bodies_are_those_of_the_inner_service() {
    let fussy = Fussy::default();
    let (open, runs) = (fussy.open.clone(), fussy.runs.clone());
    let cache = Cache::new(Memory::new(1 << 20));
    let mut service = CacheLayer::with_policy(cache, Policy::ttl(TTL)).layer(fussy);
    assert!(service.ready().now_or_never().is_none(), "not ready while the service is not");
    open.store(true, Ordering::SeqCst);
    let failed = service.ready().await.unwrap().call(request("/a")).await;
    assert_eq!(failed.unwrap_err(), Refused("not yet"));
    for _ in 0..3 {
        let response = service.ready().await.unwrap().call(request("/a")).await.unwrap();
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "run 2");
    }
    let response = service.ready().await.unwrap().call(request("/b")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "run 3");
    assert_eq!(runs.load(Ordering::SeqCst), 3);
}
