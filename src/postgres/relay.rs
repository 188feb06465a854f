//! One node that looks at the log for all, elected by the store that they share.
//!
//! ```text
//! primary ── drain ── relay ── news ──→ the other nodes       over the shared store's bus
//!                       ↑                     │
//!                       └───── questions ─────┘  "look at the log, and tell me"
//! ```
//!
//! The news say between which two snapshots they tell everything, so a node knows whether it has missed
//! any, whoever tells it; then it looks for itself. They name the questions that were heard before the
//! look began, so a node knows, by its own clock, since when it has all of them. So nothing depends on
//! who was elected, on messages being delivered once, in order or at all, or on a clock that is shared:
//! two relays at once tell everything twice, and none leaves each node to look for itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::backoff::Backoff;
use crate::clock;
use crate::store::{Bus, StoreError};

pub(crate) mod message;

use message::{InvalidationBatch, SyncRequest, decode, encode};

/// How often the relay renews its office, and others look whether it is free; and how long it lasts.
const RENEW: Duration = Duration::from_millis(500);
const OFFICE: Duration = Duration::from_secs(2);

/// The first pause after a subscription ended, or failed, before the next; the longest is that between two elections.
const AGAIN: Duration = Duration::from_millis(50);

/// Messages under way within the node. One too many is dropped, as one that is lost on the way.
const QUEUE: usize = 256;

/// How a node follows the log of changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayRole {
    /// For itself: nothing is shared with other nodes, or the way to them is lost.
    Alone,
    /// For itself and for the others.
    Relay,
    /// Another node does so, and tells this one.
    Relayed,
}

/// What comes from other nodes.
#[derive(Debug)]
pub(crate) enum RelayEvent {
    News(InvalidationBatch),
    Question(SyncRequest),
}

enum Said {
    News(InvalidationBatch),
    Question(SyncRequest),
}

