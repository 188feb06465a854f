//! The relay: one node, elected over the shared store, polls the log for all nodes.
//!
//! ```text
//! primary ── drain ── relay ── invalidation batches ──→ the other nodes       over the shared store's bus
//!                       ↑                                     │
//!                       └─────────── sync requests ───────────┘  "poll the log, and publish the result"
//! ```
//!
//! An invalidation batch names two snapshots and contains every change between them. So a node detects that it has missed a
//! batch, whoever sent it, and then polls the log itself. A batch also lists the sync requests that were received before
//! its poll began: so a node knows, by its own clock, up to when it has all changes. Correctness depends neither on the
//! election, nor on messages arriving once, in order or at all, nor on a shared clock: two relays at once publish
//! everything twice, and without a relay each node polls the log itself.
//!
//! The log does not contain the changes of published tables. For a node that starts, the relay leaves a
//! [checkpoint](checkpoint::Checkpoint) in the store.

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

pub(crate) mod checkpoint;
pub(crate) mod message;

use checkpoint::Checkpoint;
use message::{InvalidationBatch, SyncRequest, decode, encode};

/// How often the relay renews its leadership lease, and the other nodes try to acquire it; and the lease's duration.
const RENEW: Duration = Duration::from_millis(500);
const LEADERSHIP: Duration = Duration::from_secs(2);

/// The first pause before subscribing again after a subscription has ended or failed; the longest pause is `RENEW`.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a checkpoint is kept: for nodes that have requested it, and for a node that starts after all others have
/// stopped.
const CHECKPOINT: Duration = Duration::from_hours(1);

/// The capacity of the queues within the node. If one is full, a message is dropped, as if it were lost on the way.
const QUEUE: usize = 4096;

/// How a node follows the change log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RelayRole {
    /// It reads the log for itself only: there is no bus to other nodes, or it is unavailable.
    Standalone,
    /// It reads the log for itself and for the other nodes.
    Relay,
    /// Another node reads the log, and this one applies the changes that it publishes.
    Follower,
}

/// What comes from other nodes.
#[derive(Debug)]
pub(crate) enum RelayEvent {
    Batch(InvalidationBatch),
    SyncRequest(SyncRequest),
}

/// What goes to other nodes.
enum Outgoing {
    Batch(InvalidationBatch),
    Checkpoint(Checkpoint),
    SyncRequest(SyncRequest),
}

/// A node's connection to the other nodes.
pub(crate) struct Relay {
    /// The role that the election gave the node, even if the node can't fulfil it at present.
    elected: watch::Receiver<RelayRole>,
    received: mpsc::Receiver<RelayEvent>,
    outgoing: mpsc::Sender<Outgoing>,
    fit: Arc<AtomicBool>,
    bus: Arc<dyn Bus>,
    /// The name of the checkpoint.
    checkpoint: String,
    task: JoinHandle<()>,
}

impl Relay {
    /// Joins the nodes that share `bus` and follow the same log, which `name` identifies.
    pub(crate) fn start(bus: Arc<dyn Bus>, name: &str) -> Self {
        let (elected, role) = watch::channel(RelayRole::Standalone);
        let (events, received) = mpsc::channel(QUEUE);
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let fit = Arc::new(AtomicBool::new(true));
        let checkpoint = format!("checkpoint:{name}");
        let task = RelayTask {
            bus: bus.clone(),
            lease: format!("relay:{name}"),
            batches: format!("invalidations:{name}"),
            sync_requests: format!("sync-requests:{name}"),
            checkpoint: checkpoint.clone(),
            number: fastrand::u64(1..),
            fit: fit.clone(),
            may_lead: AtomicBool::new(false),
            elected,
            events,
        };
        let task = tokio::spawn(task.run(queue));
        Self { elected: role, received, outgoing, fit, bus, checkpoint, task }
    }

    pub(crate) fn elected(&self) -> RelayRole {
        *self.elected.borrow()
    }

    /// Sets whether this node may be elected, which requires that it can poll the log.
    pub(crate) fn set_fit(&self, fit: bool) {
        self.fit.store(fit, Ordering::Release);
    }

    /// The next event; `None` when this node's role changes.
    pub(crate) async fn next(&mut self) -> Option<RelayEvent> {
        tokio::select! {
            Some(event) = self.received.recv() => Some(event),
            Ok(()) = self.elected.changed() => None,
            // The task has panicked: the node is on its own.
            else => std::future::pending().await,
        }
    }

    /// An event that has arrived already, if there is one.
    pub(crate) fn try_next(&mut self) -> Option<RelayEvent> {
        self.received.try_recv().ok()
    }

    pub(crate) fn publish(&self, batch: InvalidationBatch) {
        self.sender().publish(batch);
    }

    pub(crate) fn sender(&self) -> RelaySender {
        RelaySender(self.outgoing.clone())
    }

    /// Leaves a checkpoint for other nodes. Batches published after this are sent after it.
    pub(crate) fn leave(&self, checkpoint: Checkpoint) {
        drop(self.outgoing.try_send(Outgoing::Checkpoint(checkpoint)));
    }

    /// The checkpoint that a relay has left; `None` if there is none, or the bus fails.
    pub(crate) async fn checkpoint(&self) -> Option<Checkpoint> {
        match self.bus.get(&self.checkpoint).await {
            Ok(found) => decode(&found?),
            Err(error) => {
                tracing::debug!(%error, "reading the relay's checkpoint failed");
                None
            }
        }
    }

