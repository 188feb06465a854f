//! What a hit allocates, and what the cache keeps, counted.

#![allow(clippy::unwrap_used)]

#[path = "../benches/cases/mod.rs"]
mod cases;

use std::any::type_name;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cases::{App, is_hit, request};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tidegate::internals::decode_value;
use tidegate::{Cache, Key, Memory, ValuePolicy};

#[global_allocator]
static ALLOCATOR: dhat::Alloc = dhat::Alloc;

/// There can be one count at a time.
static COUNTING: Mutex<()> = Mutex::new(());

/// Begins a count, with short backtraces: they are most of its time, and nothing here shows them.
fn count() -> dhat::Profiler {
    dhat::Profiler::builder().testing().trim_backtraces(Some(4)).build()
}

/// Allocations of one request, after some that are not counted.
fn allocations(app: &mut App, path: &str) -> u64 {
    const REQUESTS: usize = 100;
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    // Fields that change each second are rendered once a second.
    app.block_on(async { tokio::time::pause() });
    let counted = count();
    let batches = (0..5).map(|_| {
        let requests: Vec<_> = (0..REQUESTS).map(|_| request(path)).collect();
        let before = dhat::HeapStats::get().total_blocks;
        for request in requests {
            app.ask(request);
        }
        dhat::HeapStats::get().total_blocks - before
    });
    // The first computes the response; and the test's own thread may have something to do meanwhile.
    let fewest = batches.min().unwrap_or_default();
    drop(counted);
    assert_eq!(fewest % REQUESTS as u64, 0, "{fewest} are not as many for each");
    fewest / REQUESTS as u64
}

#[test]
fn a_hit_allocates_no_more_than_a_layer_that_does_nothing() {
    let alone = allocations(&mut App::bare().unwrap(), "/items/1");
    let layered = allocations(&mut App::layered().unwrap(), "/items/1");
    let mut app = App::cached().unwrap();
    let hit = allocations(&mut app, "/items/1");
    assert!(is_hit(&app.ask(request("/items/1"))));
    println!("{alone} without a layer, {layered} with one that does nothing, {hit} with a cache");
    assert!(hit <= layered, "{hit}, and {layered} without a cache");
}

/// The bytes that one request allocates, with one field more than most.
fn allocated(app: &mut App, name: &'static str, value: &str) -> u64 {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    app.ask(request("/items/1"));
    let mut request = request("/items/2");
    request.headers_mut().insert(name, value.parse().unwrap());
    let counted = count();
    let before = dhat::HeapStats::get().total_bytes;
    app.ask(request);
    let allocated = dhat::HeapStats::get().total_bytes - before;
    drop(counted);
    allocated
}

/// Some bytes for each that the client sends; not some for each pair of its parts.
fn is_in_proportion(mut app: App, name: &'static str, part: &str) {
    const PARTS: usize = 8_000;
    let value = part.repeat(PARTS);
    let allocated = allocated(&mut app, name, &value);
    println!("{allocated} bytes for {} of {name}", value.len());
    assert!(allocated <= 32 * value.len() as u64, "{allocated} bytes for {}", value.len());
}

#[test]
#[cfg(feature = "admin")]
fn security_a_simulated_request_allocates_in_proportion_to_its_cookies() {
    for part in ["a;", "a=1; "] {
        is_in_proportion(App::observed().unwrap(), "cookie", part);
    }
}

#[test]
fn security_a_miss_allocates_in_proportion_to_its_accept_fields() {
    for name in ["accept-language", "accept-encoding"] {
        for part in ["a;", "a,", "a-"] {
            is_in_proportion(App::cached().unwrap(), name, &format!("{part}a"));
        }
    }
}

#[test]
fn stored_responses_take_no_more_than_their_bound() {
    kept_within_its_bound("items");
}

#[test]
fn stored_responses_with_one_more_field_take_no_more_than_their_bound() {
    kept_within_its_bound("tagged");
}

fn kept_within_its_bound(route: &str) {
    const CAPACITY: usize = 2 << 20;
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = count();
    let mut app = App::cached_within(CAPACITY as u64).unwrap();
    let before = dhat::HeapStats::get().curr_bytes;
    for at in 0..3_750 {
        let path = format!("/{route}/{at}");
        app.ask(request(&path));
        // One that was found is kept in a form that is ready to be sent, too.
        app.ask(request(&path));
    }
    let status = app.cache.store_status().memory.unwrap();
    let taken = dhat::HeapStats::get().curr_bytes - before;
    drop(counted);
    println!("{taken} bytes for {} entries, said to be {}", status.entries, status.bytes);
    assert!(
        status.bytes <= CAPACITY as u64 && status.bytes * 10 >= CAPACITY as u64 * 9,
        "{status:?}"
    );
    assert!(taken <= CAPACITY, "{taken} bytes");
    assert!(taken * 2 > CAPACITY, "{taken} bytes: what is kept is much less than it may be");
}

/// Bytes from Redis or another node may claim any length: of a text, a sequence or a map, and of each in another.
#[test]
fn a_claimed_length_reserves_no_memory() {
    for length in [1000, 1 << 16, 1 << 20, 200 << 20, 1 << 40, u64::MAX] {
        let claim = bincode::serde::encode_to_vec(length, bincode::config::standard()).unwrap();
        reserves_nothing::<String>(&claim);
        reserves_nothing::<Vec<u64>>(&claim);
        reserves_nothing::<HashMap<u64, [u64; 8]>>(&claim);
        // An outer sequence of one element, and the claim within.
        let nested = [&[1], &claim[..]].concat();
        reserves_nothing::<Vec<Vec<String>>>(&nested);
        reserves_nothing::<Vec<Option<String>>>(&[&[1], &nested[..]].concat());
    }
}

