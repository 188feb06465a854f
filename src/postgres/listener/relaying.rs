//! Publishes the changes that a node finds in the log, and applies those that another node publishes.

use std::time::Duration;

use tokio::time::sleep_until;

use super::follower::Follower;
use super::joining::REQUEST_EVERY;
use super::relay_state::{PollingReport, RelayState, RelayStep, TakenRequests, next_of};
use crate::cache::protocol::{Relayed, relayed};
use crate::clock::{self, Instant};
use crate::entry::Tag;
use crate::postgres::backoff::Backoff;
use crate::postgres::fingerprint::FINGERPRINT_KNOWN_WITHIN;
use crate::postgres::log::{Drained, LogSnapshot, Snapshot};
use crate::postgres::relay::message::{InvalidationBatch, Positions, SyncRequest};
use crate::postgres::relay::{Relay, RelayEvent, RelayRole};

/// How often a relay stores a checkpoint for a node that starts after all others have stopped.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

impl Follower {
    /// The report that this node sends while it polls the log for the others.
    pub(super) fn polling_report(&self) -> Option<PollingReport> {
        let relay = self.relay.as_ref().filter(|relay| relay.elected() == RelayRole::Relay)?;
        let epoch = self.read.as_ref()?.epoch;
        let published = self.relaying.published.as_ref()?;
        let batch = InvalidationBatch::still_polling(epoch, published);
        Some(PollingReport { sender: relay.sender(), batch })
    }

    /// Takes all sync requests received so far, which one poll responds to.
    pub(super) fn take_sync_requests(&mut self) -> TakenRequests {
        // Only for a relay: other nodes receive invalidation batches here, which are applied one at a time.
        while self.elected() == RelayRole::Relay
            && let Some(event) = self.relay.as_mut().and_then(Relay::try_next)
        {
            self.receive(Some(event));
        }
        self.relaying.take()
    }

    /// Handles an event from other nodes while this node polls the log itself.
    pub(super) fn receive(&mut self, event: Option<RelayEvent>) -> RelayStep {
        match event {
            None => {
                self.relaying = RelayState::default();
                self.sync_requests.clear();
                self.take_role();
                RelayStep::Wait
            }
            Some(RelayEvent::SyncRequest(request)) => self.relaying.receive(request),
            Some(RelayEvent::Batch(batch)) => match self.apply_batch(&batch) {
                Some(true) => RelayStep::FollowRelay,
                // A node without a stream can't read what it has missed, and joins the relay anew.
                None if self.waiting_since.is_some() => {
                    self.read = None;
                    RelayStep::Poll
                }
                _ => RelayStep::Wait,
            },
        }
    }

    /// When to send the next sync request to the relay, if another node is the relay.
    pub(super) fn try_relay_at(&self) -> Option<Instant> {
        (self.elected() == RelayRole::Follower).then(|| self.sync_requests.wake())
    }

    /// Sends a sync request to the relay if one is due, while this node polls the log itself. Once the relay responds, this
    /// node stops polling.
    pub(super) fn try_relay(&mut self) {
        if self.try_relay_at().is_some_and(|at| at <= clock::now()) {
            if self.sync_requests.are_overdue() {
                self.sync_requests.clear();
            }
            self.send_sync_request(false);
        }
    }

    fn send_sync_request(&mut self, urgent: bool) {
        let nonce = self.sync_requests.add(self.begin_poll());
        if let Some(relay) = &self.relay {
            relay.request_sync(SyncRequest { nonce, urgent, joins: false });
        }
    }

    /// Waits for the next attempt to connect to the primary; follows the relay meanwhile, if it responds. It may respond to
    /// a node that has missed nothing, and that the primary refuses, as it does if it has no connection left.
    pub(super) async fn follow_without_primary(&mut self, backoff: &mut Backoff) {
        let until = clock::now() + backoff.jittered();
        loop {
            let wake = self.try_relay_at().map_or(until, |at| at.min(until));
            tokio::select! {
                event = next_of(&mut self.relay) => {
                    if self.receive(event) == RelayStep::FollowRelay {
                        break;
                    }
                }
                () = sleep_until(wake) => {
                    if until <= clock::now() {
                        return;
                    }
                    self.try_relay();
                }
            }
        }
        self.follow_relay().await;
    }

    /// Follows the relay until something goes wrong.
    pub(super) async fn follow_relay(&mut self) {
        self.counter.send_modify(|counter| counter.is_lost = false);
        let why = self.apply().await;
        tracing::debug!(why, "no longer following the relay; polling the log");
        self.role.send_replace(RelayRole::Standalone);
        self.sync_requests.clear();
    }

