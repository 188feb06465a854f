//! Bodies on their way through the layer.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{eventually, fetch, send};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use bytes::Bytes;
use futures_util::future::{join, join_all};
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tidegate::{Cache, CacheLayer, Event, Memory, Policy};
use tokio::sync::Semaphore;
use tokio::time::Instant;

const TTL: Duration = Duration::from_mins(1);

fn get() -> Request<Body> {
    Request::get("/").body(Body::empty()).unwrap()
}

/// A handler whose body comes in parts of `part` bytes, each when the gate lets it through; how often
/// it ran; and the layer around it.
struct Slow {
    app: Router,
    cache: Cache,
    gate: Arc<Semaphore>,
    runs: Arc<AtomicUsize>,
}

fn slow(parts: usize, part: usize, layer: impl FnOnce(Cache) -> CacheLayer) -> Slow {
    let (gate, runs) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let handler = {
        let (gate, runs) = (gate.clone(), runs.clone());
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
            let frames = stream::unfold((0, gate), move |(sent, gate)| async move {
                (sent < parts).then_some(())?;
                gate.acquire().await.unwrap().forget();
                Some((Ok::<_, Infallible>(Bytes::from(vec![b'x'; part])), (sent + 1, gate)))
            });
            std::future::ready(Body::from_stream(frames))
        }
    };
    let cache = Cache::new(Memory::new(16 << 20));
    let app = Router::new().fallback(handler).layer(layer(cache.clone()));
    Slow { app, cache, gate, runs }
}

#[tokio::test]
async fn a_client_that_disconnects_midway_does_not_cancel_the_fill() {
    let slow = slow(3, 10, |cache| CacheLayer::with_policy(cache, Policy::ttl(TTL)));
    let mut response = send(&slow.app, get()).await;
    slow.gate.add_permits(1);
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    slow.gate.add_permits(2);
    let stored = async || slow.cache.counters().event(Event::Stored) == 1;
    eventually("the response is stored", stored).await;
    assert_eq!(fetch(&slow.app, "/").await.0.len(), 30);
    assert_eq!(slow.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn with_finish_zero_the_fill_ends_when_the_client_disconnects() {
    let policy = Policy::ttl(TTL).finish(Duration::ZERO);
    let slow = slow(2, 10, |cache| CacheLayer::with_policy(cache, policy));
    let mut response = send(&slow.app, get()).await;
    slow.gate.add_permits(1);
    response.body_mut().frame().await.unwrap().unwrap();
    drop(response);
    slow.gate.add_permits(10);
    assert_eq!(fetch(&slow.app, "/").await.0.len(), 20);
    assert_eq!(slow.runs.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn an_endless_body_is_dropped_some_time_after_its_client_disconnects() {
    let slow = slow(2, 10, |cache| CacheLayer::with_policy(cache, Policy::ttl(TTL)));
    let before = Arc::strong_count(&slow.gate);
    drop(send(&slow.app, get()).await);
    assert!(Arc::strong_count(&slow.gate) > before, "the rest is still waited for");
    let dropped = async || Arc::strong_count(&slow.gate) == before;
    eventually("the body is dropped", dropped).await;
    assert_eq!(slow.cache.counters().event(Event::Stored), 0);
}

#[tokio::test]
async fn a_body_past_the_byte_budget_is_not_stored_and_releases_its_bytes() {
    let layer = |cache| CacheLayer::with_policy(cache, Policy::ttl(TTL)).buffer_limit(25);
    let slow = slow(3, 10, layer);
    slow.gate.add_permits(6);
    let (body, status) = fetch(&slow.app, "/").await;
    assert!(body.len() == 30 && status.contains("buffer-limit"), "{status}");
    assert_eq!(
        fetch(&slow.app, "/").await.0.len(),
        30,
        "the room was given back, and nothing stored"
    );
    assert_eq!(slow.cache.counters().event(Event::Stored), 0);
}

#[tokio::test]
async fn trailers_are_stored_and_served_on_a_hit() {
    let handler = || {
        let trailers = HeaderMap::from_iter([("sum".parse().unwrap(), "7".parse().unwrap())]);
        let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
        let frames = stream::iter(frames.map(Ok::<_, Infallible>));
        std::future::ready(Body::new(StreamBody::new(frames)))
    };
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache, Policy::ttl(TTL));
    let app = Router::new().fallback(handler).layer(layer);
    for expected in ["stored", "hit"] {
        let response = send(&app, get()).await;
        assert!(response.headers()["cache-status"].to_str().unwrap().contains(expected));
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()["sum"], "7");
        assert_eq!(collected.to_bytes(), "body");
    }
}

#[tokio::test]
async fn a_body_shorter_than_its_content_length_is_not_stored() {
    let handler = || std::future::ready(([("content-length", "10")], Body::from("short")));
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL));
    let app = Router::new().fallback(handler).layer(layer);
    let (_, status) = fetch(&app, "/").await;
    assert!(status.contains("incomplete"), "{status}");
    assert_eq!(cache.counters().event(Event::Stored), 0);
}

