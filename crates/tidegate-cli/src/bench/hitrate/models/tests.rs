use proptest::prelude::*;

use super::super::optimal::optimal;
use super::*;

fn trace(accesses: Vec<u32>) -> Trace {
    let keys = accesses.iter().max().map_or(0, |most| most + 1);
    Trace { accesses, rows: (0..keys).collect(), tables: vec![0; keys as usize] }
}

fn lru(trace: &Trace, writes: &Writes, size: usize) -> u64 {
    hits(Lru::new(size), trace, writes)
}

fn none(trace: &Trace) -> Writes {
    Writes::draw(trace, 0.0, 0)
}

#[test]
fn lru_and_optimal_hit_counts_match_a_hand_count() {
    // Belady's own anomaly sequence, with room for three.
    let trace = trace(vec![0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4]);
    assert_eq!(lru(&trace, &none(&trace), 3), 2);
    assert_eq!(optimal(&trace, &none(&trace), 3), 5);
    assert_eq!(lru(&trace, &none(&trace), 5), 7);
    assert_eq!(optimal(&trace, &none(&trace), 5), 7);
}

#[test]
fn a_read_after_a_write_to_its_key_is_never_a_hit() {
    let mut trace = trace(vec![0, 0, 0, 1]);
    trace.accesses.pop();
    let all = Writes::draw(&trace, 1.0, 0);
    assert_eq!((lru(&trace, &all, 3), optimal(&trace, &all, 3)), (0, 0));
    assert_eq!((lru(&trace, &none(&trace), 3), optimal(&trace, &none(&trace), 3)), (2, 2));
}

type Hits = Box<dyn Fn(&Trace, &Writes) -> u64>;

fn all(size: usize) -> [Hits; 4] {
    [
        Box::new(move |trace, writes| hits(Lru::new(size), trace, writes)),
        Box::new(move |trace, writes| hits(S3Fifo::new(size), trace, writes)),
        Box::new(move |trace, writes| hits(Sieve::new(size), trace, writes)),
        Box::new(move |trace, writes| hits(TinyLfu::new(size), trace, writes)),
    ]
}

#[test]
fn frequency_policies_keep_popular_keys_and_lru_keeps_recent_ones() {
    // Six keys that are requested often, at first several times in a row, and others that are requested once.
    let first = (0..24).map(|at| at / 4);
    let popular = (0..6000).map(|at| if at % 2 == 0 { at / 2 % 6 } else { 10 + at });
    let popular = trace(first.chain(popular).collect());
    let [lru, s3_fifo, sieve, tiny_lfu] = all(10).map(|hits| hits(&popular, &none(&popular)));
    assert!(lru < 100, "{lru}");
    assert!(
        [s3_fifo, sieve, tiny_lfu].iter().all(|hits| *hits > 2900),
        "{s3_fifo} {sieve} {tiny_lfu}"
    );
    // Each key is requested three times in a short while, and then never again.
    let recent = trace((0..6000).map(|at| at / 18 * 6 + at % 6).collect());
    let [lru, s3_fifo, sieve, tiny_lfu] = all(10).map(|hits| hits(&recent, &none(&recent)));
    assert!(lru >= s3_fifo && lru > sieve && lru > tiny_lfu, "{lru} {s3_fifo} {sieve} {tiny_lfu}");
}

proptest! {
    #[test]
    fn no_policy_beats_the_optimal_one(
        accesses in proptest::collection::vec(0..20_u32, 1..200),
        size in 1..20_usize,
        share in 0.0..0.5,
        seed: u64,
    ) {
        let trace = trace(accesses);
        let writes = Writes::draw(&trace, share, seed);
        for (bounded, unbounded) in all(size).into_iter().zip(all(20)) {
            prop_assert!(bounded(&trace, &writes) <= optimal(&trace, &writes, size));
            prop_assert_eq!(unbounded(&trace, &writes), optimal(&trace, &writes, 20));
        }
    }
}
