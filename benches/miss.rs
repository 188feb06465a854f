//! A miss that fills memory, beside the same handler without a cache:
//! `cargo bench -p tidegate --all-features --bench miss`.

#![allow(missing_docs, clippy::unwrap_used)]

mod cases;

use cases::{App, request};
use divan::{AllocProfiler, Bencher};

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench]
fn axum_alone(bencher: Bencher<'_, '_>) {
    ask(bencher, App::bare().unwrap());
}

#[divan::bench]
fn miss_and_fill(bencher: Bencher<'_, '_>) {
    ask(bencher, App::cached().unwrap());
}

/// Each request is for another answer.
fn ask(bencher: Bencher<'_, '_>, mut app: App) {
    let mut at = 0_u64;
    let another = || {
        at += 1;
        request(&format!("/items/{at}"))
    };
    bencher.with_inputs(another).bench_local_values(|request| app.ask(request));
}