#[tokio::test]
async fn a_body_longer_than_its_content_length_is_never_stored_past_it() {
    let status = async |frames: [&'static str; 2]| {
        let body = move || Body::from_stream(stream::iter(frames.map(Ok::<_, Infallible>)));
        let handler = move || std::future::ready(([("content-length", "4")], body()));
        let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), Policy::ttl(TTL));
        let app = Router::new().fallback(handler).layer(layer);
        assert_eq!(fetch(&app, "/").await.0, frames.concat());
        fetch(&app, "/").await
    };
    let (body, at_a_frame) = status(["body", " and more"]).await;
    assert!(body == "body" && at_a_frame.contains("; hit;"), "{body} {at_a_frame}");
    let (body, within_a_frame) = status(["bo", "dy and more"]).await;
    assert!(body == "body and more" && !within_a_frame.contains("; hit;"), "{within_a_frame}");
}

#[tokio::test]
async fn a_body_of_known_length_is_stored_before_its_client_polls_the_end() {
    let slow = slow(1, 10, |cache| CacheLayer::with_policy(cache, Policy::ttl(TTL)));
    let length = ("content-length", "10");
    let sized = {
        let app = slow.app.clone();
        let cache = Cache::new(Memory::new(1 << 20));
        let layer = CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL));
        let handler = move || {
            let app = app.clone();
            async move { ([length], send(&app, get()).await.into_body()) }
        };
        (Router::new().fallback(handler).layer(layer), cache)
    };
    let mut response = send(&sized.0, get()).await;
    slow.gate.add_permits(1);
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(sized.1.counters().event(Event::Stored), 1, "though the end was not polled");
}

