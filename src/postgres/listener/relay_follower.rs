//! What a node tells of the log, and what it makes of what it is told.

use std::time::Duration;

use tokio::time::sleep_until;

use super::Follower;
use crate::cache::protocol::{Relayed, relayed};
use crate::clock::{self, Instant, Moment};
use crate::entry::{Epoch, Position, Tag};
use crate::postgres::fingerprint::FINGERPRINT_KNOWN_WITHIN;
use crate::postgres::log::{Drained, Snapshot};
use crate::postgres::relay::message::{InvalidationBatch, Positions, SyncRequest};
use crate::postgres::relay::{Relay, RelayEvent, RelayRole};
use crate::postgres::sample::ServerPosition;

/// How long questions for which nobody waits are collected.
const COLLECT: Duration = Duration::from_millis(200);

/// Questions that one look answers at most; one too many is as one that is lost on the way.
const ANSWERS: usize = 10_000;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RelayStep {
    /// Look at the log.
    Look,
    /// Look at it for a session, of this node or another.
    LookForSession,
    Wait,
    /// Leave it to the relay, which answers.
    Heed,
}

/// What a node is to the others.
#[derive(Debug, Default)]
pub(super) struct RelayFollower {
    /// Other nodes' questions that the next look answers, and when that is due.
    questions: Vec<u64>,
    pub(super) due: Option<Instant>,
    /// Up to where others were told.
    told: Option<Snapshot>,
}

impl RelayFollower {
    /// The questions that were heard before a look that begins now.
    pub(super) fn take(&mut self) -> Vec<u64> {
        self.due = None;
        std::mem::take(&mut self.questions)
    }

    fn receive(&mut self, question: SyncRequest) -> RelayStep {
        if self.questions.len() < ANSWERS {
            self.questions.push(question.nonce);
        }
        if question.urgent {
            return RelayStep::LookForSession;
        }
        self.due.get_or_insert_with(|| clock::now() + COLLECT);
        RelayStep::Wait
    }
}

/// What comes next from the others; nothing ever where there are none.
pub(super) async fn next_of(relay: &mut Option<Relay>) -> Option<RelayEvent> {
    match relay {
        Some(relay) => relay.next().await,
        None => std::future::pending().await,
    }
}

impl Follower {
    fn elected(&self) -> RelayRole {
        self.relay.as_ref().map_or(RelayRole::Alone, Relay::elected)
    }

    /// All that other nodes have asked so far, so that one look answers it, and whether any of it is for a session.
    pub(super) fn take_sync_requests(&mut self) -> (Vec<u64>, bool) {
        let mut is_urgent = false;
        // Others hear the news of the relay, each of which counts by itself.
        while self.elected() == RelayRole::Relay
            && let Some(heard) = self.relay.as_mut().and_then(Relay::try_next)
        {
            is_urgent |= self.hear(Some(heard)) == RelayStep::LookForSession;
        }
        (self.duty.take(), is_urgent)
    }

    /// While we look for ourselves: what others ask, or tell.
    pub(super) fn hear(&mut self, heard: Option<RelayEvent>) -> RelayStep {
        match heard {
            None => {
                self.duty = RelayFollower::default();
                self.questions.clear();
                self.take_role();
                RelayStep::Wait
            }
            Some(RelayEvent::Question(question)) => self.duty.receive(question),
            Some(RelayEvent::News(news)) => match self.absorb(&news) {
                Some(true) => RelayStep::Heed,
                _ => RelayStep::Wait,
            },
        }
    }

    /// Says what we are to the others, when we look for ourselves.
    pub(super) fn take_role(&self) {
        let relays = self.elected() == RelayRole::Relay;
        self.role.send_replace(if relays { RelayRole::Relay } else { RelayRole::Alone });
    }

    /// When a relay is to be tried, if there is another one.
    pub(super) fn try_relay_at(&self) -> Option<Instant> {
        (self.elected() == RelayRole::Relayed).then(|| self.questions.wake())
    }

    /// While we look for ourselves: asks the relay, if it is time. Once it answers, we need not look.
    pub(super) fn try_relay(&mut self) {
        if self.try_relay_at().is_some_and(|at| at <= clock::now()) {
            if self.questions.are_unanswered() {
                self.questions.clear();
            }
            self.ask(false);
        }
    }

