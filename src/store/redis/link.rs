//! A long-lived connection, and its replacement when it breaks.
//!
//! A multiplexed connection matches replies to requests only by their order. The redis crate (1.8.1,
//! `aio/multiplexed_connection.rs`) ensures that a reply reaches no request but its own. Each request that was sent keeps
//! its place in `in_flight` until its reply is read, even if its caller has timed out or was cancelled; the late reply is
//! then dropped (`send_result`). A request whose caller has gone before it was sent is not sent (`start_send`). After an
//! error of the stream, the connection ends, and nothing more is read from it. A cluster connection does the same per node.
//! So a connection can be used further after a timeout; `tests/redis/faults.rs` tests this.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};
use std::time::Duration;

use deadpool_redis::PoolError;
use deadpool_redis::redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value};
use tokio::runtime::Handle as Runtime;
use tokio::time::{sleep, timeout};

use super::topology::{ConnectionHandle, PooledConnection, REPLY_WITHIN, RedisPool};
use crate::clock::{Instant, now};
use crate::expiring::{ExpiringGuard, ExpiringLock};
use crate::store::StoreError;
use crate::sync::{MutexExt, RwLockExt};

/// The timeout of one attempt to connect: name lookup, TLS, login and, in a cluster, the slot map.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// A task that is late by this much counts as stalled, and another one takes over.
const LATE: Duration = Duration::from_millis(500);
/// A request that was dropped sooner says nothing about the server: its caller may have disconnected.
pub(super) const SLOW: Duration = Duration::from_millis(20);

/// One request without a reply weighs as much as this many with one, so that a dead cluster node is noticed among live
/// ones.
const UNANSWERED: u32 = 8;
/// A server that has vanished sends no error, so three requests in a row without a reply count as a broken connection.
const STRAINED: u32 = 3 * UNANSWERED;

/// One long-lived connection.
pub(super) struct RedisLink {
    pool: Arc<RedisPool>,
    held: RwLock<Option<Connection>>,
    strain: AtomicU32,
    /// The lock of the task that opens another connection.
    replacing: ExpiringLock,
    /// When it last opened one, and how long it had paused before.
    replaced: Mutex<Option<(Instant, Duration)>>,
}

struct Connection {
    held: PooledConnection,
    handle: ConnectionHandle,
    /// Distinguishes errors of this connection from errors of the previous one.
    number: u64,
}

/// A handle of a connection, and the connection's number.
struct NumberedHandle {
    handle: ConnectionHandle,
    number: u64,
}

impl RedisLink {
    pub(super) fn new(pool: Arc<RedisPool>) -> Arc<Self> {
        let (strain, replacing) = (AtomicU32::new(0), ExpiringLock::default());
        let (held, replaced) = (RwLock::new(None), Mutex::default());
        Arc::new(Self { pool, held, strain, replacing, replaced })
    }

    /// Connects, once.
    pub(super) async fn connect(&self) -> Result<(), PoolError> {
        let timed_out =
            |_| PoolError::Backend(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        let held = timeout(CONNECT_WITHIN, self.pool.take()).await.map_err(timed_out)??;
        let mut slot = self.write();
        let number = slot.as_ref().map_or(0, |old| old.number) + 1;
        let handle = held.handle();
        let old = slot.replace(Connection { held, handle, number });
        self.strain.store(0, Ordering::Relaxed);
        drop(slot);
        if let Some(old) = old {
            old.held.discard();
        }
        Ok(())
    }

    pub(super) fn is_connected(&self) -> bool {
        self.read().is_some()
    }

    /// Runs a command on behalf of `count` waiting callers. Fails at once if there is no connection.
    pub(super) async fn run(
        self: &Arc<Self>,
        command: &Cmd,
        count: u32,
    ) -> Result<Value, StoreError> {
        let Some(NumberedHandle { mut handle, number }) = self.handle() else {
            self.replace();
            return Err(StoreError::Backend("not connected to Redis".into()));
        };
        let request = RedisRequest { link: self, since: now(), count, replied: false };
        match timeout(REPLY_WITHIN, handle.send(command)).await {
            Err(_) => Err(StoreError::Timeout(REPLY_WITHIN)),
            Ok(Ok(value)) => {
                request.replied();
                Ok(value)
            }
            Ok(Err(error)) => {
                request.failed(&error, number, &handle);
                Err(StoreError::Backend(Box::new(error)))
            }
        }
    }

    fn handle(&self) -> Option<NumberedHandle> {
        let slot = self.read();
        let Connection { handle, number, .. } = slot.as_ref()?;
        Some(NumberedHandle { handle: handle.clone(), number: *number })
    }

    /// Drops a broken connection, so that no other request waits on it.
    fn drop_broken(self: &Arc<Self>, number: u64) {
        let mut slot = self.write();
        let broken = slot.take_if(|connection| connection.number == number);
        drop(slot);
        if let Some(broken) = broken {
            broken.held.discard();
        }
        self.replace();
    }

    /// Opens another connection in the background, unless a task already does.
    pub(super) fn replace(self: &Arc<Self>) {
        // A request may be dropped outside any runtime; then the next request opens the connection.
        let Ok(runtime) = Runtime::try_current() else { return };
        if let Ok(lock) = self.replacing.try_lock(FIRST_PAUSE + LATE) {
            runtime.spawn(replace(Arc::downgrade(self), lock));
        }
    }

    /// The pause before the first attempt to replace a connection. It grows if the previous one was soon of no use, as when
    /// the server is a replica for a while.
    fn first_pause(&self) -> Duration {
        match *self.replaced() {
            Some((at, pause)) if at.elapsed() < LONGEST_PAUSE => (2 * pause).min(LONGEST_PAUSE),
            _ => FIRST_PAUSE,
        }
    }

    fn replaced(&self) -> MutexGuard<'_, Option<(Instant, Duration)>> {
        self.replaced.lock_unpoisoned()
    }

