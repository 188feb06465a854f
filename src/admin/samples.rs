//! What the node keeps of the last quarter of an hour, for the page's charts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde::Serialize;

use crate::clock::{self, Instant};
use crate::outcome::Outcome;
use crate::sync::MutexExt;
use crate::traffic::Traffic;

/// The length of an interval, and the number of intervals that are kept.
pub(super) const EVERY: Duration = Duration::from_secs(5);
const KEPT: usize = 180;

/// The last intervals.
#[derive(Debug, Default)]
pub(super) struct TrafficHistory(Mutex<Samples>);

#[derive(Debug, Default)]
struct Samples {
    /// All counts at the end of the last interval.
    last: Option<Totals>,
    intervals: VecDeque<(Instant, Interval)>,
}

/// All counts since the `Admin` was created, over all routes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    requests: u64,
    lookups: u64,
    hits: u64,
    /// How many responses from the cache, and from handlers, took up to so many microseconds.
    served: BTreeMap<u64, u64>,
    computed: BTreeMap<u64, u64>,
}

/// What happened within one interval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Interval {
    requests: u64,
    /// Requests that did not bypass the cache.
    lookups: u64,
    hits: u64,
    /// The 99th percentile of response times from the cache, and from handlers, in microseconds.
    served_p99: Option<u64>,
    computed_p99: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct HistoryReport {
    /// The length of an interval.
    interval_seconds: u64,
    /// The largest number of intervals that a node keeps.
    capacity: usize,
    /// Oldest first.
    intervals: Vec<DatedInterval>,
}

#[derive(Serialize)]
struct DatedInterval {
    /// How long ago it ended.
    seconds_ago: f64,
    #[serde(flatten)]
    interval: Interval,
}

impl Totals {
    pub(super) fn add(&mut self, traffic: &Traffic) {
        for outcome in Outcome::all() {
            let count = traffic.outcomes.outcome(outcome);
            self.requests += count;
            self.lookups += if matches!(outcome, Outcome::Bypass(_)) { 0 } else { count };
            self.hits += if outcome.is_hit() { count } else { 0 };
        }
        for (times, histogram) in
            [(&mut self.served, &traffic.served), (&mut self.computed, &traffic.computed)]
        {
            for (end, count) in histogram.counts() {
                *times.entry(end).or_default() += count;
            }
        }
    }

    fn since(&self, before: &Self) -> Interval {
        Interval {
            requests: self.requests.saturating_sub(before.requests),
            lookups: self.lookups.saturating_sub(before.lookups),
            hits: self.hits.saturating_sub(before.hits),
            served_p99: p99(&self.served, &before.served),
            computed_p99: p99(&self.computed, &before.computed),
        }
    }
}

/// The end of the bucket that has the 99th percentile of what was added to a histogram; `None` if nothing was.
fn p99(now: &BTreeMap<u64, u64>, before: &BTreeMap<u64, u64>) -> Option<u64> {
    let of_bucket = |(end, count): (&u64, &u64)| {
        (*end, count.saturating_sub(before.get(end).copied().unwrap_or_default()))
    };
    let added: Vec<(u64, u64)> = now.iter().map(of_bucket).collect();
    let all: u64 = added.iter().map(|(_, count)| count).sum();
    let mut above = all / 100;
    for (end, count) in added.into_iter().rev().filter(|(_, count)| *count > 0) {
        match above.checked_sub(count) {
            Some(left) => above = left,
            None => return Some(end),
        }
    }
    None
}

impl TrafficHistory {
    pub(super) fn add(&self, totals: Totals) {
        let mut samples = self.samples();
        if let Some(before) = &samples.last {
            let interval = totals.since(before);
            samples.intervals.push_back((clock::now(), interval));
        }
        samples.last = Some(totals);
        if samples.intervals.len() > KEPT {
            samples.intervals.pop_front();
        }
    }

    pub(super) fn report(&self) -> HistoryReport {
        let dated = |(ended, interval): &(Instant, Interval)| DatedInterval {
            seconds_ago: ended.elapsed().as_secs_f64(),
            interval: interval.clone(),
        };
        let intervals = self.samples().intervals.iter().map(dated).collect();
        HistoryReport { interval_seconds: EVERY.as_secs(), capacity: KEPT, intervals }
    }

    fn samples(&self) -> MutexGuard<'_, Samples> {
        self.0.lock_unpoisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_covers_the_samples_added_in_between() {
        let histogram = |pairs: &[(u64, u64)]| pairs.iter().copied().collect::<BTreeMap<_, _>>();
        let before = histogram(&[(4, 50), (1000, 7)]);
        assert_eq!(p99(&before, &before), None);
        let of = |pairs| p99(&histogram(pairs), &before);
        assert_eq!(of(&[(4, 51), (1000, 7)]), Some(4));
        assert_eq!(of(&[(4, 149), (1000, 8)]), Some(4), "one of a hundred took longer");
        assert_eq!(of(&[(4, 148), (1000, 9)]), Some(1000), "two of a hundred did");
        assert_eq!(of(&[(4, 50), (8, 3), (1000, 7)]), Some(8));
    }

    #[test]
    fn only_the_last_quarter_of_an_hour_is_kept() {
        let history = TrafficHistory::default();
        for requests in 0..1000 {
            history.add(Totals { requests: requests * requests, ..Totals::default() });
        }
        let report = history.report();
        assert_eq!((report.intervals.len(), report.capacity), (KEPT, KEPT));
        assert_eq!(EVERY * u32::try_from(KEPT).unwrap_or_default(), Duration::from_secs(900));
        let last = report.intervals.last().map(|last| last.interval.requests);
        assert_eq!(last, Some(999 * 999 - 998 * 998));
    }
}