/// A node's way to the others.
pub(crate) struct Relay {
    /// What the node has been elected to. Not whether it is up to it.
    elected: watch::Receiver<RelayRole>,
    heard: mpsc::Receiver<RelayEvent>,
    say: mpsc::Sender<Said>,
    fit: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Relay {
    /// Takes part in what nodes that share `bus` tell each other of the log that `name` stands for.
    pub(crate) fn start(bus: Arc<dyn Bus>, name: &str) -> Self {
        let (elected, role) = watch::channel(RelayRole::Alone);
        let (hear, heard) = mpsc::channel(QUEUE);
        let (say, said) = mpsc::channel(QUEUE);
        let fit = Arc::new(AtomicBool::new(true));
        let desk = RelayTask {
            bus,
            office: format!("relay:{name}"),
            news: format!("news:{name}"),
            questions: format!("questions:{name}"),
            number: fastrand::u64(1..),
            fit: fit.clone(),
            may_lead: AtomicBool::new(false),
            elected,
            hear,
        };
        Self { elected: role, heard, say, fit, task: tokio::spawn(desk.work(said)) }
    }

    pub(crate) fn elected(&self) -> RelayRole {
        *self.elected.borrow()
    }

    /// Whether this node could be elected: whether it can look at the log, as far as it knows.
    pub(crate) fn set_fit(&self, fit: bool) {
        self.fit.store(fit, Ordering::Release);
    }

    /// What is heard next; `None` when another is elected.
    pub(crate) async fn next(&mut self) -> Option<RelayEvent> {
        tokio::select! {
            Some(heard) = self.heard.recv() => Some(heard),
            Ok(()) = self.elected.changed() => None,
            // The task has panicked: the node is on its own.
            else => std::future::pending().await,
        }
    }

    /// What has come already and was not taken yet.
    pub(crate) fn try_next(&mut self) -> Option<RelayEvent> {
        self.heard.try_recv().ok()
    }

    pub(crate) fn tell(&self, news: InvalidationBatch) {
        drop(self.say.try_send(Said::News(news)));
    }

    pub(crate) fn request_sync(&self, question: SyncRequest) {
        drop(self.say.try_send(Said::Question(question)));
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Messages = BoxStream<'static, Bytes>;

/// The task between the bus and the node.
struct RelayTask {
    bus: Arc<dyn Bus>,
    office: String,
    news: String,
    questions: String,
    number: u64,
    fit: Arc<AtomicBool>,
    /// Whether the bus may take this node for the leader.
    may_lead: AtomicBool,
    elected: watch::Sender<RelayRole>,
    hear: mpsc::Sender<RelayEvent>,
}

impl Drop for RelayTask {
    /// Releases the leadership, so that no other node waits until it expires.
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if self.may_lead.load(Ordering::Relaxed)
            && let Ok(runtime) = Handle::try_current()
        {
            let (bus, office, number) = (self.bus.clone(), self.office.clone(), self.number);
            runtime.spawn(async move { drop(bus.release_leadership(&office, number).await) });
        }
    }
}

impl RelayTask {
    async fn work(self, mut said: mpsc::Receiver<Said>) {
        let mut elect = interval(RENEW);
        elect.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(AGAIN, RENEW);
        loop {
            // Each role listens to another channel.
            let role = *self.elected.borrow();
            let mut stream = match self.listen(role).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "other nodes can't be heard");
                    self.elected.send_replace(RelayRole::Alone);
                    sleep(backoff.pause()).await;
                    continue;
                }
            };
            let began = clock::now();
            loop {
                tokio::select! {
                    message = receive(&mut stream) => {
                        let Some(message) = message else {
                            backoff.ended_after(began.elapsed());
                            sleep(backoff.pause()).await;
                            break;
                        };
                        self.pass(role, &message);
                    }
                    Some(said) = said.recv() => self.publish(said).await,
                    _ = elect.tick() => {
                        if self.campaign(role).await != role {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn listen(&self, role: RelayRole) -> Result<Option<Messages>, StoreError> {
        let channel = match role {
            RelayRole::Alone => return Ok(None),
            RelayRole::Relay => &self.questions,
            RelayRole::Relayed => &self.news,
        };
        self.bus.subscribe(channel).await.map(Some)
    }

    /// Hands a message on. Where too many wait, the oldest questions and news get no answer.
    fn pass(&self, role: RelayRole, message: &Bytes) {
        let heard = match role {
            RelayRole::Relay => decode(message).map(RelayEvent::Question),
            _ => decode(message).map(RelayEvent::News),
        };
        if let Some(heard) = heard {
            drop(self.hear.try_send(heard));
        }
    }

    async fn publish(&self, said: Said) {
        let (channel, message) = match said {
            Said::News(news) => (&self.news, encode(&news)),
            Said::Question(question) => (&self.questions, encode(&question)),
        };
        if let Err(error) = self.bus.publish(channel, &message).await {
            tracing::debug!(%error, "other nodes could not be told");
        }
    }

    /// The role from here on.
    async fn campaign(&self, before: RelayRole) -> RelayRole {
        let role = if self.fit.load(Ordering::Acquire) {
            // Also if the reply is lost, or this task ends before it comes.
            self.may_lead.store(true, Ordering::Relaxed);
            match self.bus.acquire_leadership(&self.office, self.number, OFFICE).await {
                Ok(true) => RelayRole::Relay,
                Ok(false) => {
                    self.may_lead.store(false, Ordering::Relaxed);
                    RelayRole::Relayed
                }
                Err(_) => RelayRole::Alone,
            }
        } else {
            self.release().await;
            RelayRole::Alone
        };
        if role != before {
            self.elected.send_replace(role);
        }
        role
    }

    /// Releases the leadership, if the bus may take this node for the leader.
    async fn release(&self) {
        if self.may_lead.load(Ordering::Relaxed)
            && self.bus.release_leadership(&self.office, self.number).await.is_ok()
        {
            self.may_lead.store(false, Ordering::Relaxed);
        }
    }
}

/// The next message; never one where nothing is listened to, none when the connection is lost.
async fn receive(stream: &mut Option<Messages>) -> Option<Bytes> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(crate) mod tests;
