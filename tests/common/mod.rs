//! What the tests of the whole path have in common.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test binary uses a part")]

#[cfg(feature = "admin")]
pub(crate) mod admin;
#[cfg(feature = "redis")]
pub(crate) mod entries;
#[cfg(feature = "postgres")]
pub(crate) mod followed;
pub(crate) mod hooked;
pub(crate) mod origin;
#[cfg(feature = "postgres")]
pub(crate) mod shop;
pub(crate) mod warnings;

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use http_body_util::BodyExt;
use tidegate::{Cache, Memory, Policy, ValuePolicy};
use tower::ServiceExt;

/// A cache in memory that follows no log.
pub(crate) fn cache() -> Cache {
    Cache::new(Memory::new(16 << 20))
}

/// A policy that sets the lifetime of responses: a minute.
pub(crate) fn ttl() -> Policy {
    Policy::ttl(Duration::from_mins(1)).jitter(0.0)
}

/// A policy that sets the lifetime, and one under which each response sets its own.
pub(crate) fn both_policies() -> [Policy; 2] {
    [ttl(), Policy::standard()]
}

/// A policy for values that are stored for ten minutes.
pub(crate) fn values() -> ValuePolicy {
    ValuePolicy::ttl(Duration::from_mins(10)).jitter(0.0).early_refresh(0.0).build().unwrap()
}

/// Sends a request through a router.
pub(crate) async fn send(app: &Router, request: Request<Body>) -> Response<Body> {
    app.clone().oneshot(request).await.unwrap()
}

/// The body and the `Cache-Status` of a response to a GET.
pub(crate) async fn fetch(app: &Router, uri: &str) -> (String, String) {
    exchange(app, Request::get(uri).body(Body::empty()).unwrap()).await
}

/// The body and the `Cache-Status` of a response to a GET with these headers.
pub(crate) async fn fetch_with(
    app: &Router,
    uri: &str,
    headers: &[(&str, &str)],
) -> (String, String) {
    exchange(app, origin::by(Method::GET, uri, headers)).await
}

/// The body and the `Cache-Status` of the response to a request.
pub(crate) async fn exchange(app: &Router, request: Request<Body>) -> (String, String) {
    read(send(app, request).await).await
}

/// The body and the `Cache-Status` of a response.
pub(crate) async fn read(response: Response<Body>) -> (String, String) {
    let status = response.headers().get("cache-status").map(|s| s.to_str().unwrap().to_owned());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (String::from_utf8(body.to_vec()).unwrap(), status.unwrap_or_default())
}

/// How often Redis ran a command since its count began.
#[cfg(feature = "redis")]
pub(crate) async fn calls(server: &tidegate_testing::RedisServer, command: &str) -> usize {
    let stats = server.run::<String>(redis::cmd("INFO").arg("commandstats")).await.unwrap();
    let begin = format!("cmdstat_{command}:calls=");
    let rest = stats.lines().find_map(|line| line.strip_prefix(&begin));
    rest.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

/// An error with all its causes, as a log would show it.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Waits until a condition holds; fails if it does not within about 15 seconds.
pub(crate) async fn eventually(what: &str, holds: impl AsyncFnMut() -> bool) {
    eventually_within(Duration::from_secs(15), what, holds).await;
}

/// Waits until a condition holds; fails if it does not after checks with pauses that add up to this time.
pub(crate) async fn eventually_within(
    patience: Duration,
    what: &str,
    mut holds: impl AsyncFnMut() -> bool,
) {
    const PAUSE: Duration = Duration::from_millis(5);
    let mut paused = Duration::ZERO;
    while !holds().await {
        assert!(paused < patience, "never came true: {what}");
        tokio::time::sleep(PAUSE).await;
        paused += PAUSE;
    }
}

/// Waits until all other tasks wait for something. Only for tests with paused time, which moves only then.
pub(crate) async fn settled() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Waits until a node has begun and finished reading the log this many times.
#[cfg(feature = "postgres")]
pub(crate) async fn drains(cache: &tidegate::Cache, times: usize) {
    for _ in 0..times {
        let now = tokio::time::Instant::now();
        eventually("the node has read the log", async || {
            cache.fences().age().is_some_and(|age| age < now.elapsed())
        })
        .await;
    }
}

/// Runs a future to its end on a runtime whose tasks do not run any more from then on, until it is dropped.
pub(crate) fn standing_still<T: Send>(
    future: impl Future<Output = T> + Send,
) -> (T, StandingStill) {
    let run = || {
        let builder = &mut tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_all().build().unwrap();
        let output = runtime.block_on(future);
        (output, StandingStill(Some(runtime)))
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// A runtime that nobody drives.
pub(crate) struct StandingStill(Option<tokio::runtime::Runtime>);

impl Drop for StandingStill {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
