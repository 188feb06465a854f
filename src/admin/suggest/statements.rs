//! Statements that no cached answer holds.

use super::UncachedStatement;
use crate::postgres::{Database, Dependencies};

/// As many as people read.
const MOST: usize = 20;

/// All that were run twice or more, those first that took most time.
#[expect(clippy::cast_precision_loss, reason = "ratios need no more")]
pub(super) fn all(db: &Database) -> Vec<UncachedStatement> {
    let mut ran: Vec<_> =
        db.inner.statements.all().into_iter().filter(|(_, ran)| ran.times > 1).collect();
    ran.sort_by_key(|(_, ran)| std::cmp::Reverse(ran.took));
    let statement = |(sql, ran): (String, crate::postgres::StatementStats)| {
        let (tables, unfit) =
            match db.inner.known.get(&sql).as_ref().map(|found| &*found.dependencies) {
                Some(Dependencies::Tables(tables)) => {
                    (tables.iter().map(|table| table.name.clone()).collect(), None)
                }
                Some(Dependencies::Unfit(unfit)) => (Vec::new(), Some(unfit.to_string())),
                None => (
                    Vec::new(),
                    Some("it was not looked at yet: call it by db.cached to see".into()),
                ),
            };
        UncachedStatement {
            sql,
            times: ran.times,
            milliseconds: ran.took.as_secs_f64() * 1e3 / ran.times as f64,
            repeated: if ran.sampled == 0 { 0.0 } else { ran.repeated as f64 / ran.sampled as f64 },
            tables,
            unfit,
        }
    };
    ran.into_iter().take(MOST).map(statement).collect()
}
