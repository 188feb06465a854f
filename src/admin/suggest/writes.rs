//! How often something happened, and how many rows were written.

use std::collections::BTreeMap;
use std::time::Duration;

/// Rows written to tables in a while.
#[derive(Debug, Default)]
pub(super) struct Writes(BTreeMap<String, f64>);

impl Writes {
    /// Rows written to a table in each second.
    pub(super) fn per_second(&self, table: &str) -> Option<f64> {
        self.0.get(table).copied()
    }

    #[cfg(feature = "postgres")]
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
    pub(super) fn between(
        before: &BTreeMap<String, i64>,
        after: BTreeMap<String, i64>,
        time: Duration,
    ) -> Self {
        let seconds = time.as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |(table, after): (String, i64)| {
            let written = after - before.get(&table).copied().unwrap_or(after);
            (table, written.max(0) as f64 / seconds)
        };
        Self(after.into_iter().map(rate).collect())
    }
}

/// The rate per second of something that happened so many times `within` a period.
#[expect(clippy::cast_precision_loss, reason = "a rate needs no more")]
pub(super) fn rate(times: u64, within: Duration) -> f64 {
    times as f64 / within.as_secs_f64().max(f64::MIN_POSITIVE)
}
