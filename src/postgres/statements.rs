//! Reads that no cached answer holds, for those who ask what is worth caching.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::executor::Statement;
use super::plan::Plan;
use crate::clock::{self, Instant};
use crate::traffic::Recent;

/// Texts that are told apart.
const MOST: usize = 256;

/// How long a statement counts as seen lately.
const LATELY: Duration = Duration::from_secs(60);

/// Statements that were run by the reader, for no answer that is kept. Nothing is noted before somebody looks on.
#[derive(Debug)]
pub(crate) struct Statements {
    is_on: AtomicBool,
    texts: Mutex<HashMap<String, Ran>>,
    recent: Recent<Instant>,
}

/// How often a text was run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ran {
    pub(crate) times: u64,
    /// Until the first row, together.
    pub(crate) took: Duration,
    /// Of a sample: how many were looked at, and how many had been run with the same arguments in the last minute.
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
    pub(crate) fn turn_on(&self) {
        self.is_on.store(true, Ordering::Relaxed);
    }

    /// A statement begins; `None` if it is of no interest.
    pub(super) fn begin(&self, plan: &Plan) -> Option<Instant> {
        let counts =
            self.is_on.load(Ordering::Relaxed) && plan.record.is_none() && !plan.primary_only;
        counts.then(clock::now)
    }

    /// Its first row is here.
    pub(super) fn end(&self, began: Option<Instant>, statement: &Statement) {
        let Some(began) = began else { return };
        let (took, sql) = (began.elapsed(), statement.sql.as_str());
        let mut hasher = DefaultHasher::new();
        // sqlx shows arguments no other way.
        (sql, format!("{:?}", statement.arguments)).hash(&mut hasher);
        let repeated = self.recent.exchange(hasher.finish(), |last| {
            let last = last.replace(began);
            last.is_some_and(|last| began.saturating_duration_since(last) < LATELY)
        });
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if !texts.contains_key(sql) {
            if texts.len() >= MOST {
                return;
            }
            texts.insert(sql.to_owned(), Ran::default());
        }
        let Some(ran) = texts.get_mut(sql) else { return };
        ran.times += 1;
        ran.took += took;
        ran.sampled += u64::from(repeated.is_some());
        ran.repeated += u64::from(repeated == Some(true));
    }

    /// All that were run.
    pub(crate) fn all(&self) -> HashMap<String, Ran> {
        self.texts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
