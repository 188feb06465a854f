//! The last probe of a name: a new connection that shows which server is behind it.

use std::time::Duration;

use crate::clock::{self, Instant};
use crate::entry::Epoch;
use crate::postgres::deadline::late;
use crate::postgres::sql_error::has_lost_connection;

/// The minimum interval between two probes.
const PROBE_EVERY: Duration = Duration::from_millis(250);

/// The last probe.
#[derive(Debug, Default)]
pub(super) struct Probe {
    began: Option<Instant>,
    /// `None` if it failed, or was cancelled.
    epoch: Option<Epoch>,
    /// When it failed, and why.
    failed: Option<(Instant, ProbeFailure)>,
}

#[derive(Clone, Debug)]
struct ProbeFailure {
    why: String,
    /// Whether the connection broke. Otherwise the server responds, and its other connections are as good as before.
    is_lost: bool,
}

impl Probe {
    /// The result, if it counts for a caller that came at `called`: a success if the probe began later; a failure if it is
    /// recent, or came while the caller waited.
    pub(super) fn result_for(&self, called: Instant) -> Option<Result<Epoch, sqlx::Error>> {
        if let Some((at, failure)) = &self.failed
            && (*at >= called || at.elapsed() < PROBE_EVERY)
        {
            return Some(Err(failure.error()));
        }
        let epoch = self.epoch.filter(|_| self.began.is_some_and(|began| began >= called));
        epoch.map(Ok)
    }

    /// When the next one may begin; `None` before the first.
    pub(super) fn due(&self) -> Option<Instant> {
        self.began.map(|began| began + PROBE_EVERY)
    }

    pub(super) fn begin(&mut self) {
        *self = Self { began: Some(clock::now()), ..Self::default() };
    }

    pub(super) fn end(&mut self, found: &Result<Epoch, sqlx::Error>) {
        match found {
            Ok(epoch) => self.epoch = Some(*epoch),
            Err(error) => self.failed = Some((clock::now(), ProbeFailure::new(error))),
        }
    }
}

impl ProbeFailure {
    fn new(error: &sqlx::Error) -> Self {
        Self { why: error.to_string(), is_lost: has_lost_connection(error) }
    }

    fn error(&self) -> sqlx::Error {
        let why = self.why.clone();
        if self.is_lost { late(why) } else { sqlx::Error::Configuration(why.into()) }
    }
}
