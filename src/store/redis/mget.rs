//! Batches concurrent reads into one MGET.
//!
//! A read adds itself to a list, and the first one on the list spawns a task. The task yields once, so that other tasks can
//! add their reads, and then sends the whole list as one MGET. Under load, that is one command and one pair of system calls
//! for many reads, and it costs the server less than as many GETs. A single read is sent as GET, without delay.
//!
//! The task runs on the runtime of the first read, which may stop polling it at any time. So a read that is still on the
//! list after [`LATE`] sends the list itself, and a read that was sent waits for as long as a command may take.
//!
//! No server of a cluster has the keys of all slots, so in a cluster each read is a GET. The same applies after a server
//! has rejected MGET.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, ServerErrorKind, Value, cmd};
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::links::RedisLinks;
use super::reply::unexpected;
use super::script::error_kind;
use super::topology::REPLY_WITHIN;
use crate::clock::{Instant, now};
use crate::store::StoreError;
use crate::store::split::MOST_TOGETHER;
use crate::sync::MutexExt;

/// A call that reads fewer names than this collects them with those of other callers.
const FEW: usize = 16;

/// How long a list may wait for the task of its first read to send it. A `Guard` waits several times as long.
const LATE: Duration = Duration::from_millis(10);

/// Collects reads, and has those that have not been sent yet.
pub(super) struct MgetBatcher {
    links: Arc<RedisLinks>,
    waiting: Mutex<Waiting>,
    together: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    reads: Vec<PendingRead>,
    /// When the first read on the list arrived.
    since: Option<Instant>,
}

/// The result of one read.
type ReadValue = Result<Value, StoreError>;

struct PendingRead {
    name: String,
    reply: oneshot::Sender<ReadValue>,
}

impl MgetBatcher {
    /// `together` says whether one command may name several keys.
    pub(super) fn new(links: Arc<RedisLinks>, together: bool) -> Self {
        Self { links, waiting: Mutex::default(), together: AtomicBool::new(together) }
    }

    /// Whether one command reads several names.
    pub(super) fn are_together(&self) -> bool {
        self.together.load(Ordering::Relaxed)
    }

    /// Reads the value under a name.
    pub(super) async fn read(self: &Arc<Self>, name: String) -> Result<Value, StoreError> {
        if !self.are_together() {
            return self.read_alone(&name).await;
        }
        let (reply, receiver) = oneshot::channel();
        if self.add(PendingRead { name, reply }) {
            tokio::spawn(send_collected(self.clone()));
        }
        match self.await_reply(receiver).await? {
            Ok(reply) => reply,
            Err(_) => Err(StoreError::Backend("the read was abandoned".into())),
        }
    }

    /// Reads the values under at most [`MOST_TOGETHER`] names. A few are collected with the reads of other callers; more are
    /// a command of their own.
    pub(super) async fn read_many(self: &Arc<Self>, names: Vec<String>) -> Vec<ReadValue> {
        if names.len() < FEW {
            return join_all(names.into_iter().map(|name| self.read(name))).await;
        }
        match self.read_together(&names).await {
            Some(values) => values,
            None => join_all(names.iter().map(|name| self.read_alone(name))).await,
        }
    }

    /// Reads the values by one command; `None` if the server rejects it.
    async fn read_together(&self, names: &[String]) -> Option<Vec<ReadValue>> {
        if !self.are_together() {
            return None;
        }
        if let [name] = names {
            return Some(vec![self.read_alone(name).await]);
        }
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let error = match self.links.run_for(&mget(names), count).await {
            Ok(Value::Array(values)) if values.len() == names.len() => {
                return Some(values.into_iter().map(Ok).collect());
            }
            Ok(other) => unexpected("MGET", &other),
            Err(error) if is_refused(&error) => {
                tracing::info!(%error, "Redis rejects MGET: using GET for each key");
                self.together.store(false, Ordering::Relaxed);
                return None;
            }
            Err(error) => error,
        };
        Some(error.repeated(names.len()).map(Err).collect())
    }

