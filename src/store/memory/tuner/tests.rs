#![allow(clippy::unwrap_used)]

use super::*;

/// Spreads numbers over all bits.
fn hash(key: u64) -> u64 {
    let mixed = (key ^ key >> 31).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 29
}

/// The hits of a store that follows the tuner, or these rules.
fn hits(keys: &[u64], capacity: u64, rules: Option<EvictionRules>) -> usize {
    let (tuner, mut shard) = (Tuner::new(capacity), Shard::new(capacity));
    let request = |key: &&u64| {
        let (hash, is_key) = (hash(**key), |kept: &u64| kept == *key);
        let rules = rules.unwrap_or_else(|| tuner.rules());
        let found = shard.get(hash, is_key, rules).map(|hit| (hit.weight, hit.is_renewal_due));
        if let Some((weight, is_renewal_due)) = found {
            tuner.note_hit(hash, weight);
            if is_renewal_due {
                shard.renew(hash, is_key);
            }
        } else {
            shard.insert(hash, **key, (), 1, rules, |()| false);
            tuner.note_stored(hash, 1);
        }
        found.is_some()
    };
    keys.iter().filter(request).count()
}

/// Requests by 300 users in turn, each for its own eight keys and only for a while.
fn visits(count: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(1);
    let mut users: Vec<u64> = (0..300).collect();
    let draw = |_| {
        let at = random.usize(..300);
        if random.u8(..50) == 0 {
            users[at] = random.u64(1000..1 << 40);
        }
        users[at] * 8 + random.u64(..8)
    };
    (0..count).map(draw).collect()
}

/// Requests for 20,000 keys, some of which are always more popular.
fn popular(count: usize) -> Vec<u64> {
    let mut random = fastrand::Rng::with_seed(2);
    let draw = |_| {
        let most = random.u64(1..20_000);
        let most = random.u64(1..=most);
        random.u64(..most)
    };
    (0..count).map(draw).collect()
}

#[test]
fn the_store_follows_the_rules_with_the_most_hits() {
    for keys in [visits(200_000), popular(200_000)] {
        let with = |rules| hits(&keys, 2000, rules);
        let best = CANDIDATES.into_iter().map(|rules| with(Some(rules))).max().unwrap();
        let worst = CANDIDATES.into_iter().map(|rules| with(Some(rules))).min().unwrap();
        let chosen = with(None);
        assert!(chosen * 200 >= best * 199, "{worst} {chosen} {best}");
        assert!(
            worst * 100 < best * 97,
            "{worst} {best}: these requests can't show the difference"
        );
    }
}

#[test]
fn the_sample_has_about_as_many_entries_as_it_should() {
    assert_eq!([0, 400, 6_399, 6_400, 12_800, u64::MAX].map(sample_bits), [3, 3, 3, 4, 5, 16]);
    // The entries turn out to be far larger than assumed.
    let tuner = Tuner::new(64 << 20);
    let before = tuner.mask.load(Ordering::Relaxed).count_ones();
    for key in 0..1 << 20 {
        let hash = hash(key);
        tuner.note_stored(hash, 32 << 10);
    }
    let after = tuner.mask.load(Ordering::Relaxed).count_ones();
    assert_eq!((before, after), (7, 3));
    let trials = tuner.sample.trials.try_lock().unwrap();
    assert!(trials.of.iter().all(|trial| trial.kept.weight() <= 8 << 20 && trial.kept.len() > 200));
}
