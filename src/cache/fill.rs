//! The fill of one key: the guard that a request holds while it computes an entry.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::cache::Cache;
use super::flight::{FlightLeader, FlightResult};
use super::freshness::Freshness;
use super::hit_for_pass::SharedBy;
use super::lease::{Claimed, LeaseGuard, PendingLease};
use super::permit::Permit;
use super::policy::Policy;
use super::protocol::Verdict;
use super::record::{Record, UNSCOPED_READ};
use super::template::PolicyTag;
use super::uncacheable::Uncacheable;
use crate::clock::{self, Instant};
use crate::entry::{Entry, Epoch, Key, Lifetime, LogPosition, Position};
use crate::outcome::{Event, MissReason, Outcome};
use crate::store::Found;

/// Held by the request that computes the entry for one key. Do the work in [`record`](Self::record)'s scope, then call
/// [`fill`](Self::fill). If the guard is dropped, the next waiting request takes over.
#[derive(Debug)]
pub(crate) struct FillGuard {
    cache: Cache,
    key: Key,
    policy: Arc<Policy>,
    record: Record,
    began: Instant,
    /// How long the computation took, if that is known before the end of the body.
    cost: Option<Duration>,
    pub(crate) reason: MissReason,
    /// A stale entry that the policy allows to serve if the work fails.
    pub(super) stale_if_error: Option<Found>,
    /// A stored entry that no change has invalidated, so the handler may confirm it.
    pub(crate) stale: Option<Arc<Entry>>,
    /// The stored entry that this fill is to replace, valid or not.
    pub(crate) replaced: Option<Arc<Entry>>,
    /// The vary marker that led to this key, if it is the key of a variant.
    pub(crate) marker: Option<Arc<Entry>>,
    /// Declared before the flight, so that it is dropped first: the request that takes over acquires it again.
    pub(super) lease: Option<Box<LeaseGuard>>,
    pub(crate) flight: Option<FlightLeader>,
    pub(crate) permit: Option<Arc<Permit>>,
    /// The decoded value of the entry that is to be stored, if it is known.
    pub(crate) decoded: Option<Arc<dyn Any + Send + Sync>>,
}

/// A computed entry and the key to store it under.
#[derive(Debug)]
pub(crate) struct ComputedEntry {
    pub(crate) key: Key,
    pub(crate) freshness: Freshness,
    pub(crate) head: Bytes,
    pub(crate) body: Bytes,
    pub(crate) vary_marker: Option<VaryMarker>,
}

/// A vary marker to store beside a computed entry.
#[derive(Debug)]
pub(crate) struct VaryMarker {
    /// The primary key.
    pub(crate) key: Key,
    /// Says which request fields select a variant.
    pub(crate) head: Bytes,
}

/// Whether a computed entry was stored.
#[derive(Debug)]
pub(crate) enum FillOutcome {
    /// It was stored.
    Stored,
    /// It was not stored, for this reason. The request that computed it can use it all the same.
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
            stale_if_error: None,
            stale: None,
            replaced: None,
            marker: None,
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

    /// Adds the policy's tags to those of the reads. Call this before the work begins.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        self.record.tag(tags);
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The body is streaming, and its pace depends on the client: stops the cost timer and releases the permit.
    pub(crate) fn begin_streaming(&mut self) {
        self.cost = Some(self.began.elapsed());
        self.permit = None;
    }

    /// Notes the first byte of a body of unknown length.
    pub(crate) fn note_first_byte(&self) {
        if let Some(flight) = &self.flight {
            flight.stream();
        }
    }

    /// Releases the lease because the body will take long, so that other nodes do not wait for it.
    pub(crate) fn release_lease(&mut self) {
        self.lease = None;
    }

    /// The same guard, for work that ran in another scope.
    pub(crate) fn with_record(mut self: Box<Self>, record: Record) -> Self {
        self.record = record;
        *self
    }

    /// Detaches the fill from the current scope, for work in the background.
    pub(crate) fn detach(&mut self) {
        self.record = self.record.apart();
    }

    /// The key that is filled.
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether no request waits for this response, since the key's last response could not be shared. `is_identified` says
    /// whether the request identifies its client.
    pub(crate) fn is_known_unshared(&self, is_identified: bool) -> bool {
        self.flight.is_none() && self.cache.shared.hit_for_pass.has(&self.key, is_identified)
    }

