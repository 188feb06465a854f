//! A hit in memory beside the same handler without a cache, with the allocations of each:
//! `cargo bench -p tidegate --all-features --bench hit`.

#![allow(missing_docs, clippy::unwrap_used)]

mod cases;

use cases::{App, is_hit, request};
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench]
fn axum_alone(bencher: Bencher<'_, '_>) {
    ask(bencher, App::bare().unwrap(), "/items/1");
}

#[divan::bench]
fn memory_hit(bencher: Bencher<'_, '_>) {
    ask(bencher, App::cached().unwrap(), "/items/1");
}

#[divan::bench]
fn memory_hit_with_5_parameters(bencher: Bencher<'_, '_>) {
    ask(bencher, App::cached().unwrap(), "/search?e=5&d=4&c=3&b=2&a=1");
}

fn ask(bencher: Bencher<'_, '_>, mut app: App, path: &str) {
    let first = is_hit(&app.ask(request(path)));
    assert!(!first);
    bencher.with_inputs(|| request(path)).bench_local_values(|request| app.ask(request));
}
