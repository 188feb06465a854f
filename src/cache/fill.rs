//! The duty to make one answer.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cache::Cache;
use super::flight::{FlightLeader, FlightResult};
use super::freshness::Freshness;
use super::lease::{Claimed, LeaseGuard, PendingLease};
use super::lookup::Hit;
use super::permit::Permit;
use super::policy::Policy;
use super::protocol::Verdict;
use super::record::{Record, Uncacheable};
use super::template::PolicyTag;
use crate::clock::{self, Instant};
use crate::entry::{Entry, Key, Lifetime};
use crate::outcome::{Event, MissReason, Outcome};

/// The duty to make the answer for one key. Do the work in [`record`](Self::record)'s scope, then
/// [`fill`](Self::fill). Dropping it hands the duty to the next request that waits for it.
#[derive(Debug)]
pub(crate) struct FillGuard {
    cache: Cache,
    key: Key,
    policy: Arc<Policy>,
    record: Record,
    began: Instant,
    /// How long it took to make, if that is known before the end.
    cost: Option<Duration>,
    pub(crate) reason: MissReason,
    pub(crate) fallback: Option<Hit>,
    /// The answer that was found and that only time makes stale.
    pub(crate) stale: Option<Arc<Entry>>,
    /// Before the flight, so that it is released first: the request that takes over asks for it.
    pub(super) lease: Option<Box<LeaseGuard>>,
    pub(crate) flight: Option<FlightLeader>,
    pub(crate) permit: Option<Arc<Permit>>,
    /// The value that the entry to store decodes to, if that is known.
    pub(crate) decoded: Option<Arc<dyn Any + Send + Sync>>,
}

/// An answer that was made, and where it belongs.
#[derive(Debug)]
pub(crate) struct ComputedEntry {
    pub(crate) key: Key,
    pub(crate) terms: Freshness,
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
    /// What to leave under another key, for who looks there: its head says where the answers are.
    pub(crate) signpost: Option<(Key, Bytes)>,
}

/// What became of an answer that was made.
#[derive(Debug)]
pub(crate) enum FillOutcome {
    /// It is in the cache.
    Stored,
    /// It is not, and this is why. It is good for the request that made it all the same.
    NotStored(Uncacheable),
}

impl FillGuard {
    pub(crate) fn new(cache: &Cache, key: &Key, policy: &Arc<Policy>, record: Record) -> Self {
        Self {
            cache: cache.clone(),
            key: key.clone(),
            policy: policy.clone(),
            record,
            began: clock::now(),
            cost: None,
            reason: MissReason::Absent,
            fallback: None,
            stale: None,
            lease: None,
            flight: None,
            permit: None,
            decoded: None,
        }
    }

    /// The scope to work in.
    pub(crate) fn record(&self) -> &Record {
        &self.record
    }

    /// What the answer will depend on beside what is read; to be said before the work begins.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        self.record.tag(tags);
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The answer has begun to come; how fast the rest does is up to who it goes to. That is no part of
    /// what it costs, and makes nobody else wait for a place among the makers.
    pub(crate) fn begin_streaming(&mut self) {
        self.cost = Some(self.began.elapsed());
        self.permit = None;
    }

    /// The first byte of a body has come whose end is not known.
    pub(crate) fn note_first_byte(&self) {
        if let Some(flight) = &self.flight {
            flight.stream();
        }
    }

    /// The end is not near: other nodes need not wait for it.
    pub(crate) fn release_lease(&mut self) {
        self.lease = None;
    }

    /// The same duty, for work that was done in another scope.
    pub(crate) fn with_record(mut self: Box<Self>, record: Record) -> Self {
        self.record = record;
        *self
    }

    /// The same duty, for work in the background, which is part of nothing.
    pub(crate) fn detach(&mut self) {
        self.record = self.record.apart();
    }

    /// The key of the answer to make.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether responses under this key could not be shared of late, so that nobody waits for this one.
    pub(crate) fn is_known_unshared(&self) -> bool {
        self.flight.is_none() && self.cache.shared.alone.has(&self.key)
    }