    /// Waits for the reply to a read on the list.
    async fn await_reply<T>(
        self: &Arc<Self>,
        mut receiver: oneshot::Receiver<T>,
    ) -> Result<Reply<T>, StoreError> {
        if let Ok(reply) = timeout(LATE, &mut receiver).await {
            return Ok(reply);
        }
        let late = self.take_late();
        if !late.is_empty() {
            tokio::spawn(send_all(self.clone(), late));
        }
        timeout(REPLY_WITHIN + LATE, receiver)
            .await
            .map_err(|_late| StoreError::Timeout(REPLY_WITHIN))
    }

    async fn read_alone(&self, name: &str) -> Result<Value, StoreError> {
        self.links.run(cmd("GET").arg(name)).await
    }

    /// Adds a read to the list, and returns whether it is the first.
    fn add(&self, read: PendingRead) -> bool {
        let mut waiting = self.lock();
        waiting.reads.push(read);
        let is_first = waiting.reads.len() == 1;
        if is_first {
            waiting.since = Some(now());
        }
        is_first
    }

    fn take(&self) -> Vec<PendingRead> {
        self.lock().take()
    }

    /// Takes the list if it should have been sent by now.
    fn take_late(&self) -> Vec<PendingRead> {
        let mut waiting = self.lock();
        let is_late = waiting.since.is_some_and(|since| since.elapsed() >= LATE);
        if is_late { waiting.take() } else { Vec::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock_unpoisoned()
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<PendingRead> {
        self.since = None;
        let room = Vec::with_capacity(self.reads.len());
        std::mem::replace(&mut self.reads, room)
    }
}

/// Sends all reads that are on the list after one yield.
async fn send_collected(batcher: Arc<MgetBatcher>) {
    yield_now().await;
    let reads = batcher.take();
    send_all(batcher, reads).await;
}

async fn send_all(batcher: Arc<MgetBatcher>, mut reads: Vec<PendingRead>) {
    while reads.len() > MOST_TOGETHER {
        let rest = reads.split_off(MOST_TOGETHER);
        tokio::spawn(send_batch(batcher.clone(), std::mem::replace(&mut reads, rest)));
    }
    send_batch(batcher, reads).await;
}

/// Sends one command and passes the values to the waiting reads. Stops if all of them are cancelled.
async fn send_batch(batcher: Arc<MgetBatcher>, reads: Vec<PendingRead>) {
    let waiting = reads.into_iter().filter(|read| !read.reply.is_closed());
    let (names, mut replies): (Vec<_>, Vec<_>) =
        waiting.map(|PendingRead { name, reply }| (name, reply)).unzip();
    if names.is_empty() {
        return;
    }
    let values = tokio::select! {
        values = batcher.read_together(&names) => values,
        () = all_gone(&mut replies) => return,
    };
    // A caller may have been cancelled.
    if let Some(values) = values {
        replies.into_iter().zip(values).for_each(|(reply, value)| drop(reply.send(value)));
    } else {
        let each = replies.into_iter().zip(&names).map(async |(mut reply, name)| {
            tokio::select! {
                value = batcher.read_alone(name) => drop(reply.send(value)),
                () = reply.closed() => {}
            }
        });
        join_all(each).await;
    }
}

fn mget(names: &[String]) -> Cmd {
    // Each name is sent with its length.
    const AROUND: usize = 8;
    let bytes = names.iter().map(|name| name.len() + AROUND).sum::<usize>();
    let mut command = Cmd::with_capacity(1 + names.len(), bytes + 4 * AROUND);
    command.arg("MGET").arg(names);
    command
}

/// Resolves when all reads were cancelled.
async fn all_gone(replies: &mut [oneshot::Sender<ReadValue>]) {
    for reply in replies {
        reply.closed().await;
    }
}

type Reply<T> = Result<T, oneshot::error::RecvError>;

/// Whether separate commands for each key may work although one for all of them failed: the server does not know it, does not
/// permit it, or has the keys in different slots.
pub(super) fn is_refused(error: &StoreError) -> bool {
    matches!(
        error_kind(error),
        Some(ServerErrorKind::CrossSlot | ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)
    )
}
