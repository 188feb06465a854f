//! A histogram of durations.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four buckets per power of two, up to 268 s.
const BUCKETS: usize = 108;

/// Counts durations in buckets whose upper bounds are at most a quarter above the lower ones.
#[derive(Debug)]
pub(crate) struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Histogram {
    pub(crate) fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }
}

/// The bucket of a duration: its highest bit, and the two bits after that.
fn bucket(micros: u64) -> usize {
    let small = usize::try_from(micros).unwrap_or(usize::MAX);
    if small < 4 {
        return small;
    }
    let power = micros.ilog2();
    let quarter = usize::try_from((micros >> (power - 2)) & 3).unwrap_or_default();
    ((power as usize - 1) * 4 + quarter).min(BUCKETS - 1)
}

#[cfg(feature = "admin")]
impl Histogram {
    /// The non-empty buckets: the upper bound in microseconds, and the count.
    pub(crate) fn counts(&self) -> Vec<(u64, u64)> {
        let counts = self.0.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        counts.enumerate().filter(|(_, n)| *n > 0).map(|(at, n)| (end(at), n)).collect()
    }

    /// The approximate sum of all durations, in seconds: each counts as the upper bound of its bucket.
    #[expect(clippy::cast_precision_loss, reason = "a sum of estimates needs no more")]
    pub(crate) fn seconds(&self) -> f64 {
        self.counts().iter().map(|(end, n)| *end as f64 * *n as f64 / 1e6).sum()
    }
}

/// Where a bucket ends, in microseconds.
#[cfg(feature = "admin")]
fn end(bucket: usize) -> u64 {
    match bucket {
        0..4 => bucket as u64 + 1,
        _ => (5 + bucket as u64 % 4) << (bucket / 4 - 1),
    }
}

#[cfg(all(test, feature = "admin"))]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_just_below_the_end_of_its_bucket() {
        for micros in (0..5000).chain([1 << 20, (1 << 27) - 1]) {
            let end = end(bucket(micros));
            assert!(micros < end && end <= micros + micros / 4 + 1, "{micros} and {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn recorded_durations_are_counted_and_summed() {
        let histogram = Histogram::default();
        for micros in [3, 3, 1000] {
            histogram.note(Duration::from_micros(micros));
        }
        assert_eq!(histogram.counts(), [(4, 2), (1024, 1)]);
        assert!((histogram.seconds() - 0.001_032).abs() < 1e-9);
    }
}
