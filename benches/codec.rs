//! An entry on its way to Redis and back, by the size of its body:
//! `cargo bench -p tidegate --all-features --bench codec`.

#![allow(missing_docs, clippy::unwrap_used)]

mod cases;

use cases::entry;
use divan::Bencher;
use divan::counter::BytesCount;
use tidegate::internals;

const SIZES: [usize; 4] = [100, 1 << 10, 64 << 10, 10 << 20];

fn main() {
    divan::main();
}

#[divan::bench(args = SIZES)]
fn encode(bencher: Bencher<'_, '_>, size: usize) {
    let (_cache, entry) = entry(size, 5).unwrap();
    bencher.counter(BytesCount::new(size)).bench_local(|| internals::encode(&entry));
}

#[divan::bench(args = SIZES)]
fn decode(bencher: Bencher<'_, '_>, size: usize) {
    let (_cache, entry) = entry(size, 5).unwrap();
    let bytes = internals::encode(&entry);
    bencher.counter(BytesCount::new(size)).bench_local(|| internals::decode(&bytes));
}