#[tokio::test]
async fn a_post_passes_through_with_its_trailers_in_both_directions() {
    // As gRPC does: a stream up, a stream down, and the status in the trailers.
    let handler = |request: Request<Body>| async move {
        let sent = request.into_body().collect().await.unwrap();
        let trailers = sent.trailers().cloned().unwrap_or_default();
        let frames = [Frame::data(sent.to_bytes()), Frame::trailers(trailers)];
        (
            [("content-type", "application/grpc")],
            Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>)))),
        )
    };
    for policy in [Policy::ttl(TTL), Policy::standard()] {
        let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy);
        let app = Router::new().fallback(handler).layer(layer);
        for _ in 0..2 {
            let trailers =
                HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
            let frames = [Frame::data(Bytes::from_static(b"message")), Frame::trailers(trailers)];
            let body = Body::new(StreamBody::new(stream::iter(frames.map(Ok::<_, Infallible>))));
            let call =
                Request::post("/health.Health/Check").header("content-type", "application/grpc");
            let response = send(&app, call.body(body).unwrap()).await;
            let collected = response.into_body().collect().await.unwrap();
            assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
            assert_eq!(collected.to_bytes(), "message");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stalled_reader_blocks_no_other_fill_and_loses_its_own() {
    let cache = Cache::with_limits(Memory::new(16 << 20), 1 << 16, 1);
    let gate = Arc::new(Semaphore::new(0));
    let handler = {
        let gate = gate.clone();
        move |uri: axum::http::Uri| {
            let frames = stream::unfold((0, gate), move |(sent, gate)| async move {
                (sent < 2).then_some(())?;
                gate.acquire().await.unwrap().forget();
                Some((Ok::<_, Infallible>(Bytes::from_static(b"part")), (sent + 1, gate)))
            });
            let is_slow = uri.path() == "/slow";
            std::future::ready(if is_slow {
                Body::from_stream(frames)
            } else {
                Body::from("quick")
            })
        }
    };
    let layer = CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL)).buffer_limit(64);
    let app = Router::new().fallback(handler).layer(layer);
    let slow = || Request::get("/slow").body(Body::empty()).unwrap();
    let mut standing = send(&app, slow()).await;
    assert_eq!(cache.loads(), 0, "a body that streams has no place among the makers");
    assert_eq!(fetch(&app, "/quick").await.0, "quick");

    // Nothing is read, so nothing is polled; still it is not kept for ever.
    gate.add_permits(1);
    standing.body_mut().frame().await.unwrap().unwrap();
    tokio::time::advance(Duration::from_secs(31)).await;
    let given_up = async || cache.counters().event(Event::NotStored) == 1;
    eventually("it is given up", given_up).await;
    gate.add_permits(1);
    let rest = standing.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(rest, "part", "the client gets it all the same");
    assert_eq!(cache.counters().event(Event::Stored), 1, "the quick one");
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_response_counts_from_its_head() {
    let slow = slow(1, 10, |cache| CacheLayer::with_policy(cache, Policy::ttl(TTL)));
    let response = send(&slow.app, get()).await;
    tokio::time::advance(Duration::from_secs(20)).await;
    slow.gate.add_permits(1);
    response.into_body().collect().await.unwrap();
    let hit = send(&slow.app, get()).await;
    assert_eq!(hit.headers()["age"], "20");
    tokio::time::advance(Duration::from_secs(40)).await;
    slow.gate.add_permits(1);
    fetch(&slow.app, "/").await;
    assert_eq!(slow.runs.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_response_that_sets_a_cookie_in_its_trailers_is_not_stored() {
    let handler = || {
        let trailers =
            HeaderMap::from_iter([("set-cookie".parse().unwrap(), "a=1".parse().unwrap())]);
        let frames = [Frame::data(Bytes::from_static(b"body")), Frame::trailers(trailers)];
        let frames = stream::iter(frames.map(Ok::<_, Infallible>));
        std::future::ready(Body::new(StreamBody::new(frames)))
    };
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL));
    let app = Router::new().fallback(handler).layer(layer);
    let (body, status) = fetch(&app, "/").await;
    assert!(body == "body" && status.contains("set-cookie"), "{status}");
    assert_eq!(cache.counters().event(Event::Stored), 0);
}

/// A response of seven bytes whose `Content-Length` does not announce that trailers follow.
fn sized(head: (&'static str, &'static str), trailer: (&'static str, &'static str)) -> Router {
    let trailers =
        HeaderMap::from_iter([(trailer.0.parse().unwrap(), HeaderValue::from_static(trailer.1))]);
    let handler = move || {
        let frames =
            [Frame::data(Bytes::from_static(b"message")), Frame::trailers(trailers.clone())];
        let frames = stream::iter(frames.map(Ok::<_, Infallible>));
        std::future::ready(([head, ("content-length", "7")], Body::new(StreamBody::new(frames))))
    };
    let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), Policy::ttl(TTL));
    Router::new().fallback(handler).layer(layer)
}