    /// Why there is something to make.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::Miss(self.reason)
    }

    /// What the policy allows to serve if the work fails.
    pub(crate) fn fallback(&mut self) -> Option<Hit> {
        self.fallback.take()
    }

    /// For work in the background: asks the other nodes to leave it to us. False if one is at it.
    pub(crate) async fn claim(&mut self) -> bool {
        if !self.cache.leases(&self.policy) {
            return true;
        }
        match PendingLease::new(&self.cache, &self.key, self.policy.lease).claim().await {
            Ok(Claimed::Granted(lease)) => self.lease = Some(lease),
            Ok(Claimed::Unneeded) => {}
            Ok(Claimed::Held) => return false,
            Err(error) => self.cache.noted(Err(error)),
        }
        true
    }

    /// Stores the answer if it is proven fresh, and gives it to those who wait. `negative` is for an
    /// answer that says "there is none".
    pub(crate) fn fill(self, negative: bool, head: Bytes, body: Bytes) -> FillOutcome {
        if negative && self.policy.negative_ttl.is_none() {
            let why = "an answer that says there is none is stored with Policy::negative_ttl only";
            // What is part of something else is known all the same.
            self.record.close(None);
            let unfit = Uncacheable::new("negative", why);
            self.note_uncacheable(&unfit);
            return FillOutcome::NotStored(self.finish_unshared(unfit));
        }
        let (key, terms) = (self.key.clone(), Freshness::from_policy(&self.policy, negative));
        self.store(ComputedEntry { key, terms, head, body, signpost: None })
    }

    /// Stores the answer where it belongs, if it is proven fresh, and wakes those who wait.
    pub(crate) fn store(mut self, answer: ComputedEntry) -> FillOutcome {
        let basis = match self.record.basis() {
            Ok(basis) => basis,
            Err(unfit) => return FillOutcome::NotStored(self.reject(unfit)),
        };
        let cost = self.cost.unwrap_or_else(|| self.began.elapsed());
        let mut terms = answer.terms;
        self.record.limit(&mut terms);
        self.record.close(Some(terms.ttl.saturating_sub(terms.age)));
        let is_timed = self.record.is_timed();
        let life = Lifetime { is_timed, ..terms.life(self.policy.jitter, cost) };
        let at = (basis.epoch, basis.as_of);
        let parts = (answer.head, answer.body);
        let entry = Arc::new(Entry::new(&answer.key, at, basis.tags, life, parts));
        // Before anybody else has it, so that those who wait don't each decode it.
        if let Some(decoded) = self.decoded.take() {
            entry.set_decoded(decoded);
        }
        let filled = self.put(&answer.key, &entry);
        // One that is never fresh is of no use to those who wait.
        self.note_shared(!terms.ttl.is_zero());
        let signpost = answer
            .signpost
            .map(|(key, head)| self.put_vary_marker(&key, head, (&answer.key, &entry)));
        if let Some(flight) = self.flight.take() {
            // Those who wait judge it by what they ask, even if it can't be kept.
            let found = [Some(entry), signpost].into_iter().flatten();
            let found = found.into_iter().find(|entry| entry.answers(&self.key));
            flight.land(found.map_or(FlightResult::Nothing, FlightResult::Entry));
        }
        filled
    }

    /// Leaves a signpost. It says nothing of the data, so no change makes it invalid. Where one variant too many is
    /// stored, one that is used least is removed.
    fn put_vary_marker(
        &self,
        key: &Key,
        head: Bytes,
        (variant, answer): (&Key, &Arc<Entry>),
    ) -> Arc<Entry> {
        let before = self.cache.shared.store.peek(key).filter(|found| found.entry.head == head);
        let variants = before.and_then(|found| found.entry.variants().cloned()).unwrap_or_default();
        if let Some(gone) = variants.note(variant, answer) {
            self.cache.remove_soon(&gone);
        }
        let life = Lifetime::starting_now(answer.life.keep, answer.life.keep, Duration::ZERO);
        let (at, parts) = ((answer.epoch, answer.as_of), (head, Bytes::new()));
        let signpost =
            Arc::new(Entry::new(key, at, [].into(), life, parts).into_vary_marker(variants));
        self.cache.put(key, &signpost, None);
        signpost
    }

    /// Ends the duty with what another one has stored meanwhile.
    pub(crate) fn finish_with(mut self, hit: &Hit) {
        if let Some(flight) = self.flight.take() {
            flight.land(FlightResult::Entry(hit.found.entry.clone()));
        }
    }

    /// The work failed, and this is served instead, to others too; if there is nothing, two of them try.
    pub(crate) fn fail(mut self, instead: Option<&Hit>) {
        match (self.flight.take(), instead) {
            (Some(flight), Some(hit)) => {
                flight.land(FlightResult::Instead(hit.found.entry.clone()));
            }
            (Some(flight), None) => flight.fail(),
            (None, _) => {}
        }
    }

    /// As [`fail`](Self::fail), for a reason that what this is part of is told.
    pub(crate) fn fail_for(self, unfit: Uncacheable, instead: Option<&Hit>) -> Uncacheable {
        self.refuse(&unfit);
        self.fail(instead);
        unfit
    }

    /// Ends the duty with an answer that can't be shared: each who waits makes its own.
    pub(crate) fn reject(self, unfit: Uncacheable) -> Uncacheable {
        self.refuse(&unfit);
        self.finish_unshared(unfit)
    }

    fn refuse(&self, unfit: &Uncacheable) {
        self.record.refuse(unfit);
        self.note_uncacheable(unfit);
    }

    fn note_uncacheable(&self, unfit: &Uncacheable) {
        tracing::debug!(key = %self.key, %unfit, "an answer was not stored");
        self.cache.shared.counters.note(Event::NotStored);
        if let Some(watch) = self.record.traffic() {
            watch.note_uncacheable(unfit);
        }
    }

    fn finish_unshared(mut self, unfit: Uncacheable) -> Uncacheable {
        self.note_shared(false);
        if let Some(flight) = self.flight.take() {
            flight.land(FlightResult::Nothing);
        }
        unfit
    }

    /// Notes for later requests whether this response could be shared.
    fn note_shared(&self, is_shared: bool) {
        let is_new = self.cache.shared.alone.set(&self.key, !is_shared);
        match is_shared {
            true => self.policy.streak.end(),
            false if is_new => self.policy.streak.extend(),
            false => {}
        }
    }

    /// Whether no change that this node knows of has invalidated an entry.
    pub(crate) fn is_valid(&self, entry: &Entry) -> bool {
        self.cache.shared.fences.judge(entry) == Verdict::Valid
    }

    /// Ends the duty since a change invalidated the entry that the handler confirmed. A request that waits takes over,
    /// and the handler is not asked to confirm that entry again.
    pub(crate) fn reject_overtaken(self) -> Uncacheable {
        let unfit = self.note_overtaken();
        self.record.refuse(&unfit);
        unfit
    }

    fn note_overtaken(&self) -> Uncacheable {
        self.cache.shared.counters.note(Event::Overtaken);
        let why = "what it depends on changed while it was made, or was read too far back";
        Uncacheable::new("overtaken", why)
    }

    fn put(&mut self, key: &Key, entry: &Arc<Entry>) -> FillOutcome {
        match self.cache.shared.fences.judge(entry) {
            Verdict::Valid => {
                self.cache.shared.counters.note(Event::Stored);
                // A lease is on the key that was asked for, and is released with the lead if the
                // answer belongs under another.
                let lease = if *key == self.key { self.lease.take() } else { None };
                self.cache.put(key, entry, lease);
                FillOutcome::Stored
            }
            Verdict::Fenced | Verdict::OldEpoch => FillOutcome::NotStored(self.note_overtaken()),
        }
    }
}
