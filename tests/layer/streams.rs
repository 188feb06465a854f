//! Bodies that come bit by bit, and who waits for them.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use http_body_util::BodyExt;
use tidegate::{Cache, CacheLayer, Event, Memory, Policy};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{fetch, send};

const SECOND: Duration = Duration::from_secs(1);

/// So long that a test which waits for it shows it.
const WAIT: Duration = Duration::from_hours(1);

/// Frames, each after a pause; `None` at the end if there is one.
type Pauses = &'static [u64];

/// A route whose body comes in frames, each after so many milliseconds, and then stays open if `is_endless`.
fn streaming(
    pauses: Pauses,
    is_endless: bool,
    content_type: &'static str,
) -> (Router, Cache, Arc<AtomicUsize>) {
    let (cache, runs) = (Cache::new(Memory::new(16 << 20)), Arc::new(AtomicUsize::new(0)));
    let counted = runs.clone();
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        let frames = stream::unfold(0, move |sent| async move {
            let Some(pause) = pauses.get(sent) else {
                if is_endless {
                    std::future::pending::<()>().await;
                }
                return None;
            };
            if *pause > 0 {
                sleep(Duration::from_millis(*pause)).await;
            }
            Some((Ok::<_, Infallible>(Bytes::from_static(b"part\n")), sent + 1))
        });
        let response = Response::builder().header("content-type", content_type);
        std::future::ready(response.body(Body::from_stream(frames)).unwrap())
    };
    let policy = Policy::ttl(WAIT * 24).wait(WAIT).jitter(0.0).early_refresh(0.0);
    let app = Router::new().fallback(handler).layer(CacheLayer::with_policy(cache.clone(), policy));
    (app, cache, runs)
}

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

/// Asks, and waits for the first frame; the rest is still to come.
async fn first_frame(app: &Router) -> Response<Body> {
    let mut response = send(app, get()).await;
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap(), "part\n");
    response
}

#[tokio::test(start_paused = true)]
async fn waiters_for_a_streaming_response_proceed_at_its_first_byte() {
    for pauses in [&[0][..], &[2000], &[2000, 50], &[0, 60, 60, 60]] {
        let (app, _, runs) = streaming(pauses, true, "application/x-ndjson");
        let began = Instant::now();
        let all = timeout(WAIT / 2, join_all((0..100).map(|_| first_frame(&app)))).await;
        let open = all.expect("nobody waits for the end of a stream that has none");
        // The first byte of the first, a moment, and their own first byte.
        let first = Duration::from_millis(pauses[0]);
        assert!(began.elapsed() <= first * 2 + SECOND / 5, "{pauses:?}: {:?}", began.elapsed());
        assert_eq!(runs.load(Ordering::SeqCst), 100);

        let began = Instant::now();
        first_frame(&app).await;
        assert_eq!(began.elapsed(), first, "whoever comes later waits for nobody");
        drop(open);
    }
}

#[tokio::test(start_paused = true)]
async fn a_fast_body_of_unknown_length_is_shared() {
    for pauses in [&[0][..], &[5000], &[5000, 30, 30, 30], &[0, 90]] {
        let (app, cache, runs) = streaming(pauses, false, "application/json");
        let all = join_all((0..100).map(|_| fetch(&app, "/"))).await;
        assert!(all.iter().all(|(body, _)| *body == "part\n".repeat(pauses.len())));
        assert_eq!(runs.load(Ordering::SeqCst), 1, "{pauses:?}");
        assert_eq!(cache.counters().event(Event::Stored), 1);
    }
}

/// It takes its time, and is kept all the same.
#[tokio::test(start_paused = true)]
async fn a_streaming_body_is_stored_at_its_end() {
    let (app, _, runs) = streaming(&[0, 400, 400], false, "application/x-ndjson");
    let (first, second) = tokio::join!(fetch(&app, "/"), fetch(&app, "/"));
    assert_eq!(first.0, second.0);
    assert_eq!(runs.load(Ordering::SeqCst), 2);
    assert!(fetch(&app, "/").await.1.contains("hit"));
    assert_eq!(runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn endless_streams_are_never_shared() {
    for content_type in [
        "text/event-stream",
        "Text/Event-Stream; charset=utf-8",
        "multipart/x-mixed-replace; boundary=frame",
        "multipart/mixed; boundary=\"graphql\"; subscriptionSpec=1.0",
    ] {
        let (app, cache, runs) = streaming(&[0, 0], true, content_type);
        let began = Instant::now();
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(first_frame(&app).await);
        }
        let status = open[0].headers()["cache-status"].to_str().unwrap();
        assert!(status.contains("endless"), "{status}");
        let more = join_all((0..100).map(|_| first_frame(&app))).await;
        assert_eq!((began.elapsed(), runs.load(Ordering::SeqCst)), (Duration::ZERO, 103));
        assert_eq!(cache.loads(), 0);
        drop((open, more));
        assert!(!ask_twice(&app).await, "nor when they have ended");
    }
}

/// Whether the second of two requests finds an entry.
async fn ask_twice(app: &Router) -> bool {
    drop(first_frame(app).await);
    sleep(SECOND * 60).await;
    first_frame(app).await.headers()["cache-status"].to_str().unwrap().contains("hit")
}