    /// As [`follow_relay`](Self::follow_relay); returns the reason.
    async fn apply(&mut self) -> &'static str {
        self.role.send_replace(RelayRole::Follower);
        self.relaying = RelayState::default();
        self.published.stop();
        self.waiting_since = None;
        loop {
            let event = tokio::select! {
                event = next_of(&mut self.relay) => event,
                () = self.poll_requests.poll.notified(), if self.sync_requests.has_room() => {
                    self.send_sync_request(true);
                    continue;
                }
                () = self.poll_requests.reconnect.notified() => {
                    if self.wants_connection() {
                        return "the primary is in another epoch than the relay";
                    }
                    continue;
                }
                () = sleep_until(self.sync_requests.wake()) => {
                    if self.sync_requests.are_overdue() {
                        return "the relay does not respond";
                    }
                    if self.knows_a_later_timeline() {
                        return "the primary has a later timeline than the relay";
                    }
                    self.send_sync_request(false);
                    continue;
                }
            };
            match event {
                Some(RelayEvent::Batch(batch)) if self.apply_batch(&batch).is_none() => {
                    return "an invalidation batch was missed";
                }
                None if self.elected() != RelayRole::Follower => {
                    return "no other node is the relay";
                }
                _ => {}
            }
        }
    }

    /// Applies another node's invalidation batch. Returns whether it responds to one of this node's sync requests; `None` if an
    /// earlier batch was missed.
    fn apply_batch(&mut self, batch: &InvalidationBatch) -> Option<bool> {
        let LogSnapshot { epoch, snapshot } = self.read.as_ref()?;
        let known = (snapshot.covers(&batch.before()), snapshot.covers(&batch.after()));
        match relayed((*epoch, batch.epoch()), known) {
            Relayed::Gap => return None,
            // It may still report a schema change, which can be noticed without a transaction having ended since.
            Relayed::Known => self.learn(batch),
            Relayed::New => {
                self.learn(batch);
                self.read = Some(LogSnapshot { epoch: batch.epoch(), snapshot: batch.after() });
                self.published.set_point(batch.point.clone());
            }
        }
        if batch.is_still_polling() {
            self.sync_requests.wait_longer();
        }
        let at = batch.at();
        self.fences.follow(at.from);
        let Some(request) = self.sync_requests.complete(&batch.responds_to) else {
            self.fences.see(at.seen);
            return Some(false);
        };
        if self.settled_at.is_some_and(|settled_at| settled_at <= request.sent.at) {
            // The fence was read after the sync request was sent, and by then every node knew of the change.
            self.raise_floor(at.fence);
            self.settled_at = None;
            // For a position past that floor: a poll without changes announces none, unless a session waits for it.
            if self.sync_requests.has_room() {
                self.send_sync_request(true);
            }
        }
        self.confirm(batch.epoch(), at.seen, at.seen, request.sent);
        self.counter.send_modify(|counter| counter.done = counter.done.max(request.poll));
        Some(true)
    }

    fn learn(&mut self, batch: &InvalidationBatch) {
        let fence = batch.at().fence;
        // A late batch may carry the fingerprint of an earlier schema.
        let current = self.fences.seen().is_some_and(|seen| seen.position <= batch.at().seen);
        let schema_changed = current && batch.schema.is_some() && self.schema != batch.schema;
        if schema_changed {
            self.schema = batch.schema;
            self.settled_at = Some(clock::now() + FINGERPRINT_KNOWN_WITHIN);
        }
        if batch.all || schema_changed {
            self.db.follow_schema(self.fences.change_schema());
            self.raise_floor(fence);
        }
        for tag in &batch.tags {
            self.raise(Tag::from_hash(*tag), fence);
        }
    }

    /// Publishes the result of a poll, if this node is the relay.
    pub(super) fn publish(
        &mut self,
        drained: &Drained,
        prev: &Snapshot,
        all: bool,
        at: Positions,
        requests: TakenRequests,
    ) {
        let Some(relay) = self.relay.as_ref().filter(|relay| relay.elected() == RelayRole::Relay)
        else {
            self.relaying.published = None;
            return;
        };
        let every = match (requests.joins, self.published.is_kept()) {
            (true, _) => Some(REQUEST_EVERY),
            (false, true) => Some(CHECKPOINT_EVERY),
            (false, false) => None,
        };
        let is_due = |every| self.last_checkpoint.is_none_or(|left| left.elapsed() >= every);
        if every.is_some_and(is_due)
            && let Some(checkpoint) = self.checkpoint(drained)
        {
            relay.leave(checkpoint);
            self.last_checkpoint = Some(clock::now());
        }
        let responds_to = requests.nonces;
        // A poll that found nothing is not published; the next batch covers it.
        let before = self.relaying.published.get_or_insert_with(|| prev.clone());
        if !all && drained.tags.is_empty() && responds_to.is_empty() {
            return;
        }
        let tags = drained.tags.iter().map(|tag| Tag::named(tag).hash()).collect();
        let mut batch = InvalidationBatch::new(drained.epoch, before, &drained.snapshot, at, tags);
        (batch.all, batch.schema, batch.responds_to) = (all, self.schema, responds_to);
        batch.point = self.published.point().cloned();
        relay.publish(batch);
        self.relaying.published = Some(drained.snapshot.clone());
    }
}