#[tokio::test]
async fn announced_trailers_count_before_a_response_of_known_length_is_stored() {
    let set_cookie = ("set-cookie", "a=1");
    for (head, trailer, expected) in [
        (("trailer", "grpc-status"), ("grpc-status", "5"), "grpc-status"),
        (("content-type", "application/grpc"), ("grpc-status", "5"), "grpc-status"),
        (("content-type", "Application/gRPC+proto"), ("grpc-status", "5"), "grpc-status"),
        (("content-type", "application/grpc-web; a=b"), set_cookie, "set-cookie"),
        (("trailer", "set-cookie"), set_cookie, "set-cookie"),
        (("trailer", "sum"), ("sum", "7"), "; hit;"),
        (("content-type", "application/grpc"), ("grpc-status", "0"), "; hit;"),
    ] {
        let app = sized(head, trailer);
        fetch(&app, "/").await;
        let response = send(&app, get()).await;
        let status = response.headers()["cache-status"].to_str().unwrap().to_owned();
        assert!(status.contains(expected), "{head:?} {trailer:?}: {status}");
        let collected = response.into_body().collect().await.unwrap();
        assert_eq!(collected.trailers().unwrap()[trailer.0], trailer.1, "{head:?}");
    }
}

/// As a server does by HTTP/1.1, at the last byte that the length promises.
#[tokio::test]
async fn a_response_is_stored_with_its_announced_trailers_though_the_client_stops_before_them() {
    let handler = || {
        let trailers = HeaderMap::from_iter([("sum".parse().unwrap(), "7".parse().unwrap())]);
        let last = async {
            tokio::task::yield_now().await;
            Frame::trailers(trailers)
        };
        let first = stream::iter([Frame::data(Bytes::from_static(b"message"))]);
        let frames = first.chain(stream::once(last)).map(Ok::<_, Infallible>);
        let head = [("trailer", "sum"), ("content-length", "7")];
        std::future::ready((head, Body::new(StreamBody::new(frames))))
    };
    let cache = Cache::new(Memory::new(1 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), Policy::ttl(TTL));
    let app = Router::new().fallback(handler).layer(layer);
    let mut response = send(&app, get()).await;
    response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(cache.counters().event(Event::Stored), 0, "the trailers are to come");
    drop(response);
    eventually("it is stored", async || cache.counters().event(Event::Stored) == 1).await;
    let hit = send(&app, get()).await;
    assert!(hit.headers()["cache-status"].to_str().unwrap().contains("; hit;"));
    assert_eq!(hit.into_body().collect().await.unwrap().trailers().unwrap()["sum"], "7");
}

/// A gRPC response whose head or trailers have this status.
fn grpc(in_head: Option<&'static str>, in_trailers: Option<&'static str>) -> Response<Body> {
    let fields = |status| {
        HeaderMap::from_iter([("grpc-status".parse().unwrap(), HeaderValue::from_static(status))])
    };
    let data = Frame::data(Bytes::from_static(b"message"));
    let frames =
        [data].into_iter().chain(in_trailers.map(|status| Frame::trailers(fields(status))));
    let frames = frames.map(Ok::<_, Infallible>).collect::<Vec<_>>();
    let mut response = Response::new(Body::new(StreamBody::new(stream::iter(frames))));
    response.headers_mut().extend(in_head.map(fields).unwrap_or_default());
    response.headers_mut().insert("cache-control", HeaderValue::from_static("max-age=60"));
    response
}

#[tokio::test]
async fn a_response_whose_grpc_status_is_an_error_is_not_stored() {
    for policy in [Policy::ttl(TTL), Policy::standard()] {
        for (in_head, in_trailers, is_stored) in [
            (Some("0"), None, true),
            (None, Some("0"), true),
            (Some("14"), None, false),
            (None, Some("5"), false),
            (Some("0"), Some("1"), false),
            (None, Some("OK"), false),
        ] {
            let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy.clone());
            let handler = move || std::future::ready(grpc(in_head, in_trailers));
            let app = Router::new().fallback(handler).layer(layer);
            for _ in 0..2 {
                fetch(&app, "/").await;
            }
            let (body, status) = fetch(&app, "/").await;
            let expected = if is_stored { "; hit;" } else { "grpc-status" };
            assert!(
                body == "message" && status.contains(expected),
                "{in_head:?} {in_trailers:?}: {status}"
            );
        }
    }
}

