//! Fills within fills, and how many run at a time.

use std::collections::{HashMap, VecDeque};
use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::future::{BoxFuture, join_all};
use tidegate::{
    BypassReason, Cache, CacheLayer, Event, Key, Memory, Outcome, Policy, Record, ValuePolicy,
    ValuePolicyBuilder,
};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::common::origin::by;
use crate::common::{fetch, read, send, settled};

/// So long that a test which waits for it shows it.
const WAIT: Duration = Duration::from_hours(1);

const QUERY: Duration = Duration::from_millis(150);

fn values() -> ValuePolicyBuilder {
    ValuePolicy::ttl(Duration::from_hours(24)).wait(WAIT).jitter(0.0).early_refresh(0.0)
}

fn value_policy() -> ValuePolicy {
    values().build().unwrap()
}

fn policy() -> Policy {
    Policy::ttl(Duration::from_hours(24)).wait(WAIT).jitter(0.0).early_refresh(0.0)
}

/// A cache with so many permits.
fn cache(permits: usize) -> Cache {
    Cache::with_limits(Memory::new(16 << 20), 1 << 16, permits)
}

fn key(name: &str) -> Key {
    Key::new("fills").part(name).finish()
}

async fn load(name: &str) -> Result<String, ()> {
    sleep(QUERY).await;
    Ok(name.to_owned())
}

/// Ways to compute with another cached value.
const WAYS: [&str; 6] = ["one", "maybe", "many", "router", "joined", "carried"];

