//! Statistics of uncached reads, which show what is worth caching.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::statement::RepeatableStatement;
use crate::clock::{self, Instant};
use crate::sync::MutexExt;
use crate::traffic::Recent;

/// The maximum number of texts that are listed: those that took longest.
const MOST: usize = 256;

/// A longer text is not noted.
const LONGEST: usize = 64 * 1024;

/// The number of bytes of the arguments' debug text by which statements are distinguished.
const MOST_BYTES: usize = 4096;

/// How long a statement counts as recently seen.
const LATELY: Duration = Duration::from_secs(60);

/// Statements that the reader ran for responses that are not cached. Recording starts with `turn_on`.
#[derive(Debug)]
pub(crate) struct Statements {
    is_on: AtomicBool,
    texts: Mutex<HashMap<String, StatementStats>>,
    recent: Recent<Instant>,
}

/// A hash of the text that is written to it, up to a length.
struct Hashed {
    hasher: DefaultHasher,
    left: usize,
}

impl Write for Hashed {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.left = self.left.checked_sub(text.len()).ok_or(fmt::Error)?;
        self.hasher.write(text.as_bytes());
        Ok(())
    }
}

/// How often a text was run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StatementStats {
    pub(crate) times: u64,
    /// The total time until the first row.
    pub(crate) took: Duration,
    /// The size of the sample, and how many statements in it had been run with the same arguments in the last minute.
    pub(crate) sampled: u64,
    pub(crate) repeated: u64,
}

impl Default for Statements {
    fn default() -> Self {
        Self {
            is_on: AtomicBool::new(false),
            texts: Mutex::default(),
            recent: Recent::new(1 << 16),
        }
    }
}

impl Statements {
    /// A statement begins that could be recorded; `None` if none is.
    pub(super) fn begin(&self) -> Option<Instant> {
        self.is_on.load(Ordering::Relaxed).then(clock::now)
    }

    /// The statement's first row has arrived.
    pub(super) fn end(&self, began: Option<Instant>, statement: &RepeatableStatement) {
        let Some(began) = began else { return };
        let (took, sql) = (began.elapsed(), statement.sql.as_str());
        if sql.len() > LONGEST {
            return;
        }
        let mut hashed = Hashed { hasher: DefaultHasher::new(), left: MOST_BYTES };
        sql.hash(&mut hashed.hasher);
        // sqlx exposes arguments only in the debug text. If it is long, only its beginning is hashed.
        let _ = write!(hashed, "{:?}", statement.arguments);
        let repeated = self.recent.exchange(hashed.hasher.finish(), |last| {
            let last = last.replace(began);
            last.is_some_and(|last| began.saturating_duration_since(last) < LATELY)
        });
        let mut texts = self.texts.lock_unpoisoned();
        if !texts.contains_key(sql) {
            if texts.len() >= MOST {
                let least =
                    texts.iter().min_by_key(|(_, ran)| ran.took).map(|(sql, _)| sql.clone());
                least.map(|least| texts.remove(&least));
            }
            texts.insert(sql.to_owned(), StatementStats::default());
        }
        let Some(ran) = texts.get_mut(sql) else { return };
        ran.times += 1;
        ran.took += took;
        ran.sampled += u64::from(repeated.is_some());
        ran.repeated += u64::from(repeated == Some(true));
    }
}

#[cfg(feature = "admin")]
impl Statements {
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// All that were run.
    pub(crate) fn all(&self) -> HashMap<String, StatementStats> {
        self.texts.lock_unpoisoned().clone()
    }
}

#[cfg(all(test, feature = "admin"))]
mod tests {
    use super::*;

    #[test]
    fn a_slow_statement_is_recorded_even_if_the_table_is_full() {
        let statements = Statements::default();
        let run = |sql: String, ago: u64| {
            let began = clock::now().checked_sub(Duration::from_millis(ago));
            let statement = RepeatableStatement::take(sqlx::query(sqlx::AssertSqlSafe(sql)));
            statements.end(began, &statement.expect("a statement"));
        };
        for number in 0..MOST {
            run(format!("select {number}"), 1);
        }
        run("select slow()".to_owned(), 1000);
        run("select 'x'".to_owned(), 1);
        run(format!("select '{}'", "x".repeat(LONGEST)), 1000);
        let all = statements.all();
        assert_eq!(all.len(), MOST);
        assert_eq!(all["select slow()"].times, 1);
        assert!(all.keys().all(|sql| sql.len() <= LONGEST));
    }
}
