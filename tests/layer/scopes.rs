//! Caches within caches, without servers: what time bounds, what is served stale, and loads that request themselves.

use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::warnings::{all_warnings, keep_warnings, warnings};
use crate::common::{cache, fetch, read};
use axum::Router;
use axum::body::Body;
use axum::http::Request;
use axum::routing::get;
use futures_util::future::BoxFuture;
use tidegate::{
    BypassReason, Cache, CacheLayer, Event, Key, Outcome, Policy, Record, StaleReason, ValuePolicy,
    ValuePolicyBuilder,
};
use tokio::time::{Instant, advance};
use tower::buffer::Buffer;
use tower::{Layer, ServiceExt};

const SECOND: Duration = Duration::from_secs(1);

fn lasting(seconds: u64) -> Policy {
    Policy::ttl(SECOND * u32::try_from(seconds).unwrap()).jitter(0.0).early_refresh(0.0)
}

fn values(seconds: u64) -> ValuePolicyBuilder {
    ValuePolicy::ttl(SECOND * u32::try_from(seconds).unwrap()).jitter(0.0).early_refresh(0.0)
}

fn key(name: &str) -> Key {
    Key::new("scopes").part(name).finish()
}

/// A number that is another each time.
#[derive(Clone, Default)]
struct Counter(Arc<AtomicUsize>);

impl Counter {
    fn next(&self) -> usize {
        self.0.fetch_add(1, Ordering::SeqCst) + 1
    }
}

/// Ways to have an inner value that lasts five seconds.
const WAYS: [&str; 4] = ["one", "maybe", "many", "router"];

