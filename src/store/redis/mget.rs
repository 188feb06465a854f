//! Reads that come together are asked for together.
//!
//! A read adds itself to a list, and the first one on it starts a task. The task lets all run that is ready
//! to, which may want something too, and asks for the whole list by one MGET. Under load that is one
//! command, and one pair of system calls, for many reads; it costs the server less than as many GETs do.
//! A read that comes alone is a GET, and waits for nobody.
//!
//! The task runs on the runtime of the first read, and that may stop running it at any time. So a read that is still on
//! the list after [`LATE`] sends the list itself, and one that was sent waits for as long as a command may take.
//!
//! No server of a cluster has the keys of all slots, so there each read is a GET; and so it is from then on
//! where a server refuses MGET.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, cmd};
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::timeout;

use super::Redis;
use super::link::REPLY_WITHIN;
use super::store::unexpected;
use crate::clock::{Instant, now};
use crate::store::StoreError;

/// The most keys in one command: the first of its answers comes with the last.
const MOST: usize = 64;

/// How long a list may wait to be sent by the task of its first read. A `Guard` waits several times as long.
const LATE: Duration = Duration::from_millis(10);

/// Reads that are still to be sent.
pub(super) struct MgetBatcher {
    waiting: Mutex<Waiting>,
    together: AtomicBool,
}

#[derive(Default)]
struct Waiting {
    reads: Vec<PendingRead>,
    /// When the first of them came.
    since: Option<Instant>,
}

struct PendingRead {
    name: String,
    answer: oneshot::Sender<Result<Value, Arc<StoreError>>>,
}

impl MgetBatcher {
    /// `together` if one command may name several keys.
    pub(super) fn new(together: bool) -> Self {
        Self { waiting: Mutex::default(), together: AtomicBool::new(together) }
    }

    /// Whether this is the first of those who wait.
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
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn take(&mut self) -> Vec<PendingRead> {
        self.since = None;
        let room = Vec::with_capacity(self.reads.len());
        std::mem::replace(&mut self.reads, room)
    }
}

impl Redis {
    /// What is stored under a name.
    pub(super) async fn read(&self, name: String) -> Result<Value, StoreError> {
        let reads = self.reads();
        if !reads.together.load(Ordering::Relaxed) {
            return self.read_alone(&name).await;
        }
        let (answer, answered) = oneshot::channel();
        if reads.add(PendingRead { name, answer }) {
            tokio::spawn(send(self.clone()));
        }
        match self.answered(answered).await? {
            Ok(answer) => answer.map_err(|error| again(&error)),
            Err(_) => Err(StoreError::Backend("the read was given up".into())),
        }
    }

    /// Waits for the answer to a read on the list.
    async fn answered<T>(
        &self,
        mut answered: oneshot::Receiver<T>,
    ) -> Result<Reply<T>, StoreError> {
        if let Ok(answered) = timeout(LATE, &mut answered).await {
            return Ok(answered);
        }
        let late = self.reads().take_late();
        if !late.is_empty() {
            tokio::spawn(ask_all(self.clone(), late));
        }
        timeout(REPLY_WITHIN + LATE, answered)
            .await
            .map_err(|_late| StoreError::Timeout(REPLY_WITHIN))
    }

    async fn read_alone(&self, name: &str) -> Result<Value, StoreError> {
        self.run(cmd("GET").arg(name)).await
    }
}

/// Asks for all that wait by now.
async fn send(redis: Redis) {
    yield_now().await;
    let reads = redis.reads().take();
    ask_all(redis, reads).await;
}

async fn ask_all(redis: Redis, mut reads: Vec<PendingRead>) {
    while reads.len() > MOST {
        let rest = reads.split_off(MOST);
        tokio::spawn(ask(redis.clone(), std::mem::replace(&mut reads, rest)));
    }
    ask(redis, reads).await;
}

/// One command, and its answers to those who wait; until nobody does.
async fn ask(redis: Redis, mut reads: Vec<PendingRead>) {
    reads.retain(|read| !read.answer.is_closed());
    if reads.is_empty() {
        return;
    }
    let command = command(&reads);
    let count = u32::try_from(reads.len()).unwrap_or(u32::MAX);
    let answer = tokio::select! {
        answer = redis.run_for(&command, count) => answer,
        () = all_gone(&mut reads) => return,
    };
    match answer {
        Ok(value) if count == 1 => each_its_own(reads, [value]),
        Ok(Value::Array(values)) if values.len() == reads.len() => each_its_own(reads, values),
        Ok(other) => fail(reads, unexpected("MGET", &other)),
        Err(error) if count > 1 && is_refused(&error) => {
            tracing::info!(%error, "Redis refuses MGET: each key is asked for alone");
            redis.reads().together.store(false, Ordering::Relaxed);
            join_all(reads.into_iter().map(|read| alone(&redis, read))).await;
        }
        Err(error) => fail(reads, error),
    }
}

fn command(reads: &[PendingRead]) -> Cmd {
    // With each name goes its length.
    const AROUND: usize = 8;
    let bytes = reads.iter().map(|read| read.name.len() + AROUND).sum::<usize>();
    let mut command = Cmd::with_capacity(1 + reads.len(), bytes + 4 * AROUND);
    command.arg(if reads.len() == 1 { "GET" } else { "MGET" });
    for read in reads {
        command.arg(&read.name);
    }
    command
}

async fn alone(redis: &Redis, read: PendingRead) {
    let answer = redis.read_alone(&read.name).await;
    read.end(answer.map_err(Arc::new));
}

/// When nobody waits for any of them.
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
        // Who asked may have left.
        drop(self.answer.send(answer));
    }
}

type Reply<T> = Result<T, oneshot::error::RecvError>;

/// An error that several get.
fn again(error: &Arc<StoreError>) -> StoreError {
    match **error {
        StoreError::Timeout(limit) => StoreError::Timeout(limit),
        _ => StoreError::Backend(Box::new(error.clone())),
    }
}

/// Whether the server would answer GET: it does not know the command, keeps it from us, or finds the keys in
/// several slots.
fn is_refused(error: &StoreError) -> bool {
    let StoreError::Backend(error) = error else { return false };
    let kind = error.downcast_ref::<RedisError>().map(RedisError::kind);
    matches!(
        kind,
        Some(ErrorKind::Server(
            ServerErrorKind::CrossSlot | ServerErrorKind::NoPerm | ServerErrorKind::ResponseError
        ))
    )
}
