//! Judging an entry by the fences, by how many tags it has, and invalidating a tag, by how many entries carry
//! it: `cargo bench -p tidegate --all-features --bench fence`.

#![allow(missing_docs, clippy::unwrap_used)]

mod cases;

use cases::{carried, entry};
use divan::Bencher;
use tidegate::{Position, Tag, internals};

fn main() {
    divan::main();
}

#[divan::bench(args = [1, 2, 4, 8, 16, 32, 64])]
fn judge(bencher: Bencher<'_, '_>, tags: usize) {
    let (cache, entry) = entry(1024, tags).unwrap();
    bencher.bench_local(|| internals::judge(&cache, &entry));
}

/// The table knows tags, not entries: how many carry one makes no difference to it.
#[divan::bench(args = [1, 1_000, 1_000_000])]
fn raise(bencher: Bencher<'_, '_>, entries: u64) {
    let cache = carried(entries);
    let mut at = 0;
    bencher
        .with_inputs(|| {
            at += 1;
            Position::new(at)
        })
        .bench_local_values(|position| internals::raise(&cache, Tag::named("all"), position));
}
