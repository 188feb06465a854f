//! A body buffer that is abandoned if the client reads too slowly.

use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep};

use super::buffer::BodyBuffer;
use crate::cache::Uncacheable;
use crate::sync::MutexExt;

/// A body that takes longer than this is not stored: it would hold memory, and block waiting requests, for as long as
/// its client likes.
pub(super) const SLOWEST: Duration = Duration::from_secs(30);

/// Other nodes wait no longer than this for a body of unknown length.
const LINGERING: Duration = Duration::from_millis(100);

/// A buffer until it is complete or abandoned.
#[derive(Debug)]
pub(crate) struct TimedBuffer {
    state: Arc<Mutex<TimedBufferState>>,
    watch: Option<AbortHandle>,
}

#[derive(Debug)]
struct TimedBufferState {
    capture: Option<Box<BodyBuffer>>,
    late: bool,
}

impl TimedBuffer {
    pub(crate) fn new(capture: Box<BodyBuffer>) -> Self {
        let state = TimedBufferState { capture: Some(capture), late: false };
        Self { state: Arc::new(Mutex::new(state)), watch: None }
    }

    /// Starts the time limit, as from now on the body arrives at the client's pace. Another task enforces the limit, since
    /// the body of a client that reads nothing is not polled.
    pub(crate) fn streams(&mut self, is_measured: bool, to_client: bool) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if let Some(capture) = &mut lock(&self.state).capture {
            capture.streams(is_measured, to_client);
            let watch = watch(Arc::downgrade(&self.state), sleep(SLOWEST));
            self.watch = Some(runtime.spawn(watch).abort_handle());
        }
    }

    pub(crate) fn is_some(&self) -> bool {
        lock(&self.state).capture.is_some()
    }

    pub(crate) fn take(&mut self) -> Option<Box<BodyBuffer>> {
        lock(&self.state).capture.take()
    }

    /// Moves the buffer and its time limit to the task that reads the rest after the client has disconnected.
    pub(crate) fn hand_over(&mut self) -> Self {
        Self { state: self.state.clone(), watch: self.watch.take() }
    }

    /// Puts the buffer back, or rejects it if its time is over.
    pub(crate) fn put_back(&mut self, capture: Box<BodyBuffer>) {
        let mut state = lock(&self.state);
        if state.late {
            drop(state);
            capture.refuse(too_slow());
        } else {
            state.capture = Some(capture);
        }
    }
}

impl Drop for TimedBuffer {
    fn drop(&mut self) {
        if let Some(watch) = self.watch.take() {
            watch.abort();
        }
    }
}

async fn watch(held: Weak<Mutex<TimedBufferState>>, late: Sleep) {
    sleep(LINGERING).await;
    if let Some(state) = held.upgrade()
        && let Some(capture) = &mut lock(&state).capture
    {
        capture.lingers();
    }
    late.await;
    let Some(state) = held.upgrade() else { return };
    let capture = {
        let mut state = lock(&state);
        state.late = true;
        state.capture.take()
    };
    if let Some(capture) = capture {
        capture.refuse(too_slow());
    }
}

fn too_slow() -> Uncacheable {
    Uncacheable::new("slow", format!("the client took longer than {SLOWEST:?} to read the body"))
}

fn lock(state: &Mutex<TimedBufferState>) -> MutexGuard<'_, TimedBufferState> {
    state.lock_unpoisoned()
}