fn inner(cache: &Cache, way: &'static str, name: String) -> BoxFuture<'static, String> {
    let cache = cache.clone();
    Box::pin(async move {
        let one = async |name: String| {
            let load = async || load(&name).await;
            cache.get_or_load(&key(&name), &value_policy(), load).await.unwrap()
        };
        match way {
            "one" => one(name).await,
            "maybe" => {
                let load = async || load(&name).await.map(Some);
                cache.find_or_load(&key(&name), &value_policy(), load).await.unwrap().unwrap()
            }
            "many" => {
                let load = async |names: Vec<String>| {
                    sleep(QUERY).await;
                    let found = names.into_iter().map(|name| (name.clone(), name));
                    Ok::<HashMap<_, _>, ()>(found.collect())
                };
                let key_of = |name: &String| key(name);
                let ids = [name.clone(), "all".to_owned()];
                cache
                    .get_many(ids, key_of, &value_policy(), load)
                    .await
                    .unwrap()
                    .remove(&name)
                    .unwrap()
            }
            "joined" => tokio::join!(one(name.clone()), one("all".to_owned())).0,
            "carried" => {
                let load = async move {
                    let load = async || load(&name).await;
                    cache.get_or_load(&key(&name), &value_policy(), load).await.unwrap()
                };
                tokio::spawn(Record::carry(load)).await.unwrap()
            }
            _ => {
                let part = async |Path(name): Path<String>| load(&name).await.unwrap();
                let layer = CacheLayer::with_policy(cache.clone(), policy()).namespace("inner");
                let app = Router::new().route("/{name}", get(part)).layer(layer);
                fetch(&app, &format!("/{name}")).await.0
            }
        }
    })
}

async fn page(
    State((cache, way)): State<(Cache, &'static str)>,
    Path(name): Path<String>,
) -> String {
    inner(&cache, way, format!("part of {name}").replace(' ', "-")).await
}

fn pages(cache: &Cache, way: &'static str) -> Router {
    let layer = CacheLayer::with_policy(cache.clone(), policy()).namespace("outer");
    let state = (cache.clone(), way);
    Router::new().route("/{name}", get(page)).layer(layer).with_state(state)
}

#[tokio::test(start_paused = true)]
async fn a_computation_within_a_fill_needs_no_permit_of_its_own() {
    for way in WAYS {
        for permits in [1, 8] {
            let (cache, began) = (cache(permits), Instant::now());
            let app = pages(&cache, way);
            let uris: Vec<String> = (0..600).map(|page| format!("/{page}")).collect();
            let responses = join_all(uris.iter().map(|uri| fetch(&app, uri))).await;
            for (uri, (body, _)) in uris.iter().zip(responses) {
                assert_eq!(body, format!("part-of-{}", &uri[1..]), "{way}");
            }
            assert!(began.elapsed() < WAIT, "{way}: one waited for a permit that it had");
            assert_eq!(cache.loads(), 0, "{way}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bypass_shares_its_permit_with_the_values_that_it_loads() {
    let (cache, began) = (cache(1), Instant::now());
    let app = pages(&cache, "one");
    let by_head = axum::http::Request::head("/1").body(axum::body::Body::empty()).unwrap();
    let response = crate::common::send(&app, by_head).await;
    assert_eq!(response.headers()["content-length"], "9");
    assert_eq!(began.elapsed(), QUERY);
}

/// The part was requested before the page requests it, and waits for the permit that the page has.
#[tokio::test(start_paused = true)]
async fn a_fill_that_waits_for_a_value_shares_its_permit_with_the_load_of_that_value() {
    for many in [false, true] {
        let (cache, gate) = (cache(1), Arc::new(Semaphore::new(0)));
        let part = {
            let cache = cache.clone();
            move || {
                let cache = cache.clone();
                async move {
                    cache.get_or_load(&key("part"), &value_policy(), || ready(Ok::<_, ()>(1))).await
                }
            }
        };
        let page = tokio::spawn({
            let (cache, gate, part) = (cache.clone(), gate.clone(), part.clone());
            async move {
                let compute = async || {
                    gate.acquire().await.unwrap().forget();
                    part().await
                };
                cache.get_or_load(&key("page"), &value_policy(), compute).await
            }
        });
        settled().await;
        assert_eq!(cache.loads(), 1);
        let direct = tokio::spawn(async move {
            if many {
                let load = async |ids: Vec<i32>| {
                    Ok::<HashMap<_, _>, ()>(ids.into_iter().map(|id| (id, 1)).collect())
                };
                let found = cache.get_many([7], |_| key("part"), &value_policy(), load).await?;
                Ok(found[&7])
            } else {
                part().await
            }
        });
        settled().await;
        let began = Instant::now();
        assert!(!direct.is_finished(), "the page has the only permit");
        gate.add_permits(1);
        assert_eq!(page.await.unwrap(), Ok(1));
        assert_eq!(direct.await.unwrap(), Ok(1));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cycle_of_values_that_wait_for_each_other_is_broken_at_once() {
    for keys in [2, 3, 7] {
        let (cache, all) = (cache(64), Arc::new(Barrier::new(keys)));
        let began = Instant::now();
        let computed = (0..keys).map(|n| {
            let (cache, all) = (cache.clone(), all.clone());
            tokio::spawn(async move {
                let (own, next) = (key(&n.to_string()), key(&((n + 1) % keys).to_string()));
                let compute = async || {
                    all.wait().await;
                    cache.get_or_load(&next, &value_policy(), || ready(Ok::<_, ()>(7))).await
                };
                cache.get_or_load(&own, &value_policy(), compute).await
            })
        });
        for value in join_all(computed).await {
            assert_eq!(value.unwrap(), Ok(7));
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "{keys} keys");
        let recursive = Outcome::Bypass(BypassReason::Recursive);
        assert_eq!(cache.counters().outcome(recursive), 1, "one breaks the circle of {keys}");
    }
}

/// Neither cache alone sees the circle.
#[tokio::test(start_paused = true)]
async fn a_cycle_of_values_of_two_caches_is_broken_at_once() {
    let (caches, both) = ([cache(8), cache(8)], Arc::new(Barrier::new(2)));
    let began = Instant::now();
    let computed = [0, 1].map(|n| {
        let (caches, both) = (caches.clone(), both.clone());
        tokio::spawn(async move {
            let compute = async || {
                both.wait().await;
                let load = || ready(Ok::<_, ()>(7));
                caches[1 - n].get_or_load(&key("a"), &value_policy(), load).await
            };
            caches[n].get_or_load(&key("a"), &value_policy(), compute).await
        })
    });
    for value in join_all(computed).await {
        assert_eq!(value.unwrap(), Ok(7));
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
}

/// How often a handler ran, how often it runs now, and how often it ran at a time at most.
#[derive(Clone, Default)]
struct Load(Arc<[AtomicUsize; 3]>);

impl Load {
    async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.0[0].fetch_add(1, Ordering::SeqCst);
        let running = self.0[1].fetch_add(1, Ordering::SeqCst) + 1;
        self.0[2].fetch_max(running, Ordering::SeqCst);
        let done = work.await;
        self.0[1].fetch_sub(1, Ordering::SeqCst);
        done
    }

    fn runs(&self) -> usize {
        self.0[0].load(Ordering::SeqCst)
    }

    fn most(&self) -> usize {
        self.0[2].load(Ordering::SeqCst)
    }
}

/// A route of queries, and one whose handler never ends.
fn routes(cache: &Cache, policy: &Policy) -> (Router, [Load; 2]) {
    let loads = [Load::default(), Load::default()];
    let query = {
        let load = loads[0].clone();
        async move || load.run(async { sleep(QUERY).await }).await
    };
    let hang = {
        let load = loads[1].clone();
        async move || load.run(std::future::pending::<()>()).await
    };
    let layer = CacheLayer::new(cache.clone())
        .route("/query/{key}", policy.clone())
        .route("/hang/{key}", policy.clone());
    let app = Router::new().route("/query/{key}", get(query)).route("/hang/{key}", get(hang));
    (app.layer(layer), loads)
}

fn spawn_all(app: &Router, path: &str, count: usize) -> Vec<JoinHandle<(String, String)>> {
    let all = (0..count).map(|key| (app.clone(), format!("/{path}/{key}")));
    all.map(|(app, uri)| tokio::spawn(async move { fetch(&app, &uri).await })).collect()
}

#[tokio::test(start_paused = true)]
async fn a_hanging_route_leaves_permits_for_other_routes() {
    for permits in [2, 8, 512] {
        let cache = cache(permits);
        let (app, [_, hanging]) = routes(&cache, &policy());
        let all = spawn_all(&app, "hang", 600);
        settled().await;
        assert_eq!(hanging.runs(), permits - (permits / 4).max(1));
        let began = Instant::now();
        fetch(&app, "/query/1").await;
        assert_eq!(began.elapsed(), QUERY, "{permits} permits");
        all.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn routes_that_hang_do_not_hold_the_permits_of_the_others() {
    const HANGING: usize = 5;
    let (cache, policy, load) = (cache(8), policy().wait(3 * SECOND), Load::default());
    let query = {
        let load = load.clone();
        async move || load.run(async { sleep(QUERY).await }).await
    };
    let mut layer = CacheLayer::new(cache.clone()).route("/query/{key}", policy.clone().fills(100));
    let mut app = Router::new().route("/query/{key}", get(query));
    for route in 0..HANGING {
        let pattern = format!("/hang-{route}/{{key}}");
        layer = layer.route(&pattern, policy.clone());
        app = app.route(&pattern, get(std::future::pending::<()>));
    }
    let app = app.layer(layer);
    let hang = |route: usize, key: usize| {
        let (app, uri) = (app.clone(), format!("/hang-{}/{key}", route % HANGING));
        tokio::spawn(async move { fetch(&app, &uri).await })
    };

    let mut requests: VecDeque<_> = (0..100).map(|at| hang(at, at)).collect();
    settled().await;
    let (mut delayed, mut longest) = (0, Duration::ZERO);
    for at in 0..100 {
        // A client gives up, and sends its request again.
        requests.pop_front().unwrap().abort();
        requests.push_back(hang(at, 100 + at));
        sleep(Duration::from_millis(1500)).await;
        let began = Instant::now();
        fetch(&app, &format!("/query/{at}")).await;
        longest = longest.max(began.elapsed());
        delayed += usize::from(began.elapsed() > QUERY);
    }
    // At first, one after the other takes permits of the cache; later, each holds all that it may.
    assert!(longest < 16 * SECOND && delayed <= HANGING, "{delayed} of 100, up to {longest:?}");

    // When overdue fills end, their permits do not come back a second time.
    requests.iter().for_each(JoinHandle::abort);
    settled().await;
    assert_eq!((cache.loads(), load.most()), (0, 1));
    let after = (0..50).map(|key| (app.clone(), format!("/query/after-{key}")));
    join_all(after.map(|(app, uri)| async move { fetch(&app, &uri).await })).await;
    assert_eq!(load.most(), 8);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_too_long_for_a_permit_proceeds_without_one() {
    let cache = cache(4);
    let (app, [_, hanging]) = routes(&cache, &policy().wait(Duration::from_secs(3)));
    let all = spawn_all(&app, "hang", 10);
    // Others wait for the same responses, and cause no further runs.
    let again = spawn_all(&app, "hang", 10);
    settled().await;
    assert_eq!((hanging.runs(), cache.loads()), (3, 3));
    assert_eq!(cache.counters().event(Event::NoPermit), 0);
    // In each `wait`, as many as may run at a time: if the database is only slow, it must not get all of them at once.
    for expected in [3, 6, 9] {
        sleep(Duration::from_millis(3001)).await;
        settled().await;
        assert_eq!(cache.counters().event(Event::NoPermit), expected);
    }
    assert_eq!(cache.loads(), hanging.runs());
    all.iter().chain(&again).for_each(JoinHandle::abort);
    settled().await;
    assert_eq!(cache.loads(), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_wait_longer_for_a_permit_while_the_queue_moves() {
    let cache = cache(8);
    let (app, [load, _]) = routes(&cache, &policy().wait(Duration::from_secs(3)));
    let began = Instant::now();
    for response in spawn_all(&app, "query", 600) {
        response.await.unwrap();
    }
    assert_eq!((load.runs(), load.most()), (600, 6));
    assert_eq!(began.elapsed(), QUERY * 100, "which is fifteen seconds");
    assert_eq!(cache.counters().event(Event::NoPermit), 0);
}

#[tokio::test(start_paused = true)]
async fn a_policy_can_limit_its_concurrent_fills() {
    for (most, expected) in [(0, 1), (2, 2), (7, 7), (100, 8)] {
        let (app, [load, _]) = routes(&cache(8), &policy().fills(most));
        for response in spawn_all(&app, "query", 20) {
            response.await.unwrap();
        }
        assert_eq!(load.most(), expected, "of {most}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waited_for_a_permit_looks_up_the_entry_again() {
    let cache = cache(1);
    let (app, [load, _]) = routes(&cache, &policy());
    let first = spawn_all(&app, "query", 2);
    settled().await;
    // It needs a permit of its own, since it shares no flight.
    let head = axum::http::Request::head("/query/1").body(axum::body::Body::empty()).unwrap();
    let response = crate::common::send(&app, head).await;
    let status = response.headers()["cache-status"].to_str().unwrap();
    assert!(status.contains("hit"), "{status}");
    assert_eq!(load.runs(), 2);
    for response in first {
        response.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn audits_take_permits_and_wait_for_none() {
    let cache = cache(8);
    let (app, [load, _]) = routes(&cache, &policy().audit(1.0));
    fetch(&app, "/query/1").await;
    for _ in 0..100 {
        assert!(fetch(&app, "/query/1").await.1.contains("hit"));
    }
    sleep(QUERY).await;
    settled().await;
    assert_eq!((load.runs(), load.most()), (1 + 6, 6));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_another_call_has_left_is_loaded_by_one_call() {
    let (cache, calls) = (cache(8), Arc::new(AtomicUsize::new(0)));
    let get = |hangs: bool| {
        let (cache, calls) = (cache.clone(), calls.clone());
        tokio::spawn(async move {
            let load = async |ids: Vec<u32>| {
                if hangs {
                    std::future::pending::<()>().await;
                }
                calls.fetch_add(1, Ordering::SeqCst);
                Ok::<_, ()>(ids.into_iter().map(|id| (id, id)).collect::<HashMap<_, _>>())
            };
            let key_of = |id: &u32| key(&id.to_string());
            cache.get_many(0..100, key_of, &value_policy(), load).await.unwrap().len()
        })
    };
    let first = get(true);
    settled().await;
    let others: Vec<_> = (0..10).map(|_| get(false)).collect();
    settled().await;
    first.abort();
    for other in others {
        assert_eq!(other.await.unwrap(), 100);
    }
    // The first id that each of them waits for wakes one of them, which loads the rest too.
    assert_eq!(calls.load(Ordering::SeqCst), 1);
}

/// Values that are never stored, and more of them than there are permits.
#[tokio::test(start_paused = true)]
async fn a_batch_of_values_that_cannot_be_shared_takes_one_permit_and_few_loads() {
    let (cache, calls) = (cache(2), Arc::new(AtomicUsize::new(0)));
    let get = || {
        let (cache, calls) = (cache.clone(), calls.clone());
        tokio::spawn(async move {
            let load = async |_: Vec<u32>| {
                calls.fetch_add(1, Ordering::SeqCst);
                sleep(QUERY).await;
                Ok::<_, ()>(HashMap::<u32, u32>::new())
            };
            let key_of = |id: &u32| key(&id.to_string());
            cache.get_many(0..50, key_of, &value_policy(), load).await.unwrap().len()
        })
    };
    get().await.unwrap();
    let began = Instant::now();
    for batch in [get(), get(), get()] {
        assert_eq!(batch.await.unwrap(), 0);
    }
    // That a value can't be shared is remembered in a table of limited size, so each batch may wait for a few.
    let calls = u32::try_from(calls.load(Ordering::SeqCst)).unwrap();
    assert!(calls <= 10, "{calls}");
    assert!(began.elapsed() < calls * QUERY, "none waits for a permit");
}

const SECOND: Duration = Duration::from_secs(1);

/// Requests for one value at once, which each take so long to compute it; what came of them.
async fn ask_for_one<T>(
    count: usize,
    cache: &Cache,
    policy: &ValuePolicy,
    load: impl AsyncFn() -> Result<T, usize> + Clone,
) -> Vec<Result<T, usize>>
where
    T: serde::Serialize + serde::de::DeserializeOwned + Clone + Send + Sync + 'static,
{
    let key = key("one");
    join_all((0..count).map(|_| cache.get_or_load(&key, policy, async || load().await))).await
}

#[tokio::test(start_paused = true)]
async fn a_slow_value_is_loaded_once_more_per_wait_and_not_by_every_waiter() {
    let (cache, load) = (cache(512), Load::default());
    let policy = values().wait(SECOND * 3).build().unwrap();
    let slow = async || {
        load.run(sleep(SECOND * 8)).await;
        Ok::<_, usize>(1)
    };
    let began = Instant::now();
    let values = ask_for_one(1000, &cache, &policy, slow).await;
    assert!(values.iter().all(|value| *value == Ok(1)));
    assert_eq!((load.runs(), began.elapsed()), (3, SECOND * 14), "begun at 0, 3 and 6 s");
    sleep(SECOND * 60).await;
    assert_eq!(ask_for_one(1000, &cache, &policy, slow).await.len(), 1000);
    assert_eq!(load.runs(), 3, "none once it is stored");
}

#[tokio::test(start_paused = true)]
async fn a_slow_route_runs_once_more_per_wait_and_not_for_every_waiter() {
    let (cache, load) = (cache(512), Load::default());
    let slow = {
        let load = load.clone();
        async move || load.run(sleep(SECOND * 5)).await
    };
    let layer = CacheLayer::with_policy(cache, policy().wait(SECOND * 3));
    let app = Router::new().route("/", get(slow)).layer(layer);
    let began = Instant::now();
    let responses = join_all((0..1000).map(|_| fetch(&app, "/"))).await;
    assert!(responses.iter().all(|(_, status)| !status.contains("bypass")));
    assert_eq!((load.runs(), began.elapsed()), (2, SECOND * 8), "begun at 0 and 3 s");
}

/// One that hangs holds nobody up for longer than `wait`, if the next does not.
#[tokio::test(start_paused = true)]
async fn a_value_whose_load_hangs_is_loaded_by_the_next_request() {
    let (cache, load) = (cache(512), Load::default());
    let policy = values().wait(SECOND * 3).build().unwrap();
    let first_hangs = async || {
        let hangs = load.runs() == 0;
        load.run(sleep(if hangs { SECOND * 1000 } else { Duration::ZERO })).await;
        Ok::<_, usize>(1)
    };
    let mut all = Box::pin(ask_for_one(1000, &cache, &policy, first_hangs));
    let first = tokio::time::timeout(SECOND * 10, &mut all);
    assert!(first.await.is_err(), "the first hangs still");
    assert_eq!(load.runs(), 2);
    assert_eq!(ask_for_one(1, &cache, &policy, first_hangs).await, [Ok(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_transient_failure_costs_few_loads() {
    for failing in [1, 3, 4, 20] {
        let (cache, load) = (cache(512), Load::default());
        let flaky = async || {
            let run = load.runs();
            load.run(sleep(QUERY)).await;
            if run < failing { Err(run) } else { Ok(1) }
        };
        let values = ask_for_one(1000, &cache, &value_policy(), flaky).await;
        assert_eq!(values.iter().filter(|value| value.is_err()).count(), failing);
        // Twice as many as failed before lead then, one of which stores the value.
        assert!(load.runs() <= failing * 2 + 1, "{failing}: {}", load.runs());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lasting_failure_reaches_each_request_soon_with_its_own_error() {
    let (small, load) = (cache(40), Load::default());
    let failing = async || {
        load.run(sleep(QUERY)).await;
        Err::<u8, _>(7)
    };
    let began = Instant::now();
    let values = ask_for_one(1000, &small, &value_policy(), failing).await;
    assert!(values.iter().all(|value| *value == Err(7)));
    assert_eq!((load.runs(), load.most()), (1000, 30), "as many at a time as there are permits");
    assert!(began.elapsed() < QUERY * 40, "{:?}", began.elapsed());
}

/// Runs the handler for 1,000 requests at once; `respond` receives the number of earlier runs.
async fn thousand<R>(
    load: &Load,
    headers: &'static [(&'static str, &'static str)],
    respond: impl Fn(usize) -> R + Clone + Send + Sync + 'static,
) -> Vec<(StatusCode, String, String)>
where
    R: IntoResponse,
{
    let handler = {
        let load = load.clone();
        async move || {
            let run = load.runs();
            load.run(sleep(QUERY)).await;
            respond(run)
        }
    };
    let layer = CacheLayer::with_policy(cache(512), policy());
    let app = Router::new().route("/", get(handler)).layer(layer);
    let one = async || {
        let response = send(&app, by(Method::GET, "/", headers)).await;
        let code = response.status();
        let (body, status) = read(response).await;
        (code, body, status)
    };
    join_all((0..1000).map(|_| one())).await
}

#[tokio::test(start_paused = true)]
async fn a_failing_handler_runs_twice_for_all_requests_that_wait() {
    let load = Load::default();
    let failure = |_| (StatusCode::INTERNAL_SERVER_ERROR, "out of luck");
    let responses = thousand(&load, &[], failure).await;
    assert_eq!(load.runs(), 2);
    for (code, body, status) in &responses {
        assert_eq!(
            (*code, &**body),
            (StatusCode::INTERNAL_SERVER_ERROR, "out of luck"),
            "{status}"
        );
    }
    let collapsed = responses.iter().filter(|(_, _, status)| status.contains("collapsed"));
    assert_eq!(collapsed.count(), 998);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_once_fails_one_request() {
    let load = Load::default();
    let flaky = |run| (run > 0).then_some("well").ok_or(StatusCode::INTERNAL_SERVER_ERROR);
    let responses = thousand(&load, &[], flaky).await;
    assert_eq!(responses.iter().filter(|(_, body, _)| body == "well").count(), 999);
    assert_eq!(load.runs(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_may_be_personal_is_not_shared() {
    let error = StatusCode::INTERNAL_SERVER_ERROR;
    for private in [
        ("set-cookie", "a=b"),
        ("cache-control", "private"),
        ("cdn-cache-control", "no-store"),
        ("vary", "accept"),
        ("access-control-allow-origin", "https://a.example"),
        ("content-encoding", "gzip"),
    ] {
        let load = Load::default();
        thousand(&load, &[], move |_| (error, [private])).await;
        assert_eq!(load.runs(), 1000, "{private:?}");
    }
    let load = Load::default();
    thousand(&load, &[("authorization", "Bearer me")], move |_| error).await;
    assert_eq!(load.runs(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_page_with_a_part_that_failed_is_not_stored() {
    let load = Load::default();
    let part = {
        let load = load.clone();
        async move || {
            load.run(sleep(QUERY)).await;
            StatusCode::INTERNAL_SERVER_ERROR
        }
    };
    let cache = cache(512);
    let layer = CacheLayer::with_policy(cache.clone(), policy());
    let parts = Router::new().route("/part", get(part)).layer(layer.clone());
    let page = async move || {
        let requests = (0..3).map(|_| send(&parts, by(Method::GET, "/part", &[])));
        join_all(requests)
            .await
            .iter()
            .map(|part| part.status().as_str().to_owned())
            .collect::<String>()
    };
    let app = Router::new().route("/", get(page)).layer(layer);
    for runs in [2, 4] {
        let (body, status) = fetch(&app, "/").await;
        assert!(body == "500500500" && !status.contains("hit"), "{body}: {status}");
        assert_eq!(load.runs(), runs);
    }
}

/// All that may be served instead is.
#[tokio::test(start_paused = true)]
async fn a_stale_value_served_in_place_of_an_error_serves_all_waiters() {
    let (cache, load) = (cache(512), Load::default());
    let values = values().wait(SECOND).stale_if_error(SECOND * 600).build().unwrap();
    let load_value = async || {
        let run = load.runs();
        load.run(sleep(QUERY)).await;
        if run == 0 { Ok(1) } else { Err(run) }
    };
    assert_eq!(ask_for_one(1, &cache, &values, load_value).await, [Ok(1)]);
    sleep(SECOND * 60 * 60 * 24).await;
    let found = ask_for_one(1000, &cache, &values, load_value).await;
    assert!(found.iter().all(|value| *value == Ok(1)));
    assert_eq!(load.runs(), 2);
    let failing = {
        let load = load.clone();
        async move || {
            load.run(sleep(QUERY)).await;
            (load.runs() == 3).then_some("well").ok_or(StatusCode::INTERNAL_SERVER_ERROR)
        }
    };
    let layer = CacheLayer::with_policy(cache, policy().wait(SECOND).stale_if_error(SECOND * 600));
    let app = Router::new().route("/", get(failing)).layer(layer);
    assert_eq!(fetch(&app, "/").await.0, "well");
    sleep(SECOND * 60 * 60 * 24).await;
    let responses = join_all((0..1000).map(|_| fetch(&app, "/"))).await;
    assert!(responses.iter().all(|(body, _)| body == "well"));
    assert_eq!(load.runs(), 4);
}

/// Where changes come faster than one can compute, nothing is stored; what was computed since a request came is for it
/// all the same.
#[tokio::test(start_paused = true)]
async fn a_value_invalidated_during_its_load_still_serves_earlier_requests() {
    const COMPUTE: Duration = Duration::from_millis(300);
    const CHANGE: Duration = Duration::from_millis(70);
    let (cache, load, changes) = (cache(512), Load::default(), AtomicUsize::new(0));
    let policy = values().tag("rows").build().unwrap();
    let compute = async || {
        let seen = changes.load(Ordering::SeqCst);
        load.run(sleep(COMPUTE)).await;
        Ok::<_, usize>(seen)
    };
    let change = async {
        loop {
            sleep(CHANGE).await;
            changes.fetch_add(1, Ordering::SeqCst);
            cache.invalidate(["rows"]).await.unwrap();
        }
    };
    let waves = join_all((0..5).map(async |wave| {
        sleep(Duration::from_millis(110) * wave).await;
        let known = changes.load(Ordering::SeqCst);
        (known, ask_for_one(200, &cache, &policy, compute).await)
    }));
    let began = Instant::now();
    let waves = tokio::select! {
        waves = waves => waves,
        () = change => unreachable!("it has no end"),
    };
    for (known, values) in &waves {
        assert!(values.iter().all(|value| value.as_ref().unwrap() >= known), "{known}: {values:?}");
    }
    assert!(load.runs() <= 5, "{} runs for 1,000 requests", load.runs());
    assert!(began.elapsed() <= COMPUTE * 5, "{:?}", began.elapsed());
}

/// Counts the calls that have not ended.
struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// As a handler does whose statement waits for a host that has vanished.
#[tokio::test(start_paused = true)]
async fn background_work_is_cancelled_if_its_handler_does_not_return() {
    let day = Duration::from_hours(24);
    for policy in [
        Policy::ttl(QUERY).jitter(0.0).early_refresh(0.0).stale_while_revalidate(day),
        policy().audit(1.0),
    ] {
        let (cache, running) = (cache(1), Arc::new(AtomicUsize::new(0)));
        let calls = Arc::new(AtomicUsize::new(0));
        let handler = {
            let (running, calls) = (running.clone(), calls.clone());
            async move || {
                running.fetch_add(1, Ordering::SeqCst);
                let _running = Running(running);
                match calls.fetch_add(1, Ordering::SeqCst) {
                    0 => "computed",
                    _ => std::future::pending().await,
                }
            }
        };
        let layer = CacheLayer::with_policy(cache.clone(), policy.untracked());
        let app = Router::new().route("/", get(handler)).layer(layer);
        fetch(&app, "/").await;
        for in_the_background in 1..3 {
            sleep(QUERY * 2).await;
            assert_eq!(fetch(&app, "/").await.0, "computed");
            sleep(Duration::from_secs(1)).await;
            assert_eq!(calls.load(Ordering::SeqCst), 1 + in_the_background);
            assert_eq!(running.load(Ordering::SeqCst), 1);
            sleep(Duration::from_mins(1)).await;
            assert_eq!(running.load(Ordering::SeqCst), 0, "it waits for ever");
        }
        assert_eq!(cache.loads(), 0);
    }
}