fn reserves_nothing<T: DeserializeOwned>(bytes: &[u8]) {
    // For the outer sequence, and an error's text.
    const SOME: u64 = 512;
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = count();
    let before = dhat::HeapStats::get().total_bytes;
    assert!(decode_value::<T>(bytes).is_none());
    let reserved = dhat::HeapStats::get().total_bytes - before;
    drop(counted);
    assert!(reserved <= SOME, "{reserved} bytes for {bytes:?} as {}", type_name::<T>());
}

#[derive(Clone, Serialize, Deserialize)]
struct Tree {
    leaf: Option<u8>,
    branches: Vec<Self>,
}

impl Tree {
    fn new(height: u8) -> Self {
        let branches = (0..height).map(|_| Self::new(height - 1)).collect();
        Self { leaf: None, branches }
    }
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Chain {
    link: [u64; 6],
    next: Option<Box<Self>>,
}

#[derive(Clone, Serialize, Deserialize)]
enum Shape {
    Point,
    Line([u64; 8]),
    Text(Box<str>),
}

/// What a decoded value takes on the heap, with its place, is at least a third of the estimate and at most the estimate.
#[test]
fn the_estimated_size_of_a_value_bounds_its_real_size_within_a_factor_of_three() {
    for length in [0, 1, 3, 7, 8, 100, 1000] {
        let texts = || (0..length).map(|at| format!("the text {at}"));
        is_bounded(&texts().collect::<Vec<_>>());
        is_bounded(&texts().collect::<String>());
        is_bounded(&texts().map(|text| (text, 1_u8)).collect::<HashMap<_, _>>());
        is_bounded(&texts().map(|text| (text, Some(1_u64))).collect::<BTreeMap<_, _>>());
        is_bounded(&(0..length).collect::<HashSet<u32>>());
        is_bounded(&(0..u64::from(length)).collect::<BTreeSet<_>>());
        is_bounded(&vec![None::<[u64; 4]>; length as usize]);
        is_bounded(&vec![vec![0_u8; 40]; length as usize]);
        is_bounded(&vec![Shape::Point; length as usize]);
        is_bounded(&vec![Shape::Line([1; 8]); length as usize]);
        is_bounded(&vec![Shape::Text("a text".into()); length as usize]);
        is_bounded(&(0..length).map(|at| (at, vec![at; 20])).collect::<HashMap<_, _>>());
    }
    // More than serde reserves at once.
    is_bounded(&vec![7_u64; 200_000]);
    for height in 0..7 {
        is_bounded(&Tree::new(height));
    }
    let chain = (0..100)
        .fold(Chain::default(), |rest, _| Chain { link: [1; 6], next: Some(Box::new(rest)) });
    is_bounded(&chain);
}

fn is_bounded<T: Serialize + DeserializeOwned>(value: &T) {
    let bytes = bincode::serde::encode_to_vec(value, bincode::config::standard()).unwrap();
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    // The least of some: the test's own thread may have something to do meanwhile.
    let measured = (0..3).map(|_| {
        let counted = count();
        let before = dhat::HeapStats::get().curr_bytes;
        let (value, weight) = decode_value::<T>(&bytes).unwrap();
        let taken = dhat::HeapStats::get().curr_bytes - before + size_of::<T>();
        drop(counted);
        drop(value);
        (taken, weight)
    });
    let (taken, weight) = measured.min().unwrap();
    let name = type_name::<T>();
    println!("{weight} for {taken} bytes, from {}: {name}", bytes.len());
    assert!(taken <= weight, "{taken} bytes, not {weight}: {name}");
    // A block of some bytes takes more than dhat counts.
    assert!(weight <= 3 * taken + 64, "{taken} bytes, not {weight}: {name}");
}

#[test]
fn decoded_values_take_no_more_than_their_bound() {
    values_within_their_bound(|at| vec![None::<[u64; 4]>; 100 + at % 9]);
    values_within_their_bound(|at| {
        (0..20 + at % 9).map(|at| (at, at.to_string())).collect::<HashMap<_, _>>()
    });
    values_within_their_bound(|at| Tree::new(u8::try_from(at % 5).unwrap()));
}

fn values_within_their_bound<T>(make: impl Fn(usize) -> T)
where
    T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
{
    const CAPACITY: usize = 2 << 20;
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let counted = count();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let cache = Cache::new(Memory::new(CAPACITY as u64));
    let policy = ValuePolicy::ttl(Duration::from_hours(1)).build().unwrap();
    let before = dhat::HeapStats::get().curr_bytes;
    for at in 0..3_000 {
        let key = Key::new("value").part(at.to_string()).finish();
        for _ in 0..2 {
            let load = async || Ok::<_, ()>(make(at));
            assert!(runtime.block_on(cache.get_or_load(&key, &policy, load)).is_ok());
        }
    }
    let status = cache.store_status().memory.unwrap();
    let taken = dhat::HeapStats::get().curr_bytes - before;
    drop(counted);
    println!("{taken} bytes for {} entries, said to be {}", status.entries, status.bytes);
    assert!(status.bytes * 10 >= CAPACITY as u64 * 9, "{status:?}");
    assert!(taken <= CAPACITY, "{taken} bytes of {}", type_name::<T>());
    assert!(taken * 3 > CAPACITY, "{taken} bytes of {}", type_name::<T>());
}
