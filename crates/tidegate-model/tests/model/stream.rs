//! A second source of changes: the stream of a logical replication slot.
//!
//! The server delivers transactions in the order of their commit records, each once. A commit may be delivered before it is
//! visible, and be visible before it is delivered. So a drain is a *watermark*: it takes a snapshot, then reads its fence, and
//! then writes a message to the log. Once the stream delivers that message, it has delivered all that the snapshot sees.
//! Changes that the snapshot sees are raised to the fence; others stay pending.

use super::primary::members;
use super::rules::Mutant;
use super::state::{At, Identity, Node, Primary, Set, Stage, State};

/// A node's place in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    /// The history that the slot is of.
    pub(crate) identity: Identity,
    /// All records up to here were delivered.
    delivered: At,
    /// Transactions that were delivered, and that no watermark's snapshot has seen.
    pending: Set,
    /// Transactions whose commit records are from before the slot, so that they are never delivered, and that no watermark's
    /// snapshot has seen.
    undelivered: Set,
    /// A watermark has completed since.
    has_begun: bool,
    /// From where another connection must continue, to miss nothing that the last watermark's snapshot did not see. `None`
    /// while transactions that are never delivered are not visible.
    pub(crate) point: Option<At>,
}

/// What the stream delivers next.
enum Delivery {
    Commit(usize, At),
    /// The message of the watermark under way.
    Watermark(At),
}

impl Primary {
    /// The transactions that have a commit record and are not visible.
    fn on_record(&self) -> Set {
        let all = self.transactions.iter().enumerate();
        all.filter(|(_, t)| t.stage == Stage::InLog).map(|(index, _)| 1 << index).sum()
    }
}

impl State {
    /// As [`Node::resume`], with the one slot that there is: a node that starts over replaces it.
    pub(crate) fn resume(&mut self, node: usize, point: Option<At>, mutant: Option<Mutant>) {
        if !self.nodes[node].resume(point, (self.confirmed, &self.primary), mutant) {
            self.confirmed = self.primary.wal;
        }
    }
}

impl Node {
    /// Creates a slot. Until its first watermark completes, nothing is known, so nothing is valid.
    pub(crate) fn subscribe(&mut self, primary: &Primary) {
        let (identity, delivered) = (primary.identity, primary.wal);
        let undelivered = primary.on_record();
        self.stream = Some(Stream {
            identity,
            delivered,
            pending: 0,
            undelivered,
            has_begun: false,
            point: None,
        });
        (self.identity, self.poll) = (Identity::default(), None);
    }

    /// The slot was lost, and another one is created.
    pub(crate) fn lose_slot(&mut self, primary: &Primary, mutant: Option<Mutant>) {
        if mutant != Some(Mutant::LostSlotGoesOn) {
            return self.subscribe(primary);
        }
        if let Some(stream) = &mut self.stream {
            stream.delivered = primary.wal;
        }
        self.poll = None;
    }

    /// Continues the stream of the slot on another connection, from what this node knows and from a point. If the slot has
    /// forgotten some of what follows, the node starts over; returns whether it has not.
    fn resume(
        &mut self,
        point: Option<At>,
        (confirmed, primary): (At, &Primary),
        mutant: Option<Mutant>,
    ) -> bool {
        let is_whole = point.is_some_and(|point| confirmed <= point)
            || mutant == Some(Mutant::ResumesPastConfirmed) && point.is_some()
            || mutant == Some(Mutant::ResumesWithUndelivered)
                && self.stream.is_some_and(|stream| stream.has_begun);
        if !is_whole || self.identity != primary.identity {
            self.subscribe(primary);
            return false;
        }
        let identity = self.identity;
        let stream = Stream {
            identity,
            delivered: confirmed,
            pending: 0,
            undelivered: 0,
            has_begun: true,
            point,
        };
        (self.stream, self.poll) = (Some(stream), None);
        true
    }

    /// Whether the stream is of a history that has ended.
    pub(crate) fn has_lost_stream(&self, primary: &Primary) -> bool {
        self.stream.is_some_and(|stream| stream.identity != primary.identity)
    }

