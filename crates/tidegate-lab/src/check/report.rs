//! Counts and prints what happened.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The maximum number of distinct reasons for failed requests.
const REASONS: usize = 100;

/// Counts, and the violations in full.
#[derive(Default)]
pub(crate) struct Report(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    outcomes: BTreeMap<String, u64>,
    writes: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    failed: BTreeMap<String, u64>,
    in_batches: u64,
    unbounded: u64,
    off_primary: u64,
    kinds: BTreeMap<&'static str, u64>,
    /// The number of stale responses by staleness, in microseconds rounded to two digits.
    stale: BTreeMap<u64, u64>,
    violations: Vec<String>,
}

impl Report {
    /// Counts a response by the kind of its request.
    pub(crate) fn kind(&self, kind: &'static str) {
        *self.lock().kinds.entry(kind).or_default() += 1;
    }

    /// Counts a response by its `Cache-Status`.
    pub(crate) fn answer(&self, cache_status: &str) {
        let mut counts = self.lock();
        let detail = cache_status.split("detail=\"").nth(1).unwrap_or_default();
        let detail = detail.trim_end_matches('"');
        let hit = cache_status.contains("; hit") || cache_status.contains("collapsed");
        if hit || detail.contains("from replica") {
            counts.off_primary += 1;
        }
        let word = detail.split(',').next().unwrap_or_default();
        let outcome = if hit { format!("hit: {word}") } else { format!("computed: {word}") };
        *counts.outcomes.entry(outcome).or_default() += 1;
    }

    /// Counts a response whose content had been out of date for this long.
    pub(crate) fn stale(&self, by: Duration) {
        *self.lock().stale.entry(two_digits(by)).or_default() += 1;
    }

    /// Counts a response that says of itself that it may be out of date.
    pub(crate) fn unbounded(&self) {
        self.lock().unbounded += 1;
    }

    pub(crate) fn write(&self, kind: &'static str) {
        *self.lock().writes.entry(kind).or_default() += 1;
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        *self.lock().faults.entry(kind).or_default() += 1;
    }

    /// Counts failed requests.
    pub(crate) fn failed(&self, why: &str, requests: usize) {
        let mut counts = self.lock();
        let is_new = !counts.failed.contains_key(why);
        let why = if is_new && counts.failed.len() >= REASONS { "others" } else { why };
        *counts.failed.entry(why.into()).or_default() += requests as u64;
    }

    /// Counts responses that came in one batch.
    pub(crate) fn batch(&self, responses: usize) {
        self.lock().in_batches += responses as u64;
    }

    pub(crate) fn violation(&self, what: String) {
        eprintln!("VIOLATION {what}");
        self.lock().violations.push(what);
    }

    pub(crate) fn violations(&self) -> usize {
        self.lock().violations.len()
    }

    /// Faults and failed requests so far.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let counts = self.lock();
        (counts.faults.values().sum(), counts.failed.values().sum())
    }

    #[expect(clippy::cast_precision_loss, reason = "shares need no more")]
    pub(crate) fn print(&self, reads: u64) {
        let counts = self.lock();
        println!("responses checked: {reads}");
        println!("in batches: {}", counts.in_batches);
        table("responses by source", &counts.kinds);
        table("responses by outcome", &counts.outcomes);
        table("writes", &counts.writes);
        table("faults", &counts.faults);
        table("failed requests", &counts.failed);
        let share = 100.0 * counts.off_primary as f64 / reads.max(1) as f64;
        println!("served without the primary: {share:.1} %");
        println!("marked as possibly stale (replica-behind): {}", counts.unbounded);
        let by = |per_mille| counts.out_of_date(reads, per_mille);
        let most = counts.stale.keys().next_back().copied().unwrap_or_default();
        let (p50, p99, p999, most) = (by(500), by(990), by(999), Duration::from_micros(most));
        println!("staleness: p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, max {most:?}");
        println!("violations: {}", counts.violations.len());
        if counts.violations.is_empty() && reads > 0 {
            let share = 3.0 / reads as f64;
            let one_in = reads / 3;
            println!(
                "fewer than one response in {one_in} is wrong, with 95 % confidence (3/N = {share:.1e})"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    /// A quantile of staleness, in thousandths of all responses.
    fn out_of_date(&self, answers: u64, per_mille: u64) -> Duration {
        // Responses that were up to date come first, with zero.
        let mut before = answers.saturating_sub(self.stale.values().sum());
        let rank = answers * per_mille / 1000;
        if rank < before {
            return Duration::ZERO;
        }
        for (by, count) in &self.stale {
            before += count;
            if rank < before {
                return Duration::from_micros(*by);
            }
        }
        Duration::ZERO
    }
}

/// Microseconds, rounded down to two significant digits.
fn two_digits(by: Duration) -> u64 {
    let micros = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
    let unit = 10u64.pow(micros.max(10).ilog10() - 1);
    micros / unit * unit
}

fn table<K: std::fmt::Display>(title: &str, counts: &BTreeMap<K, u64>) {
    println!("{title}:");
    for (name, count) in counts {
        println!("  {count:>9}  {name}");
    }
}
