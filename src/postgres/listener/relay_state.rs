//! A relay's state towards the other nodes, and the steps that their messages cause.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

use crate::clock::{self, Instant};
use crate::postgres::log::Snapshot;
use crate::postgres::relay::message::{InvalidationBatch, SyncRequest};
use crate::postgres::relay::{Relay, RelayEvent, RelaySender};

/// How long non-urgent sync requests are collected.
const COLLECT: Duration = Duration::from_millis(200);

/// The maximum number of sync requests that one poll responds to; further ones are dropped, like lost messages.
const REQUESTS: usize = 10_000;

/// The next step of the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayStep {
    /// Poll the log.
    Poll,
    /// Poll the log for a session of this node or another.
    PollForSession,
    Wait,
    /// Follow the relay, since it responds.
    FollowRelay,
    /// Open another connection, since this one may lead to an old primary.
    Reconnect,
}

/// Sync requests that one poll responds to.
#[derive(Debug, Default)]
pub(super) struct TakenRequests {
    /// Their nonces.
    pub(super) nonces: Vec<u64>,
    /// Whether a session waits for any of them.
    pub(super) is_urgent: bool,
    /// Whether any comes from a node that starts.
    pub(super) joins: bool,
}

/// A relay's state towards the other nodes.
#[derive(Debug, Default)]
pub(super) struct RelayState {
    /// Other nodes' sync requests that the next poll responds to, and when that poll is due.
    requests: TakenRequests,
    pub(super) due: Option<Instant>,
    /// The snapshot up to which changes were published.
    pub(super) published: Option<Snapshot>,
}

impl RelayState {
    /// Takes the sync requests that were received before a poll that begins now.
    pub(super) fn take(&mut self) -> TakenRequests {
        self.due = None;
        std::mem::take(&mut self.requests)
    }

    pub(super) fn receive(&mut self, request: SyncRequest) -> RelayStep {
        if self.requests.nonces.len() < REQUESTS {
            self.requests.nonces.push(request.nonce);
            self.requests.joins |= request.joins;
        }
        self.requests.is_urgent |= request.urgent;
        if request.urgent {
            return RelayStep::PollForSession;
        }
        self.due.get_or_insert_with(|| clock::now() + COLLECT);
        RelayStep::Wait
    }
}

/// Reports to the other nodes that a poll is still running.
pub(super) struct PollingReport {
    pub(super) sender: RelaySender,
    pub(super) batch: InvalidationBatch,
}

impl PollingReport {
    fn send(&self) {
        self.sender.publish(self.batch.clone());
    }
}

/// How often a relay whose poll takes long reports that it is still polling.
const POLLING: Duration = Duration::from_millis(400);

/// Awaits a poll. If it takes long, reports to the other nodes that it is still running.
pub(super) async fn report_while<T>(
    report: Option<PollingReport>,
    poll: impl Future<Output = T>,
) -> T {
    let Some(report) = report else { return poll.await };
    let mut poll = pin!(poll);
    loop {
        if let Ok(polled) = timeout(POLLING, &mut poll).await {
            return polled;
        }
        report.send();
    }
}

/// The next event from other nodes; never resolves without a relay.
pub(super) async fn next_of(relay: &mut Option<Relay>) -> Option<RelayEvent> {
    match relay {
        Some(relay) => relay.next().await,
        None => std::future::pending().await,
    }
}
