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
use crate::sync::MutexExt;

/// The most keys in one command, since all of its values arrive in one reply.
const MOST: usize = 64;

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

struct PendingRead {
    name: String,
    answer: oneshot::Sender<Result<Value, Arc<StoreError>>>,
}

impl MgetBatcher {
    /// `together` says whether one command may name several keys.
    pub(super) fn new(links: Arc<RedisLinks>, together: bool) -> Self {
        Self { links, waiting: Mutex::default(), together: AtomicBool::new(together) }
    }

    /// Reads the value under a name.
    pub(super) async fn read(self: &Arc<Self>, name: String) -> Result<Value, StoreError> {
        if !self.together.load(Ordering::Relaxed) {
            return self.read_alone(&name).await;
        }
        let (answer, answered) = oneshot::channel();
        if self.add(PendingRead { name, answer }) {
            tokio::spawn(send(self.clone()));
        }
        match self.answered(answered).await? {
            Ok(answer) => answer.map_err(|error| again(&error)),
            Err(_) => Err(StoreError::Backend("the read was abandoned".into())),
        }
    }

    /// Waits for the reply to a read on the list.
    async fn answered<T>(
        self: &Arc<Self>,
        mut answered: oneshot::Receiver<T>,
    ) -> Result<Reply<T>, StoreError> {
        if let Ok(answered) = timeout(LATE, &mut answered).await {
            return Ok(answered);
        }
        let late = self.take_late();
        if !late.is_empty() {
            tokio::spawn(ask_all(self.clone(), late));
        }
        timeout(REPLY_WITHIN + LATE, answered)
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
async fn send(batcher: Arc<MgetBatcher>) {
    yield_now().await;
    let reads = batcher.take();
    ask_all(batcher, reads).await;
}

async fn ask_all(batcher: Arc<MgetBatcher>, mut reads: Vec<PendingRead>) {
    while reads.len() > MOST {
        let rest = reads.split_off(MOST);
        tokio::spawn(ask(batcher.clone(), std::mem::replace(&mut reads, rest)));
    }
    ask(batcher, reads).await;
}

/// Sends one command and passes the values to the waiting reads. Stops if all of them are cancelled.
async fn ask(batcher: Arc<MgetBatcher>, mut reads: Vec<PendingRead>) {
    reads.retain(|read| !read.answer.is_closed());
    if reads.is_empty() {
        return;
    }
    let command = command(&reads);
    let count = u32::try_from(reads.len()).unwrap_or(u32::MAX);
    let answer = tokio::select! {
        answer = batcher.links.run_for(&command, count) => answer,
        () = all_gone(&mut reads) => return,
    };
    match answer {
        Ok(value) if count == 1 => each_its_own(reads, [value]),
        Ok(Value::Array(values)) if values.len() == reads.len() => each_its_own(reads, values),
        Ok(other) => fail(reads, unexpected("MGET", &other)),
        Err(error) if count > 1 && is_refused(&error) => {
            tracing::info!(%error, "Redis rejects MGET: using GET for each key");
            batcher.together.store(false, Ordering::Relaxed);
            join_all(reads.into_iter().map(|read| alone(&batcher, read))).await;
        }
        Err(error) => fail(reads, error),
    }
}

fn command(reads: &[PendingRead]) -> Cmd {
    // Each name is sent with its length.
    const AROUND: usize = 8;
    let bytes = reads.iter().map(|read| read.name.len() + AROUND).sum::<usize>();
    let mut command = Cmd::with_capacity(1 + reads.len(), bytes + 4 * AROUND);
    command.arg(if reads.len() == 1 { "GET" } else { "MGET" });
    for read in reads {
        command.arg(&read.name);
    }
    command
}

async fn alone(batcher: &MgetBatcher, read: PendingRead) {
    let answer = batcher.read_alone(&read.name).await;
    read.end(answer.map_err(Arc::new));
}

/// Resolves when all reads were cancelled.
async fn all_gone(reads: &mut [PendingRead]) {
    for read in reads {
        read.answer.closed().await;
    }
}

fn each_its_own(reads: Vec<PendingRead>, values: impl IntoIterator<Item = Value>) {
    for (read, value) in reads.into_iter().zip(values) {
        read.end(Ok(value));
    }
}

fn fail(reads: Vec<PendingRead>, error: StoreError) {
    let error = Arc::new(error);
    for read in reads {
        read.end(Err(error.clone()));
    }
}

impl PendingRead {
    fn end(self, answer: Result<Value, Arc<StoreError>>) {
        // The caller may have been cancelled.
        drop(self.answer.send(answer));
    }
}

type Reply<T> = Result<T, oneshot::error::RecvError>;

/// Copies an error for each of several reads.
fn again(error: &Arc<StoreError>) -> StoreError {
    match **error {
        StoreError::Timeout(limit) => StoreError::Timeout(limit),
        _ => StoreError::Backend(Box::new(error.clone())),
    }
}

/// Whether separate commands for each key may work although one for all of them failed: the server does not know it, does not
/// permit it, or has the keys in different slots.
pub(super) fn is_refused(error: &StoreError) -> bool {
    matches!(
        error_kind(error),
        Some(ServerErrorKind::CrossSlot | ServerErrorKind::NoPerm | ServerErrorKind::ResponseError)
    )
}
