//! The progress of a flight's leaders, and what waiting requests do because of it.

use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::clock::{self, Instant};
use crate::sync::{Mutex, MutexExt, MutexGuard};

/// A body of unknown length is still shared if it is complete within this time after its first byte.
const SOON: Duration = Duration::from_millis(100);

/// The progress of a flight's leaders.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<PaceState>,
    streams: Notify,
}

#[derive(Debug)]
struct PaceState {
    /// When the last leader began to compute.
    began: Instant,
    /// How many leaders wait for a permit. Overtaking them makes no sense: the overtaker would queue behind them.
    queued: usize,
    /// When the first byte of a body of unknown length came.
    streams_since: Option<Instant>,
}

/// What a waiting request does when its patience is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WaitStep {
    Wait,
    /// Compute in parallel with the current leader.
    Overtake,
    /// Stop waiting and compute its own response: the leader's body may take any time.
    Leave,
}

impl Pace {
    pub(super) fn new() -> Self {
        let state = PaceState { began: clock::now(), queued: 0, streams_since: None };
        Self { state: Mutex::new(state), streams: Notify::new() }
    }

    /// A leader begins to compute.
    pub(super) fn begin(&self) {
        self.state().began = clock::now();
    }

    /// Until this is dropped, a leader waits for a permit.
    pub(super) fn queue(&self) -> QueuedFill<'_> {
        self.state().queued += 1;
        QueuedFill(self)
    }

    /// Notes the first byte of a body of unknown length.
    pub(super) fn stream(&self) {
        self.state().streams_since.get_or_insert_with(clock::now);
        self.streams.notify_waiters();
    }

    /// Resolves when a body begins to stream, which shortens [`patience`](Self::patience).
    pub(super) fn streamed(&self) -> Notified<'_> {
        self.streams.notified()
    }

    /// How much longer to wait: until the leader has computed for `wait`, or its streaming body has taken [`SOON`].
    pub(super) fn patience(&self, wait: Duration) -> Duration {
        let state = self.state();
        let left = if state.queued > 0 { wait } else { less(wait, state.began) };
        state.streams_since.map_or(left, |since| left.min(less(SOON, since)))
    }

    /// The next step of a waiting request. Only one of them overtakes: this resets the leader's start time.
    pub(super) fn next(&self, wait: Duration) -> WaitStep {
        let mut state = self.state();
        if state.streams_since.is_some_and(|since| since.elapsed() >= SOON) {
            WaitStep::Leave
        } else if state.queued == 0 && state.began.elapsed() >= wait {
            state.began = clock::now();
            WaitStep::Overtake
        } else {
            WaitStep::Wait
        }
    }

    fn state(&self) -> MutexGuard<'_, PaceState> {
        self.state.lock_unpoisoned()
    }
}

fn less(wait: Duration, since: Instant) -> Duration {
    wait.saturating_sub(since.elapsed())
}

/// A leader waits for a permit to compute.
pub(crate) struct QueuedFill<'a>(&'a Pace);

impl Drop for QueuedFill<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.queued -= 1;
        state.began = clock::now();
    }
}
