//! Statements whose results are not cached.

use std::fmt;

use serde::Serialize;

use crate::admin::respond::percent;
#[cfg(feature = "postgres")]
use crate::postgres::{Database, Dependencies};

/// The most statements to list.
#[cfg(feature = "postgres")]
const MOST: usize = 20;

/// A statement whose result is not cached.
#[derive(Serialize)]
pub(super) struct UncachedStatement {
    sql: String,
    times: u64,
    /// The average time to the first row.
    milliseconds: f64,
    /// The share of runs that repeat the arguments of a run within the last minute: the upper limit of the hit ratio with
    /// a TTL of one minute.
    repeated: f64,
    /// The tables that the statement depends on; empty if its results can't be stored.
    tables: Vec<String>,
    uncacheable: Option<String>,
}

/// The statements that ran more than once, by total time, largest first.
#[cfg(feature = "postgres")]
#[expect(clippy::cast_precision_loss, reason = "ratios need no more")]
pub(super) fn all(db: &Database) -> Vec<UncachedStatement> {
    let mut ran: Vec<_> =
        db.inner.statements.all().into_iter().filter(|(_, ran)| ran.times > 1).collect();
    ran.sort_by_key(|(_, ran)| std::cmp::Reverse(ran.took));
    let statement = |(sql, ran): (String, crate::postgres::StatementStats)| {
        let (tables, uncacheable) =
            match db.inner.known.get(&sql).as_ref().map(|found| &*found.dependencies) {
                Some(Dependencies::Tables(tables)) => {
                    (tables.iter().map(|table| table.name.clone()).collect(), None)
                }
                Some(Dependencies::Unanalyzable(uncacheable)) => {
                    (Vec::new(), Some(uncacheable.to_string()))
                }
                None => {
                    (Vec::new(), Some("not analysed yet: run it through db.cached to see".into()))
                }
            };
        UncachedStatement {
            sql,
            times: ran.times,
            milliseconds: ran.took.as_secs_f64() * 1e3 / ran.times as f64,
            repeated: if ran.sampled == 0 { 0.0 } else { ran.repeated as f64 / ran.sampled as f64 },
            tables,
            uncacheable,
        }
    };
    ran.into_iter().take(MOST).map(statement).collect()
}

impl fmt::Display for UncachedStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sql = self.sql.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(f, "query {sql}")?;
        let repeated = percent(self.repeated);
        writeln!(
            f,
            "  run {} times, {:.2} ms each, {repeated} repeated within a minute",
            self.times, self.milliseconds
        )?;
        match &self.uncacheable {
            Some(why) => writeln!(f, "  can't be cached: {why}"),
            None => {
                writeln!(f, "  depends on {}: db.cached(&cache, policy)", self.tables.join(", "))
            }
        }
    }
}