fn inner(cache: &Cache, counter: &Counter, way: &'static str) -> BoxFuture<'static, usize> {
    let (policy, key) = (values(5).build().unwrap(), key(way));
    let (cache, counter) = (cache.clone(), counter.clone());
    Box::pin(async move {
        match way {
            "one" => {
                let load = move || ready(Ok::<_, ()>(counter.next()));
                cache.get_or_load(&key, &policy, load).await.unwrap()
            }
            "maybe" => {
                let load = move || ready(Ok::<_, ()>(Some(counter.next())));
                cache.find_or_load(&key, &policy, load).await.unwrap().unwrap()
            }
            "many" => {
                let load = move |ids: Vec<i32>| {
                    let found = ids.into_iter().map(|id| (id, counter.next())).collect();
                    ready(Ok::<HashMap<_, _>, ()>(found))
                };
                let keys = move |_: &i32| key.clone();
                cache.get_many([1], keys, &policy, load).await.unwrap()[&1]
            }
            _ => {
                let handler = async move || counter.next().to_string();
                let layer = CacheLayer::with_policy(cache.clone(), lasting(5)).namespace("inner");
                let app = Router::new().route("/", get(handler)).layer(layer);
                fetch(&app, "/").await.0.parse().unwrap()
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn a_value_lasts_no_longer_than_the_shortest_lived_value_it_contains() {
    for way in WAYS {
        for head_start in [0, 3] {
            let (cache, counter) = (cache(), Counter::default());
            if head_start > 0 {
                inner(&cache, &counter, way).await;
                advance(SECOND * head_start).await;
            }
            let outer = async || {
                let compute = async || Ok::<_, ()>(inner(&cache, &counter, way).await);
                let middle = async || {
                    cache.get_or_load(&key("middle"), &values(600).build().unwrap(), compute).await
                };
                cache
                    .get_or_load(&key("outer"), &values(600).build().unwrap(), middle)
                    .await
                    .unwrap()
            };
            assert_eq!(outer().await, 1);
            advance((SECOND * (5 - head_start)).saturating_sub(Duration::from_millis(1))).await;
            assert_eq!(outer().await, 1, "{way} lasts");
            advance(SECOND).await;
            assert_eq!(outer().await, 2, "{way}, {head_start} seconds old when it was used");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_route_lasts_no_longer_than_the_values_it_contains() {
    for way in WAYS {
        let (cache, counter) = (cache(), Counter::default());
        let handler = {
            let (cache, counter) = (cache.clone(), counter.clone());
            async move || inner(&cache, &counter, way).await.to_string()
        };
        let app = Router::new()
            .route("/", get(handler))
            .layer(CacheLayer::with_policy(cache, lasting(600)));
        assert_eq!(fetch(&app, "/").await.0, "1");
        let status = fetch(&app, "/").await.1;
        assert!(status.contains("hit; ttl=5"), "{status}");
        advance(SECOND * 6).await;
        assert_eq!(fetch(&app, "/").await.0, "2", "{way}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outer_value_inherits_the_tags_of_its_inner_values() {
    let (cache, counter) = (cache(), Counter::default());
    let tagged = values(600).tag("prices").build().unwrap();
    let outer = async || {
        let compute = async || {
            let load = async || Ok::<_, ()>(counter.next());
            cache.get_or_load(&key("inner"), &tagged, load).await
        };
        cache.get_or_load(&key("outer"), &values(600).build().unwrap(), compute).await.unwrap()
    };
    let found = async || {
        cache.get_or_load(&key("inner"), &tagged, async || Ok::<_, ()>(counter.next())).await
    };
    for round in 1..4 {
        if round > 1 {
            // This time it is there.
            found().await.unwrap();
        }
        assert_eq!((outer().await, outer().await), (round, round));
        cache.invalidate(["prices"]).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_computed_from_a_stale_value_is_not_stored() {
    let (cache, counter) = (cache(), Counter::default());
    let policy = values(5).stale_if_error(SECOND * 600).build().unwrap();
    let outer = async || {
        let compute = async || {
            let load = async || match counter.next() {
                1 => Ok(1),
                later if later < 4 => Err("down"),
                later => Ok(later),
            };
            cache.get_or_load(&key("inner"), &policy, load).await
        };
        cache.get_or_load(&key("outer"), &values(600).build().unwrap(), compute).await
    };
    assert_eq!(outer().await, Ok(1));
    advance(SECOND * 6).await;
    assert_eq!((outer().await, outer().await), (Ok(1), Ok(1)), "while it is down");
    assert_eq!(outer().await, Ok(4));
    assert_eq!(outer().await, Ok(4));
}

/// A route within a route, whose responses are served stale while they are recomputed.
#[tokio::test(start_paused = true)]
async fn a_response_computed_from_a_stale_response_is_not_stored() {
    let (cache, counter) = (cache(), Counter::default());
    let number = {
        let counter = counter.clone();
        async move || counter.next().to_string()
    };
    let policy = lasting(5).stale_while_revalidate(SECOND * 600);
    let layer = CacheLayer::with_policy(cache.clone(), policy).namespace("inner");
    let within = Router::new().route("/", get(number)).layer(layer);
    let handler = async move || fetch(&within, "/").await.0;
    let layer = CacheLayer::with_policy(cache.clone(), lasting(600));
    let app = Router::new().route("/", get(handler)).layer(layer);
    assert_eq!(fetch(&app, "/").await.0, "1");
    advance(SECOND * 6).await;
    assert_eq!(fetch(&app, "/").await.0, "1");
    let stale = Outcome::Stale(StaleReason::Revalidating);
    assert_eq!(cache.counters().outcome(stale), 1);
    crate::common::eventually("it is recomputed", async || counter.0.load(Ordering::SeqCst) == 2)
        .await;
    crate::common::eventually("it is shown", async || fetch(&app, "/").await.0 == "2").await;
}

#[tokio::test(start_paused = true)]
async fn background_work_is_not_part_of_the_scope_that_started_it() {
    let (cache, counter) = (cache(), Counter::default());
    let renewed = Arc::new(tokio::sync::Semaphore::new(0));
    let number = {
        let (counter, renewed) = (counter.clone(), renewed.clone());
        async move || {
            tokio::time::sleep(Duration::from_millis(10)).await;
            let number = counter.next();
            if number > 1 {
                // It writes: what it is part of is not kept.
                Record::current().unwrap().wrote();
                renewed.add_permits(1);
            }
            number.to_string()
        }
    };
    let policy = Policy::ttl(SECOND * 600).jitter(0.0).early_refresh(1e9);
    let layer = CacheLayer::with_policy(cache.clone(), policy).namespace("inner");
    let within = Router::new().route("/", get(number)).layer(layer);
    fetch(&within, "/").await;
    let handler = async move || {
        let number = fetch(&within, "/").await.0;
        renewed.acquire().await.unwrap().forget();
        number
    };
    let layer = CacheLayer::with_policy(cache.clone(), lasting(600));
    let app = Router::new().route("/", get(handler)).layer(layer);
    let (number, status) = fetch(&app, "/").await;
    assert!(number == "1" && status.contains("stored"), "{number}: {status}");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_loads_itself_is_detected_at_once() {
    let (cache, counter) = (cache(), Counter::default());
    let policy = values(600).wait(SECOND * 600).build().unwrap();
    let one = async || {
        let other = async || {
            let again = async || Ok::<_, ()>(counter.next());
            cache.get_or_load(&key("one"), &policy, again).await
        };
        cache.get_or_load(&key("other"), &policy, other).await
    };
    let began = Instant::now();
    assert_eq!(cache.get_or_load(&key("one"), &policy, one).await, Ok(1));
    let many = async |ids: Vec<i32>| {
        let again = async || Ok::<_, ()>(counter.next());
        let one = cache.get_or_load(&key("many"), &policy, again).await?;
        Ok::<_, ()>(ids.into_iter().map(|id| (id, one)).collect::<HashMap<_, _>>())
    };
    let found = cache.get_many([7], |_| key("many"), &policy, many).await.unwrap();
    assert_eq!(found[&7], 2);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(cache.counters().outcome(Outcome::Bypass(BypassReason::Recursive)), 2);
    assert_eq!(cache.counters().event(Event::Stored), 3);
}

#[tokio::test(start_paused = true)]
async fn a_route_that_calls_itself_is_detected_at_once() {
    fn call(app: &Router, uri: &str) -> BoxFuture<'static, String> {
        let (app, uri) = (app.clone(), uri.to_owned());
        Box::pin(async move { fetch(&app, &uri).await.0 })
    }
    let (cache, counter) = (cache(), Counter::default());
    let whole: Arc<std::sync::OnceLock<Router>> = Arc::default();
    let handler = {
        let (whole, counter) = (whole.clone(), counter.clone());
        async move || match counter.next() {
            1 => format!("({})", call(whole.get().unwrap(), "/").await),
            _ => "inside".to_owned(),
        }
    };
    let policy = lasting(600).wait(SECOND * 600);
    let app = Router::new().route("/", get(handler)).layer(CacheLayer::with_policy(cache, policy));
    whole.set(app.clone()).unwrap();
    let began = Instant::now();
    assert_eq!(fetch(&app, "/").await.0, "(inside)");
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// One cache, one policy and one key, twice around the same handler.
#[tokio::test(start_paused = true)]
async fn a_layer_applied_twice_is_detected_at_once() {
    let (cache, counter) = (cache(), Counter::default());
    let handler = {
        let counter = counter.clone();
        async move || counter.next().to_string()
    };
    let layer = CacheLayer::with_policy(cache.clone(), lasting(600).wait(SECOND * 600));
    let app = Router::new().route("/{name}", get(handler)).layer(layer.clone()).layer(layer);
    let began = Instant::now();
    let first = futures_util::future::join_all((0..100).map(|_| fetch(&app, "/a"))).await;
    assert!(first.iter().all(|(body, _)| body == "1"));
    assert_eq!(fetch(&app, "/a").await.0, "1");
    assert_eq!(cache.counters().outcome(Outcome::Hit(tidegate::Tier::Memory)), 100);
    // A request with HEAD takes other steps.
    let head = axum::http::Request::head("/b").body(axum::body::Body::empty()).unwrap();
    assert!(crate::common::send(&app, head).await.status().is_success());
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(cache.counters().outcome(Outcome::Bypass(BypassReason::Recursive)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_loader_that_requests_its_own_key_and_a_layer_applied_twice_are_warned_about() {
    const WHY: &str = "looks up the same key, directly or through others";
    keep_warnings();
    let (cache, counter) = (cache(), Counter::default());
    let (key, policy) = (key("requests itself"), values(600).build().unwrap());
    let load = async || {
        let again = async || Ok::<_, ()>(counter.next());
        cache.get_or_load(&key, &policy, again).await
    };
    cache.get_or_load(&key, &policy, load).await.unwrap();
    let named = format!("key={key} ");
    assert_eq!(warnings(&[&named, WHY]), 1, "{}", all_warnings());
    // The key of a request has no other name than its hash, which differs from that of every other test.
    let (before, layer) = (warnings(&[WHY]), CacheLayer::with_policy(cache, lasting(600)));
    let app = Router::new().route("/{name}", get(async || "")).layer(layer.clone()).layer(layer);
    fetch(&app, "/applied-twice").await;
    assert!(warnings(&[WHY]) > before, "{}", all_warnings());
}

#[tokio::test(start_paused = true)]
async fn a_value_that_loads_itself_in_a_task_is_detected_at_once() {
    let (cache, counter) = (cache(), Counter::default());
    let policy = values(600).wait(SECOND * 600).build().unwrap();
    for way in ["carried", "joined", "maybe", "many"] {
        let load = async || {
            let (cache, policy, counter) = (cache.clone(), policy.clone(), counter.clone());
            let again = async move {
                let load = async || Ok::<_, ()>(counter.next());
                cache.get_or_load(&key(way), &policy, load).await.unwrap()
            };
            let number = match way {
                "carried" => tokio::spawn(Record::carry(again)).await.unwrap(),
                "joined" => tokio::join!(again, ready(())).0,
                _ => again.await,
            };
            Ok::<_, ()>(number)
        };
        let began = Instant::now();
        let number = match way {
            "maybe" => {
                let load = async || load().await.map(Some);
                cache.find_or_load(&key(way), &policy, load).await.unwrap().unwrap()
            }
            "many" => {
                let load = async |ids: Vec<i32>| {
                    let number = load().await?;
                    Ok::<HashMap<_, _>, ()>(ids.into_iter().map(|id| (id, number)).collect())
                };
                cache.get_many([1], |_| key(way), &policy, load).await.unwrap()[&1]
            }
            _ => cache.get_or_load(&key(way), &policy, load).await.unwrap(),
        };
        assert_eq!((number, began.elapsed()), (counter.0.load(Ordering::SeqCst), Duration::ZERO));
    }
    assert_eq!(cache.counters().outcome(Outcome::Bypass(BypassReason::Recursive)), 4);
}

/// A task that did not take its scope along is nobody's: it is waited for, and not for ever.
#[tokio::test(start_paused = true)]
async fn a_value_that_loads_itself_outside_its_scope_waits_once() {
    let (cache, counter) = (cache(), Counter::default());
    let policy = values(600).wait(SECOND * 3).build().unwrap();
    let load = async || {
        let (cache, policy, counter) = (cache.clone(), policy.clone(), counter.clone());
        let again = async move {
            let load = async || Ok::<_, ()>(counter.next());
            cache.get_or_load(&key("own"), &policy, load).await
        };
        tokio::spawn(again).await.unwrap()
    };
    let began = Instant::now();
    assert_eq!(cache.get_or_load(&key("own"), &policy, load).await, Ok(1));
    assert_eq!(began.elapsed(), SECOND * 3);
}

/// A service that is called in a task of its own, as by `tower::buffer`, notes what it depends on in no scope.
#[tokio::test]
async fn a_response_computed_from_one_received_outside_its_scope_is_not_stored() {
    let (cache, counter) = (cache(), Counter::default());
    let inner = {
        let counter = counter.clone();
        Router::new().route("/part", get(async move || counter.next().to_string()))
    };
    let layer = CacheLayer::new(cache.clone()).route("/part", lasting(60).tag("part"));
    // Not within another router, which calls what is in it only when its future is polled.
    let by_policy = layer.layer(inner.clone());
    let by_none = CacheLayer::new(cache.clone()).layer(inner);
    for (path, inner) in [("/one", by_policy), ("/other", by_none)] {
        // What is computed within the page's scope is noted there: what is found in memory is not.
        let request = || Request::get("/part").body(Body::empty()).unwrap();
        inner.clone().oneshot(request()).await.unwrap();
        let buffered = Buffer::new(inner, 8);
        let page = async move || {
            let response = buffered.oneshot(request()).await.unwrap();
            read(response.map(Body::new)).await.0
        };
        let layer = CacheLayer::new(cache.clone()).route(path, lasting(60));
        let outer = Router::new().route(path, get(page)).layer(layer);
        for _ in 0..3 {
            let (_, status) = fetch(&outer, path).await;
            assert!(!status.contains("hit") && !status.contains("stored"), "{path}: {status}");
        }
    }
}

/// However little the cache has to do with a part, the whole depends on what the part's policy names.
#[tokio::test]
async fn an_outer_response_inherits_the_tags_of_an_inner_one_that_bypassed_the_cache() {
    let (cache, counter) = (cache(), Counter::default());
    let policy = lasting(60).tag("front page").tag_fields(["surrogate-key"]);
    let named = async |counter: Counter| ([("surrogate-key", "front")], counter.next().to_string());
    let parts = {
        let counter = counter.clone();
        Router::new()
            .route("/plain", get(async move || counter.next().to_string()))
            .layer(CacheLayer::new(cache.clone()).route("/plain", policy.clone()))
    };
    let naming = Router::new()
        .route("/named", get(async move || named(counter.clone()).await))
        .layer(CacheLayer::new(cache.clone()).route("/named", policy));
    for (path, parts) in [("/plain", parts), ("/named", naming)] {
        for (header, value) in
            [("cookie", "a=b"), ("authorization", "Basic x"), ("upgrade", "h2c"), ("if-match", "*")]
        {
            let page = {
                let parts = parts.clone();
                async move || {
                    let request = Request::get(path).header(header, value);
                    read(parts.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await.0
                }
            };
            let whole = format!("/{header}{path}");
            let layer = CacheLayer::new(cache.clone()).route(&whole, lasting(60));
            let app = Router::new().route(&whole, get(page)).layer(layer);
            let (before, _) = fetch(&app, &whole).await;
            for tag in
                ["front page", "front"].into_iter().take(if path == "/named" { 2 } else { 1 })
            {
                cache.invalidate([tag]).await.unwrap();
                let (after, status) = fetch(&app, &whole).await;
                assert_ne!(after, before, "{whole}, {tag}: {status}");
            }
        }
    }
}