    /// The miss that led to this fill.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome::Miss(self.reason)
    }

    /// Whether an entry is stored under the key, valid or not.
    pub(crate) fn has_stored(&self) -> bool {
        self.replaced.is_some() || self.reason != MissReason::Absent
    }

    /// Removes the entry that is stored under the key, since what was computed supersedes it and can't be stored. A value of
    /// another type is left: this one says nothing about it.
    pub(crate) fn remove_stored(&self) {
        if self.has_stored() && self.reason != MissReason::OtherShape {
            self.cache.remove_soon(&self.key);
        }
    }

    /// Whether the stored entry is of this epoch, and no change has made it invalid.
    pub(crate) fn replaces_valid(&self) -> bool {
        let judge = |entry: &Arc<Entry>| self.cache.shared.fences.judge(entry);
        self.replaced.as_ref().map(judge) == Some(Verdict::Valid)
    }

    /// Whether a response is stored under the key that no change has made invalid. It may be of another epoch, if the policy
    /// allows to serve such a response.
    pub(crate) fn has_usable(&self) -> bool {
        let stored = self.replaced.as_ref().filter(|entry| !entry.is_vary_marker());
        stored.is_some_and(|entry| match self.cache.shared.fences.judge(entry) {
            Verdict::Valid => true,
            Verdict::Fenced => false,
            Verdict::OldEpoch => {
                self.policy.stale_after_failover || !self.policy.longest_if_error().is_zero()
            }
        })
    }

    /// For work in the background: takes the lease. `false` if another node holds it.
    pub(crate) async fn claim(&mut self) -> bool {
        if !self.cache.leases(&self.policy) {
            return true;
        }
        match PendingLease::new(&self.cache, &self.key, self.policy.lease).claim().await {
            Ok(Claimed::Granted(lease)) => self.lease = Some(lease),
            Ok(Claimed::Unneeded | Claimed::Found(_)) => {}
            Ok(Claimed::Held) => return false,
            Err(error) => self.cache.noted(Err(error)),
        }
        true
    }

    /// Stores the entry if it is proven fresh, and passes it to the waiting requests. `negative` marks an entry that says
    /// "there is none".
    pub(crate) fn fill(self, negative: bool, head: Bytes, body: Bytes) -> FillOutcome {
        if negative && self.policy.negative_ttl.is_none() {
            let why = "a \"not found\" response or value is stored only with Policy::negative_ttl";
            // The outer scope still needs this one's dependencies.
            self.record.close(None);
            self.remove_stored();
            let uncacheable = Uncacheable::new("negative", why);
            self.note_uncacheable(&uncacheable);
            return FillOutcome::NotStored(self.finish_unshared(uncacheable));
        }
        let (key, freshness) = (self.key.clone(), Freshness::from_policy(&self.policy, negative));
        self.store(ComputedEntry { key, freshness, head, body, vary_marker: None })
    }

    /// Stores the entry under its key if it is proven fresh, and wakes the waiting requests.
    pub(crate) fn store(mut self, computed: ComputedEntry) -> FillOutcome {
        let proof = match self.record.basis() {
            Ok(proof) => proof,
            Err(uncacheable) => return FillOutcome::NotStored(self.reject(uncacheable)),
        };
        let cost = self.cost.unwrap_or_else(|| self.began.elapsed());
        let mut freshness = computed.freshness;
        self.record.limit(&mut freshness);
        self.record.close(Some(freshness.ttl.saturating_sub(freshness.age)));
        let is_timed = self.record.is_timed();
        let life = Lifetime { is_timed, ..freshness.life(self.policy.jitter, cost) };
        let (head, body) = (computed.head, computed.body);
        let entry = Arc::new(Entry::new(&computed.key, proof.basis, proof.tags, life, head, body));
        // Before the entry is shared, so that the waiting requests do not each decode it.
        if let Some(decoded) = self.decoded.take() {
            entry.set_decoded(decoded);
        }
        let filled = self.put(&computed.key, &entry);
        // An entry that is never fresh is of no use to waiting requests.
        self.note_shared(if freshness.ttl.is_zero() { SharedBy::None } else { SharedBy::All });
        let vary_marker = computed
            .vary_marker
            .map(|vary_marker| self.put_vary_marker(vary_marker, &computed.key, &entry));
        if let Some(flight) = self.flight.take() {
            // Each waiting request judges the entry by its own directives, even if the entry can't be stored.
            let found = [Some(entry), vary_marker].into_iter().flatten();
            let found = found.into_iter().find(|entry| entry.is_for(&self.key));
            flight.finish(found.map_or(FlightResult::Nothing, FlightResult::Entry));
        }
        filled
    }

    /// Stores a vary marker. It contains no data, so no change invalidates it. If there are now too many variants, removes
    /// one of the least used.
    fn put_vary_marker(
        &self,
        VaryMarker { key, head }: VaryMarker,
        variant: &Key,
        computed: &Arc<Entry>,
    ) -> Arc<Entry> {
        let before = self.cache.shared.store.peek(&key).filter(|found| found.entry.head == head);
        let before = before.map(|found| found.entry);
        let variants = before.as_ref().and_then(|entry| entry.variants().cloned());
        let variants = variants.unwrap_or_default();
        if let Some(gone) = variants.note(variant, computed) {
            self.cache.remove_soon(&gone);
        }
        // It must last as long as each of the variants.
        let left = before.map(|entry| entry.life.keep.saturating_sub(entry.age()));
        let keep = computed.life.keep.max(left.unwrap_or_default());
        let life = Lifetime::starting_now(keep, keep, Duration::ZERO);
        let vary_marker = Entry::new(&key, computed.basis, [].into(), life, head, Bytes::new());
        let vary_marker = Arc::new(vary_marker.into_vary_marker(variants));
        self.cache.put(&key, &vary_marker, None);
        vary_marker
    }

    /// Like [`fail_for`](Self::fail_for), with a response that other requests may get too.
    pub(crate) fn fail_with(
        mut self,
        uncacheable: Uncacheable,
        head: Bytes,
        body: Bytes,
    ) -> Uncacheable {
        self.refuse(&uncacheable);
        if let Some(flight) = self.flight.take() {
            let life = Lifetime::starting_now(Duration::ZERO, Duration::ZERO, Duration::ZERO);
            let nowhere = LogPosition::new(Epoch::UNKNOWN, Position::ZERO);
            let entry = Entry::new(&self.key, nowhere, [].into(), life, head, body);
            flight.fail_with(Arc::new(entry), self.began);
        }
        uncacheable
    }

    /// Ends the fill with a response that can't be shared: each waiting request computes its own.
    pub(crate) fn reject(self, uncacheable: Uncacheable) -> Uncacheable {
        self.refuse(&uncacheable);
        self.finish_unshared(uncacheable)
    }

    /// Ends the fill with a response that is for this client alone. Waiting requests of other identified clients compute
    /// their own, and the anonymous ones wait for one of them.
    pub(crate) fn reject_personal(mut self, uncacheable: Uncacheable) -> Uncacheable {
        self.refuse(&uncacheable);
        let hit_for_pass = &self.cache.shared.hit_for_pass;
        // What is known about anonymous requests still holds.
        if !hit_for_pass.has(&self.key, false) && hit_for_pass.set(&self.key, SharedBy::Anonymous) {
            self.policy.identified_streak.extend();
        }
        if let Some(flight) = self.flight.take() {
            flight.finish(FlightResult::Personal);
        }
        uncacheable
    }

    pub(super) fn refuse(&self, uncacheable: &Uncacheable) {
        self.record.refuse(uncacheable);
        self.note_uncacheable(uncacheable);
    }

    fn note_uncacheable(&self, uncacheable: &Uncacheable) {
        tracing::debug!(key = %self.key, %uncacheable, "a response was not stored");
        self.cache.shared.counters.note(Event::NotStored);
        if uncacheable.token == UNSCOPED_READ {
            self.cache.shared.counters.note(Event::UnscopedRead);
            #[cfg(feature = "postgres")]
            super::record::warn_of_unscoped_reads();
        }
        if let Some(observer) = self.record.observer() {
            observer.note_uncacheable(uncacheable);
        }
    }

    fn finish_unshared(mut self, uncacheable: Uncacheable) -> Uncacheable {
        self.note_shared(SharedBy::None);
        if let Some(flight) = self.flight.take() {
            flight.finish(FlightResult::Nothing);
        }
        uncacheable
    }

    /// Records, for later requests, whether this response could be shared.
    fn note_shared(&self, shared: SharedBy) {
        let is_new = self.cache.shared.hit_for_pass.set(&self.key, shared);
        match shared {
            SharedBy::All => {
                self.policy.streak.end();
                self.policy.identified_streak.end();
            }
            SharedBy::None if is_new => {
                self.policy.streak.extend();
                self.policy.identified_streak.extend();
            }
            SharedBy::Anonymous | SharedBy::None => {}
        }
    }

    /// Whether no change that this node knows of has invalidated an entry.
    pub(crate) fn is_valid(&self, entry: &Entry) -> bool {
        self.cache.shared.fences.judge(entry) == Verdict::Valid
    }

    /// Ends the fill because a change has invalidated the entry that the handler confirmed. A waiting request takes over,
    /// and does not ask the handler to confirm that entry again.
    pub(crate) fn reject_overtaken(self) -> Uncacheable {
        let uncacheable = self.note_overtaken();
        self.record.refuse(&uncacheable);
        uncacheable
    }

    fn note_overtaken(&self) -> Uncacheable {
        self.cache.shared.counters.note(Event::Overtaken);
        let why = "its data changed while it was computed, or was read from a replica that is too far behind";
        Uncacheable::new("overtaken", why)
    }

    fn put(&mut self, key: &Key, entry: &Arc<Entry>) -> FillOutcome {
        match self.cache.shared.fences.judge(entry) {
            Verdict::Valid => {
                self.cache.shared.counters.note(Event::Stored);
                // The lease is for the requested key. If the entry is stored under another key, dropping this guard
                // releases the lease.
                let lease = if *key == self.key { self.lease.take() } else { None };
                self.cache.put(key, entry, lease);
                FillOutcome::Stored
            }
            Verdict::Fenced | Verdict::OldEpoch => FillOutcome::NotStored(self.note_overtaken()),
        }
    }
}