    pub(crate) fn request_sync(&self, request: SyncRequest) {
        drop(self.outgoing.try_send(Outgoing::SyncRequest(request)));
    }
}

/// Publishes batches to the other nodes.
pub(crate) struct RelaySender(mpsc::Sender<Outgoing>);

impl RelaySender {
    pub(crate) fn publish(&self, batch: InvalidationBatch) {
        drop(self.0.try_send(Outgoing::Batch(batch)));
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
    /// The name of the leadership lease.
    lease: String,
    /// The channels of invalidation batches and of sync requests.
    batches: String,
    sync_requests: String,
    /// The name of the checkpoint.
    checkpoint: String,
    number: u64,
    fit: Arc<AtomicBool>,
    /// Whether the bus may take this node for the leader.
    may_lead: AtomicBool,
    elected: watch::Sender<RelayRole>,
    events: mpsc::Sender<RelayEvent>,
}

impl Drop for RelayTask {
    /// Releases the leadership, so that no other node waits until it expires.
    fn drop(&mut self) {
        // Without a runtime the process is ending.
        if self.may_lead.load(Ordering::Relaxed)
            && let Ok(runtime) = Handle::try_current()
        {
            let (bus, lease, number) = (self.bus.clone(), self.lease.clone(), self.number);
            runtime.spawn(async move { drop(bus.release_leadership(&lease, number).await) });
        }
    }
}

impl RelayTask {
    async fn run(self, mut queue: mpsc::Receiver<Outgoing>) {
        let mut elect = interval(RENEW);
        elect.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut backoff = Backoff::new(AGAIN, RENEW);
        // Until then, this node leaves the election to others.
        let mut steps_back = clock::now();
        loop {
            // Each role subscribes to a different channel.
            let role = *self.elected.borrow();
            let mut stream = match self.listen(role).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(%error, "subscribing to the other nodes' messages failed");
                    if role == RelayRole::Relay {
                        // A relay that receives no sync requests is useless, so release the lease.
                        self.release().await;
                        steps_back = clock::now() + 2 * LEADERSHIP;
                    }
                    self.elected.send_replace(RelayRole::Standalone);
                    sleep(backoff.jittered()).await;
                    continue;
                }
            };
            let began = clock::now();
            loop {
                tokio::select! {
                    message = receive(&mut stream) => {
                        let Some(message) = message else {
                            backoff.ended_after(began.elapsed());
                            sleep(backoff.jittered()).await;
                            break;
                        };
                        self.deliver(role, &message);
                    }
                    Some(message) = queue.recv() => self.publish(message).await,
                    _ = elect.tick() => {
                        if steps_back <= clock::now() && self.campaign(role).await != role {
                            break;
                        }
                    }
                }
            }
        }
    }

    async fn listen(&self, role: RelayRole) -> Result<Option<Messages>, StoreError> {
        let channel = match role {
            RelayRole::Standalone => return Ok(None),
            RelayRole::Relay => &self.sync_requests,
            RelayRole::Follower => &self.batches,
        };
        self.bus.subscribe(channel).await.map(Some)
    }

    /// Delivers a message to the node. If the queue is full, the message is dropped.
    fn deliver(&self, role: RelayRole, message: &Bytes) {
        let event = match role {
            RelayRole::Relay => decode(message).map(RelayEvent::SyncRequest),
            _ => decode(message).map(RelayEvent::Batch),
        };
        if let Some(event) = event {
            drop(self.events.try_send(event));
        }
    }

    async fn publish(&self, message: Outgoing) {
        let (channel, message) = match message {
            Outgoing::Batch(batch) => (&self.batches, encode(&batch)),
            Outgoing::SyncRequest(request) => (&self.sync_requests, encode(&request)),
            Outgoing::Checkpoint(checkpoint) => {
                let put = self.bus.put(&self.checkpoint, &encode(&checkpoint), CHECKPOINT).await;
                if let Err(error) = put {
                    tracing::debug!(%error, "can't store a checkpoint for other nodes");
                }
                return;
            }
        };
        if let Err(error) = self.bus.publish(channel, &message).await {
            tracing::debug!(%error, "publishing to the other nodes failed");
        }
    }

    /// Tries to acquire or renew the leadership lease, if this node can be the relay; returns the role from now on.
    async fn campaign(&self, before: RelayRole) -> RelayRole {
        let role = if self.fit.load(Ordering::Acquire) {
            // Set first, since the reply may be lost, or this task may end before it arrives.
            self.may_lead.store(true, Ordering::Relaxed);
            match self.bus.acquire_leadership(&self.lease, self.number, LEADERSHIP).await {
                Ok(true) => RelayRole::Relay,
                Ok(false) => {
                    self.may_lead.store(false, Ordering::Relaxed);
                    RelayRole::Follower
                }
                Err(_) => RelayRole::Standalone,
            }
        } else {
            self.release().await;
            RelayRole::Follower
        };
        if role != before {
            self.elected.send_replace(role);
        }
        role
    }

    /// Releases the leadership, if the bus may take this node for the leader.
    async fn release(&self) {
        if self.may_lead.load(Ordering::Relaxed)
            && self.bus.release_leadership(&self.lease, self.number).await.is_ok()
        {
            self.may_lead.store(false, Ordering::Relaxed);
        }
    }
}

/// The next message; `None` when the connection is lost. Never resolves without a subscription.
async fn receive(stream: &mut Option<Messages>) -> Option<Bytes> {
    match stream {
        Some(stream) => stream.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
pub(crate) mod tests;
