//! Renewals after a failover, which a test of the layer can't cause.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Mutex;

use http::Request;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::entry::{Epoch, Position};
use crate::middleware::CacheLayer;
use crate::{Memory, Policy};

const HOUR: Duration = Duration::from_hours(1);

/// The bodies that a client gets from a handler that gives these responses: before a failover, then while the second
/// one is computed in the background, and after that.
async fn around_failover(policy: Policy, status: u16, header: (&str, &str)) -> [Bytes; 3] {
    let response = |status: u16, (name, value): (&str, &str), body: &'static str| {
        let response = Response::builder().status(status).header(name, value);
        response.body(axum::body::Body::from(body)).unwrap()
    };
    let script = Mutex::new(VecDeque::from([
        response(200, ("cache-control", "max-age=3600"), "one"),
        response(status, header, "two"),
    ]));
    let script = Arc::new(script);
    let handler = tower::service_fn({
        let script = script.clone();
        move |_: Request<axum::body::Body>| {
            let next = script.lock().unwrap().pop_front();
            let next = next.unwrap_or_else(|| response(200, ("a", "b"), "three"));
            std::future::ready(Ok::<_, Infallible>(next))
        }
    });
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), policy);
    let service = tower::Layer::layer(&layer, handler);
    let get = async || {
        let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
        let response = service.clone().oneshot(request).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    };
    let first = get().await;
    let fences = &cache.shared.fences;
    let next = Epoch::new(fences.epoch().get() ^ (1 << 40));
    fences.begin(next, Position::new(1), []);
    fences.confirm(Position::new(2), clock::moment());
    let second = get().await;
    while !script.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    tokio::task::yield_now().await;
    [first, second, get().await]
}

fn policies() -> [Policy; 2] {
    [Policy::ttl(HOUR).jitter(0.0), Policy::standard()].map(Policy::stale_after_failover)
}

#[tokio::test(start_paused = true)]
async fn a_renewal_after_a_failover_removes_the_superseded_response() {
    for policy in policies() {
        for (status, header) in [
            (404, ("cache-control", "no-store")),
            (403, ("cache-control", "no-store")),
            (302, ("location", "/elsewhere")),
            (200, ("cache-control", "private")),
            (200, ("cache-control", "no-store")),
        ] {
            let bodies = around_failover(policy.clone(), status, header).await;
            assert_eq!(bodies, ["one", "one", "three"], "{status} {header:?} {policy:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_renewal_after_a_failover_keeps_the_stored_response() {
    for policy in policies() {
        for status in [400, 500, 503] {
            let header = ("cache-control", "max-age=60");
            let bodies = around_failover(policy.clone(), status, header).await;
            assert_eq!(bodies, ["one", "one", "one"], "{status} {policy:?}");
        }
    }
}
