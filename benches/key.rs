//! The key of a request, by how many parameters its query has: `cargo bench -p tidegate --all-features --bench key`.

#![allow(missing_docs)]

mod cases;

use cases::{policy, request};
use divan::{AllocProfiler, Bencher};
use tidegate::internals;

#[global_allocator]
static ALLOCATOR: AllocProfiler = AllocProfiler::system();

fn main() {
    divan::main();
}

#[divan::bench(args = [0, 1, 5, 20])]
fn key(bencher: Bencher<'_, '_>, parameters: u32) {
    let query: Vec<String> = (0..parameters).rev().map(|at| format!("p{at}={at}")).collect();
    let (request, policy) = (request(&format!("/items/1?{}", query.join("&"))), policy());
    bencher.bench_local(|| internals::key(request.uri(), request.headers(), &policy));
}
