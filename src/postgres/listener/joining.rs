//! How a node that starts takes over the relay's checkpoint.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::follower::Follower;
use super::relay_state::RelayState;
use crate::clock::{self, Moment};
use crate::entry::Epoch;
use crate::postgres::log::{Drained, LoadedLog};
use crate::postgres::relay::checkpoint::Checkpoint;
use crate::postgres::relay::message::{Positions, SyncRequest};
use crate::postgres::relay::{RelayEvent, RelayRole};

/// How long a node waits for a relay's checkpoint, and how often it repeats its request meanwhile: the request may be sent before
/// the subscription to the response has begun.
const JOIN_WITHIN: Duration = Duration::from_secs(3);
pub(super) const REQUEST_EVERY: Duration = Duration::from_millis(200);

/// A checkpoint that a node has taken over.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) checkpoint: Checkpoint,
    /// How current it is; `None` if there is no relay to say so.
    pub(super) response: Option<JoinResponse>,
}

/// How current a checkpoint is.
#[derive(Clone, Copy, Debug)]
pub(super) struct JoinResponse {
    /// The positions of the drain with which the relay responded; the checkpoint contains its changes.
    at: Positions,
    /// When the request was sent: the node knows every change that was visible then.
    pub(super) sent: Moment,
}

impl Joined {
    /// The log as this node would have loaded it, without the fences.
    pub(super) fn over(&self, loaded: &LoadedLog) -> LoadedLog {
        let floor = match self.response {
            Some(_) => self.checkpoint.floor(),
            // Marks show whether the schema was another one in the meantime.
            None => self.checkpoint.floor().max(loaded.floor),
        };
        let seen = self.response.map_or(floor, |response| response.at.seen.max(floor));
        LoadedLog {
            snapshot: self.checkpoint.snapshot(),
            floor,
            fences: Vec::new(),
            seen,
            ..*loaded
        }
    }
}

impl Follower {
    /// Takes over the relay's checkpoint; `None` if the relay does not respond in time. If this node itself is the
    /// relay, it takes over the checkpoint of the last one.
    pub(super) async fn join(&mut self, epoch: Epoch) -> Option<Joined> {
        let joined = timeout(JOIN_WITHIN, self.request_checkpoint(epoch)).await;
        // Events were taken from the relay meanwhile.
        self.relaying = RelayState::default();
        self.sync_requests.clear();
        joined.ok()?
    }

    async fn request_checkpoint(&mut self, epoch: Epoch) -> Option<Joined> {
        let (schema, relay) = (self.schema?, self.relay.as_mut()?);
        let mut requests: Vec<(u64, Moment)> = Vec::new();
        let mut resend = interval(REQUEST_EVERY);
        resend.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let batch = tokio::select! {
                event = relay.next() => match event {
                    Some(RelayEvent::Batch(batch)) => Some(batch),
                    _ => None,
                },
                _ = resend.tick() => None,
            };
            match relay.elected() {
                RelayRole::Relay => {
                    let checkpoint = relay.checkpoint().await?;
                    let is_ours = checkpoint.is_of(epoch, schema);
                    // Without a point, what has changed since is not known.
                    return (is_ours && checkpoint.point.is_some())
                        .then_some(Joined { checkpoint, response: None });
                }
                RelayRole::Follower
                    if requests
                        .last()
                        .is_none_or(|(_, sent)| sent.at.elapsed() >= REQUEST_EVERY) =>
                {
                    let nonce = fastrand::u64(..);
                    requests.push((nonce, clock::moment()));
                    relay.request_sync(SyncRequest { nonce, urgent: true, joins: true });
                }
                RelayRole::Follower | RelayRole::Standalone => {}
            }
            let Some(batch) = batch else { continue };
            let responded = requests.iter().find(|(nonce, _)| batch.responds_to.contains(nonce));
            let Some((_, sent)) = responded else { continue };
            let Some(checkpoint) = relay.checkpoint().await else { continue };
            // An older one may be left if the relay could not store this one.
            let is_complete = checkpoint.is_of(epoch, schema)
                && batch.epoch() == epoch
                && checkpoint.snapshot().covers(&batch.after());
            if is_complete {
                let response = Some(JoinResponse { at: batch.at(), sent: *sent });
                return Some(Joined { checkpoint, response });
            }
        }
    }

    /// The checkpoint that this node, as the relay, offers after a drain. `None` without published tables: a node that
    /// starts then reads the log.
    pub(super) fn checkpoint(&self, drained: &Drained) -> Option<Checkpoint> {
        // After a change of the schema, other nodes may still store what they read before.
        let is_settled =
            self.settled_at.is_none() && !self.unsettled && self.fingerprint.is_current();
        let schema = self.schema.filter(|_| is_settled && self.published.is_running())?;
        let (floor, fences) = (self.recent.floor(), self.recent.fences());
        let mut checkpoint = Checkpoint::new(&drained.log_snapshot(), schema, floor, fences);
        checkpoint.point = self.published.point().cloned();
        Some(checkpoint)
    }
}