    fn strain(self: &Arc<Self>, count: u32) {
        let more = UNANSWERED.saturating_mul(count.min(STRAINED));
        if self.strain.fetch_add(more, Ordering::Relaxed).saturating_add(more) >= STRAINED {
            self.replace();
        }
    }

    fn relax(&self, count: u32) {
        if self.strain.load(Ordering::Relaxed) > 0 {
            let less = |strain: u32| Some(strain.saturating_sub(count));
            let _ = self.strain.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    fn is_well(&self) -> bool {
        self.is_connected() && self.strain.load(Ordering::Relaxed) < STRAINED
    }

    fn read(&self) -> RwLockReadGuard<'_, Option<Connection>> {
        self.held.read_unpoisoned()
    }

    fn write(&self) -> RwLockWriteGuard<'_, Option<Connection>> {
        self.held.write_unpoisoned()
    }
}

/// Tries to connect until a connection works (a new one, or the old one again) or the link is dropped. Stops if another
/// task has taken over, since this one's runtime did not poll it in time.
async fn replace(link: Weak<RedisLink>, lock: ExpiringGuard) {
    let Some(mut pause) = link.upgrade().map(|link| link.first_pause()) else { return };
    loop {
        let pause_now = pause.mul_f64(0.75 + 0.5 * fastrand::f64());
        if !lock.extend(pause_now + LATE) {
            return;
        }
        // Also before the first attempt: otherwise a server that accepts and disconnects would be flooded.
        sleep(pause_now).await;
        let paused = pause;
        pause = (2 * pause).min(LONGEST_PAUSE);
        let Some(link) = link.upgrade() else { return };
        if !lock.extend(CONNECT_WITHIN + LATE) {
            return;
        }
        match link.connect().await {
            Ok(()) => {
                *link.replaced() = Some((now(), paused));
                tracing::info!("connected to Redis again");
            }
            Err(error) => tracing::debug!(%error, "no connection to Redis yet"),
        }
        if link.is_well() {
            return;
        }
    }
}

/// A request in progress. If it is dropped without a reply, that counts against the connection.
struct RedisRequest<'a> {
    link: &'a Arc<RedisLink>,
    since: Instant,
    count: u32,
    replied: bool,
}

impl RedisRequest<'_> {
    fn replied(mut self) {
        self.replied = true;
        self.link.relax(self.count);
    }

    fn failed(self, error: &RedisError, number: u64, handle: &ConnectionHandle) {
        let socket = error.is_io_error() || error.is_unrecoverable_error();
        if error.is_timeout() || (socket && !handle.ends_with_its_socket()) {
            self.link.strain(self.count);
        } else if socket {
            self.link.drop_broken(number);
        } else if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            // The server is no longer the master; a new connection reaches the new master.
            self.link.replace();
        }
        self.replied();
    }
}

impl Drop for RedisRequest<'_> {
    fn drop(&mut self) {
        if !self.replied && self.since.elapsed() >= SLOW {
            self.link.strain(self.count);
        }
    }
}
