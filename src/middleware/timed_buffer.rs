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
    timeout: Option<AbortHandle>,
}

#[derive(Debug)]
struct TimedBufferState {
    buffer: Option<Box<BodyBuffer>>,
    late: bool,
}

impl TimedBuffer {
    pub(crate) fn new(buffer: Box<BodyBuffer>) -> Self {
        let state = TimedBufferState { buffer: Some(buffer), late: false };
        Self { state: Arc::new(Mutex::new(state)), timeout: None }
    }

    /// Starts the time limit, as from now on the body arrives at the client's pace. Another task enforces the limit, since
    /// the body of a client that reads nothing is not polled.
    pub(crate) fn streams(&mut self, is_measured: bool, to_client: bool) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if let Some(buffer) = &mut lock(&self.state).buffer {
            buffer.streams(is_measured, to_client);
            let timeout = timeout(Arc::downgrade(&self.state), sleep(SLOWEST));
            self.timeout = Some(runtime.spawn(timeout).abort_handle());
        }
    }

    pub(crate) fn is_some(&self) -> bool {
        lock(&self.state).buffer.is_some()
    }

    pub(crate) fn take(&mut self) -> Option<Box<BodyBuffer>> {
        lock(&self.state).buffer.take()
    }

    /// Moves the buffer and its time limit to the task that reads the rest after the client has disconnected.
    pub(crate) fn hand_over(&mut self) -> Self {
        Self { state: self.state.clone(), timeout: self.timeout.take() }
    }

    /// Puts the buffer back, or rejects it if its time is over.
    pub(crate) fn put_back(&mut self, buffer: Box<BodyBuffer>) {
        let mut state = lock(&self.state);
        if state.late {
            drop(state);
            buffer.refuse(too_slow());
        } else {
            state.buffer = Some(buffer);
        }
    }
}

impl Drop for TimedBuffer {
    fn drop(&mut self) {
        if let Some(timeout) = self.timeout.take() {
            timeout.abort();
        }
    }
}

async fn timeout(held: Weak<Mutex<TimedBufferState>>, late: Sleep) {
    sleep(LINGERING).await;
    if let Some(state) = held.upgrade()
        && let Some(buffer) = &mut lock(&state).buffer
    {
        buffer.lingers();
    }
    late.await;
    let Some(state) = held.upgrade() else { return };
    let buffer = {
        let mut state = lock(&state);
        state.late = true;
        state.buffer.take()
    };
    if let Some(buffer) = buffer {
        buffer.refuse(too_slow());
    }
}

fn too_slow() -> Uncacheable {
    Uncacheable::new("slow", format!("the client took longer than {SLOWEST:?} to read the body"))
}

fn lock(state: &Mutex<TimedBufferState>) -> MutexGuard<'_, TimedBufferState> {
    state.lock_unpoisoned()
}
