//! Many requests at once for one answer that is not there: `cargo bench -p tidegate --all-features --bench flight`.

#![allow(missing_docs, clippy::unwrap_used)]

mod cases;

use cases::{App, FOLLOWERS, flight, values};
use divan::Bencher;
use divan::counter::ItemsCount;
use tidegate::Key;

fn main() {
    divan::main();
}

#[divan::bench]
fn collapsed(bencher: Bencher<'_, '_>) {
    let (app, policy) = (App::cached().unwrap(), values());
    let mut at = 0_u64;
    let another = || {
        at += 1;
        Key::new("flight").part(at.to_le_bytes()).finish()
    };
    bencher
        .counter(ItemsCount::new(FOLLOWERS))
        .with_inputs(another)
        .bench_local_values(|key| assert_eq!(flight(&app, &key, &policy), 1));
}