    /// Whether a watermark can change anything: its snapshot differs from the last one's, or nothing is known yet.
    pub(crate) fn has_news(&self, primary: &Primary) -> bool {
        let has_begun = self.stream.is_some_and(|stream| stream.has_begun);
        !has_begun || self.has_lost_stream(primary) || self.drained != primary.snapshot()
    }

    /// Reads a watermark's fence, and writes its message.
    pub(crate) fn announce(&mut self, primary: &mut Primary, mutant: Option<Mutant>) {
        if self.has_lost_stream(primary) {
            return self.subscribe(primary);
        }
        let Some(poll) = &mut self.poll else { return };
        if let Some(early) = poll.early {
            (poll.snapshot, poll.fence) = (primary.snapshot(), Some(early));
        } else {
            poll.fence = Some(primary.wal);
        }
        poll.message = Some(primary.write());
        if mutant == Some(Mutant::WatermarkWithoutMessage) {
            self.complete(primary, mutant);
        }
    }

    fn next_delivery(&self, primary: &Primary) -> Option<Delivery> {
        let stream = self.stream.filter(|stream| stream.identity == primary.identity)?;
        let is_next = |at: &At| *at > stream.delivered;
        let commits = primary.transactions.iter().enumerate();
        let commits = commits
            .filter(|(_, t)| matches!(t.stage, Stage::InLog | Stage::Visible))
            .filter(|(_, t)| t.identity == stream.identity && is_next(&t.commit))
            .map(|(index, t)| Delivery::Commit(index, t.commit));
        let message = self.poll.and_then(|poll| poll.message).filter(is_next);
        commits.chain(message.map(Delivery::Watermark)).min_by_key(Delivery::at)
    }

    pub(crate) fn has_delivery(&self, primary: &Primary) -> bool {
        self.next_delivery(primary).is_some()
    }

    /// The stream delivers its next transaction or message.
    pub(crate) fn deliver(&mut self, primary: &Primary, mutant: Option<Mutant>) {
        let (Some(next), Some(mut stream)) = (self.next_delivery(primary), self.stream) else {
            return;
        };
        stream.delivered = next.at();
        if let Delivery::Commit(transaction, at) = next {
            match mutant {
                Some(Mutant::RaiseAtDelivery) => self.raise(transaction, at),
                _ => stream.pending |= (1 << transaction) & !self.drained,
            }
        }
        self.stream = Some(stream);
        if let Delivery::Watermark(_) = next {
            self.complete(primary, mutant);
        }
    }

    /// Completes a watermark.
    fn complete(&mut self, primary: &Primary, mutant: Option<Mutant>) {
        let (Some(poll), Some(mut stream)) = (self.poll.take(), self.stream) else { return };
        let (Some(fence), Some(message)) = (poll.fence, poll.message) else { return };
        if std::mem::replace(&mut stream.has_begun, true) {
            self.seen = self.seen.max(message);
            self.followed = self.followed.max(poll.from);
        } else {
            // Changes before this are unknown.
            (self.identity, self.database) = (stream.identity, primary.database);
            (self.floor, self.fences, self.known) = (fence, [0; 2], None);
            (self.seen, self.followed) = (message, 0);
        }
        for transaction in members(stream.pending & poll.snapshot) {
            self.raise(transaction, fence);
        }
        let is_unknown = stream.undelivered & poll.snapshot != 0;
        if is_unknown && mutant != Some(Mutant::NoFloorForUndelivered) {
            self.floor = self.floor.max(fence);
        }
        stream.pending = match mutant {
            Some(Mutant::WatermarkDropsPending) => 0,
            _ => stream.pending & !poll.snapshot,
        };
        stream.undelivered &= !poll.snapshot;
        let waits = members(stream.pending).filter(|_| mutant != Some(Mutant::ConfirmsPending));
        let oldest = waits.map(|t| primary.transactions[t].commit - 1).min();
        let point = oldest.map_or(message, |oldest| oldest.min(message));
        stream.point = (stream.undelivered == 0).then_some(point);
        self.drained = poll.snapshot;
        self.stream = Some(stream);
    }
}

impl Delivery {
    fn at(&self) -> At {
        match *self {
            Self::Commit(_, at) | Self::Watermark(at) => at,
        }
    }
}
