//! Statements whose results are not cached.

use super::UncachedStatement;
use crate::postgres::{Database, Dependencies};

/// The most statements to list.
const MOST: usize = 20;

/// The statements that ran more than once, by total time, largest first.
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
