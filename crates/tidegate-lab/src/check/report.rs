//! What happened.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Counts, and the first violations in full.
#[derive(Default)]
pub(crate) struct Report(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    outcomes: BTreeMap<String, u64>,
    writes: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    failed: BTreeMap<String, u64>,
    unbounded: u64,
    off_primary: u64,
    stale: Vec<Duration>,
    violations: Vec<String>,
}

impl Report {
    /// An answer, by its `Cache-Status`.
    pub(crate) fn answer(&self, cache_status: &str) {
        let mut counts = self.lock();
        let detail = cache_status.split("detail=\"").nth(1).unwrap_or_default();
        let detail = detail.trim_end_matches('"');
        let hit = cache_status.contains("; hit") || cache_status.contains("collapsed");
        if hit || detail.contains("from replica") {
            counts.off_primary += 1;
        }
        let word = detail.split(',').next().unwrap_or_default();
        let outcome = if hit { format!("hit: {word}") } else { format!("made: {word}") };
        *counts.outcomes.entry(outcome).or_default() += 1;
    }

    /// How long what the answer shows had been out of date.
    pub(crate) fn stale(&self, by: Duration) {
        self.lock().stale.push(by);
    }

    /// An answer that says itself that it may be out of date.
    pub(crate) fn unbounded(&self) {
        self.lock().unbounded += 1;
    }

    pub(crate) fn write(&self, kind: &'static str) {
        *self.lock().writes.entry(kind).or_default() += 1;
    }

    pub(crate) fn fault(&self, kind: &'static str) {
        *self.lock().faults.entry(kind).or_default() += 1;
    }

    /// A request that was not answered as it should.
    pub(crate) fn failed(&self, why: String) {
        *self.lock().failed.entry(why).or_default() += 1;
    }

    pub(crate) fn violation(&self, what: String) {
        eprintln!("VIOLATION {what}");
        self.lock().violations.push(what);
    }

    pub(crate) fn violations(&self) -> usize {
        self.lock().violations.len()
    }

    #[expect(clippy::cast_precision_loss, reason = "shares need no more")]
    pub(crate) fn print(&self, reads: u64) {
        let mut counts = self.lock();
        println!("answers checked: {reads}");
        table("answered by", &counts.outcomes);
        table("writes", &counts.writes);
        table("faults", &counts.faults);
        table("not answered", &counts.failed);
        let share = 100.0 * counts.off_primary as f64 / reads.max(1) as f64;
        println!("taken off the primary: {share:.1} %");
        println!("said of themselves that they may be out of date: {}", counts.unbounded);
        counts.stale.sort_unstable();
        // Of all answers: those that were not out of date come first, with zero.
        let fresh = reads.saturating_sub(counts.stale.len() as u64);
        let by = |per_mille: u64| {
            let rank = (reads * per_mille / 1000).checked_sub(fresh);
            let index = rank.and_then(|rank| usize::try_from(rank).ok());
            index.and_then(|index| counts.stale.get(index)).copied().unwrap_or_default()
        };
        let (p50, p99, p999) = (by(500), by(990), by(999));
        let most = counts.stale.last().copied().unwrap_or_default();
        println!("out of date by: p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}, at most {most:?}");
        println!("violations: {}", counts.violations.len());
        if counts.violations.is_empty() && reads > 0 {
            println!("so fewer than one answer in {} is wrong, with 95 % confidence", reads / 3);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn table<K: std::fmt::Display>(title: &str, counts: &BTreeMap<K, u64>) {
    println!("{title}:");
    for (name, count) in counts {
        println!("  {count:>9}  {name}");
    }
}