/// A client can provoke such an error, by a deadline for example.
#[tokio::test(start_paused = true)]
async fn a_grpc_error_removes_no_stored_response_and_stops_no_sharing() {
    for (in_head, in_trailers) in [(Some("4"), None), (None, Some("4"))] {
        let runs = Arc::new(AtomicUsize::new(0));
        let counted = runs.clone();
        let handler = move || {
            let fails = counted.fetch_add(1, Ordering::SeqCst) == 1;
            async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                if fails { grpc(in_head, in_trailers) } else { grpc(None, Some("0")) }
            }
        };
        let policy = Policy::ttl(TTL).jitter(0.0).stale_if_error(TTL * 10);
        let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy);
        let app = Router::new().fallback(handler).layer(layer);
        fetch(&app, "/").await;
        tokio::time::advance(TTL + Duration::from_secs(1)).await;
        assert!(fetch(&app, "/").await.1.contains("grpc-status"));
        let (one, other) = join(fetch(&app, "/"), fetch(&app, "/")).await;
        let status = format!("{} {}", one.1, other.1);
        assert!(status.contains("expired") && status.contains("collapsed"), "{status}");
        assert_eq!(runs.load(Ordering::SeqCst), 3, "{in_head:?}");
    }
}

/// Another status than 200 is not that of a call that failed, but of the route.
#[tokio::test(start_paused = true)]
async fn a_grpc_error_with_another_http_status_stops_waiting_as_any_response_does() {
    for (in_head, in_trailers) in [(Some("7"), None), (None, Some("7"))] {
        let handler = move || async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let mut response = grpc(in_head, in_trailers);
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        };
        let policy = Policy::ttl(TTL).jitter(0.0).negative_ttl(TTL);
        let layer = CacheLayer::with_policy(Cache::new(Memory::new(1 << 20)), policy);
        let app = Router::new().fallback(handler).layer(layer);
        let began = Instant::now();
        let all = join_all((0..10).map(|_| fetch(&app, "/"))).await;
        assert!(all.iter().all(|(_, status)| status.contains("grpc-status")), "{all:?}");
        // The others run together after the first.
        assert_eq!(began.elapsed(), Duration::from_secs(2), "{in_head:?} {in_trailers:?}");
    }
}

/// A route with an entity tag whose body comes in two parts, the second after a second.
fn in_two_parts(policy: Policy) -> (Router, Cache) {
    let handler = move || {
        let parts = stream::iter([0, 1]).then(async |pause| {
            tokio::time::sleep(Duration::from_secs(pause)).await;
            Ok::<_, Infallible>("part")
        });
        let response = Response::builder().header("etag", "\"v1\"");
        let response = response.header("cache-control", "max-age=600");
        std::future::ready(response.body(Body::from_stream(parts)).unwrap())
    };
    let cache = Cache::new(Memory::new(16 << 20));
    let layer = CacheLayer::with_policy(cache.clone(), policy);
    (Router::new().fallback(handler).layer(layer), cache)
}

/// RFC 9110, section 13.2.1.
#[tokio::test(start_paused = true)]
async fn a_matching_if_none_match_gets_a_304_before_the_body_has_come() {
    let has =
        |tag: &str| Request::get("/").header("if-none-match", tag).body(Body::empty()).unwrap();
    for policy in [Policy::ttl(TTL * 10), Policy::standard()] {
        for policy in [policy.clone(), policy.clone().finish(Duration::ZERO)] {
            let (app, _) = in_two_parts(policy.clone());
            assert_eq!(send(&app, has("\"v0\"")).await.status(), StatusCode::OK);
            let (app, cache) = in_two_parts(policy.clone());
            let (began, response) = (Instant::now(), send(&app, has("\"v1\"")).await);
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{policy:?}");
            assert_eq!(response.headers()["etag"], "\"v1\"");
            assert_eq!(began.elapsed(), Duration::ZERO);
            assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(cache.counters().event(Event::Stored), 1, "{policy:?}");
            let (body, status) = fetch(&app, "/").await;
            assert!(body == "partpart" && status.contains("hit"), "{status}");
        }
        let (app, _) = in_two_parts(policy.body_limit(2));
        assert_eq!(send(&app, has("\"v1\"")).await.status(), StatusCode::NOT_MODIFIED);
    }
}