    fn ask(&mut self, urgent: bool) {
        let nonce = self.questions.ask(self.begin_turn());
        if let Some(relay) = &self.relay {
            relay.request_sync(SyncRequest { nonce, urgent });
        }
    }

    /// Goes by what the relay tells, until something is amiss; returns what.
    pub(super) async fn apply(&mut self) -> &'static str {
        self.role.send_replace(RelayRole::Relayed);
        self.duty = RelayFollower::default();
        loop {
            let heard = tokio::select! {
                heard = next_of(&mut self.relay) => heard,
                () = self.asked.notified(), if self.questions.has_room() => {
                    self.ask(true);
                    continue;
                }
                () = sleep_until(self.questions.wake()) => {
                    if self.questions.are_unanswered() {
                        return "the relay does not answer";
                    }
                    self.ask(false);
                    continue;
                }
            };
            match heard {
                Some(RelayEvent::News(news)) if self.absorb(&news).is_none() => {
                    return "news were missed";
                }
                None if self.elected() != RelayRole::Relayed => return "there is no other relay",
                _ => {}
            }
        }
    }

    /// Takes in what another node found; returns whether it answers a question of ours, or nothing if
    /// news were missed before it.
    fn absorb(&mut self, news: &InvalidationBatch) -> Option<bool> {
        let (epoch, read) = self.read.as_ref()?;
        let known = (read.covers(&news.before()), read.covers(&news.after()));
        match relayed((*epoch, news.epoch()), known) {
            Relayed::Gap => return None,
            // A change of the schema may be noticed when no transaction has ended since.
            Relayed::Known => self.learn(news),
            Relayed::News => {
                self.learn(news);
                self.read = Some((news.epoch(), news.after()));
            }
        }
        let at = news.at();
        self.fences.follow(at.from);
        let Some(answered) = self.questions.answered(&news.answers) else {
            self.fences.see(at.seen);
            return Some(false);
        };
        if self.settles.is_some_and(|settles| settles <= answered.sent.at) {
            // That fence was read after the question was sent, when every node knew of the change.
            self.fences.raise_floor(at.fence);
            self.settles = None;
        }
        self.confirm(news.epoch(), (at.seen, at.seen), answered.sent);
        self.turns.send_modify(|turns| turns.done = turns.done.max(answered.turn));
        Some(true)
    }

    fn learn(&mut self, news: &InvalidationBatch) {
        let fence = news.at().fence;
        // Late news may tell of a schema that was.
        let current = self.fences.seen().is_some_and(|(_, seen)| seen <= news.at().seen);
        let reshaped = current && news.schema.is_some() && self.schema != news.schema;
        if reshaped {
            self.schema = news.schema;
            self.settles = Some(clock::now() + FINGERPRINT_KNOWN_WITHIN);
        }
        if news.all || reshaped {
            self.db.follow_schema(self.fences.change_schema());
            self.fences.raise_floor(fence);
        }
        for tag in &news.tags {
            self.fences.raise(Tag::from_hash(*tag), fence);
        }
    }

    /// All is known that was visible when a look began, and of the schema all that was visible when the primary had come to
    /// `seen`. The look ended when it had `reached` another position.
    pub(super) fn confirm(
        &self,
        epoch: Epoch,
        (seen, reached): (Position, Position),
        began: Moment,
    ) {
        self.fences.confirm(seen, began);
        let at = ServerPosition { epoch, position: reached, standby: false, seen: began.at };
        self.db.inner.lag.report(at);
    }

    /// Tells the others what a look found, if that is our office.
    pub(super) fn publish(
        &mut self,
        drained: &Drained,
        prev: &Snapshot,
        (all, at): (bool, Positions),
        answers: Vec<u64>,
    ) {
        let Some(relay) = self.relay.as_ref().filter(|relay| relay.elected() == RelayRole::Relay)
        else {
            self.duty.told = None;
            return;
        };
        // Looks that found nothing are not told of; the next that is, tells for them too.
        let before = self.duty.told.get_or_insert_with(|| prev.clone());
        if !all && drained.tags.is_empty() && answers.is_empty() {
            return;
        }
        let tags = drained.tags.iter().map(|tag| Tag::named(tag).hash()).collect();
        let mut news = InvalidationBatch::new(drained.epoch, (before, &drained.snapshot), at, tags);
        (news.all, news.schema, news.answers) = (all, self.schema, answers);
        relay.tell(news);
        self.duty.told = Some(drained.snapshot.clone());
    }
}
