//! The steps of cache-aside, up to the point where somebody has to make the answer.

use std::sync::Arc;

use super::cache::Cache;
use super::flight::{Joined, Landing, Leader};
use super::lead::Lead;
use super::permit::{Permit, Permitted};
use super::policy::Policy;
use super::protocol::{Verdict, must_see};
use super::record::{EndedStrays, Needs, Record, Stray};
use super::refresh::{Use, assess, decide};
use super::template::PolicyTag;
use super::terms::Limits;
use super::waits::Waiting;
use crate::broken::is_broken;
use crate::clock;
use crate::entry::{Entry, Epoch, Key, Position};
use crate::observe;
use crate::outcome::{BypassReason, Event, MissReason, Outcome, StaleReason};
use crate::store::{Found, StoreError};
use crate::traffic::Traffic;

mod claim;
mod follow;

/// What a request asks for beyond the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) tags: Vec<PolicyTag>,
    /// What the session has written must be in the answer: everything up to here.
    pub(crate) session: Option<(Epoch, Position)>,
    /// How old or stale an answer the client takes.
    pub(crate) limits: Limits,
    /// Where what is read is noted for those who look on.
    pub(crate) watch: Option<Arc<Traffic>>,
    /// Whether an entry holds a value of the requested type; `None` where every entry under the key does.
    pub(crate) holds: Option<fn(&Entry) -> bool>,
    /// It is a request to a layer: unless it comes from within another, the process's own writes are none of its.
    pub(crate) is_request: bool,
    /// Reads and lookups in no scope that had ended when it was asked; as of the lookup where that is not said.
    pub(crate) strays: Option<EndedStrays>,
}

/// What came of a lookup.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// Serve this.
    Hit(Hit),
    /// Make the answer.
    Miss(Box<Lead>),
    /// Make an answer, and keep it to yourself.
    Bypass(Bypass),
}

/// An answer that may be served.
#[derive(Debug)]
pub(crate) struct Hit {
    /// The answer.
    pub found: Found,
    /// How it came about.
    pub outcome: Outcome,
    /// The duty to make it anew in the background, if it is due and nobody else is at it.
    pub renew: Option<Box<Lead>>,
}

/// Leave to go past the cache.
#[derive(Debug)]
pub(crate) struct Bypass {
    /// Why.
    pub reason: BypassReason,
    /// What may be served if no answer can be made.
    pub fallback: Option<Hit>,
    /// The scope to work in.
    pub record: Record,
    /// Held while the answer is made.
    _permit: Option<Arc<Permit>>,
}

impl Ask {
    /// Of a request to a layer.
    pub(crate) fn of_request(session: Option<(Epoch, Position)>) -> Self {
        Self { session, is_request: true, ..Self::default() }
    }

    /// Of a value, by a lookup that is marked if it is in no scope.
    pub(crate) fn of_value(stray: Option<&Stray>) -> Self {
        Self { strays: Some(EndedStrays::within(stray)), ..Self::default() }
    }
}

impl Lookup {
    /// What an answer to be made will depend on, where that was not said when it was asked for.
    pub(crate) fn tag(&mut self, tags: &[PolicyTag]) {
        match self {
            Self::Hit(_) => {}
            Self::Miss(lead) => lead.tag(tags),
            Self::Bypass(bypass) => bypass.record.tag(tags),
        }
    }
}

impl Cache {
    /// What can be answered at once: an entry in memory, proven fresh, for a session that this node
    /// need not first catch up with. Waits for nothing and counts only what it answers.
    pub(crate) fn at_hand(&self, key: &Key, policy: &Policy, ask: &Ask) -> Option<Hit> {
        if self.is_off() || !self.is_confirmed(policy) || !self.has_followed(ask.session) {
            return None;
        }
        let Needs::Position(own) = self.own_writes_seen(ask) else { return None };
        if !self.has_followed(own) {
            return None;
        }
        let found = self.shared.store.peek(key)?;
        let verdict = self.shared.fences.judge(&found.entry);
        (decide(verdict, &found.entry, policy, &ask.limits) == Use::Serve).then(|| {
            let outcome = Outcome::Hit(found.tier);
            Hit { found, outcome, renew: None }
        })
    }

    /// Finds an answer, or says who makes it.
    pub(crate) async fn lookup(&self, key: &Key, policy: &Arc<Policy>, ask: Ask) -> Lookup {
        let mut search = Search::new(self, key, policy, ask);
        if self.is_off() {
            return Lookup::Bypass(search.bypass(BypassReason::Off, None));
        }
        if let Err(reason) = search.can_prove().await {
            // What the store has may be better than an error.
            if !policy.longest_if_error().is_zero()
                && let Some(unproven) = search.look().await
            {
                search.passed_over = Some(unproven.found);
            }
            return Lookup::Bypass(search.bypass_limited(reason).await);
        }
        if let Some(hit) = search.peek() {
            return Lookup::Hit(hit);
        }
        search.make().await
    }

    /// Finds an answer, or takes the duty to make it if nobody else has it; `None` if somebody does. Waits
    /// for nobody's work, and holds no place among the makers.
    pub(crate) async fn try_lookup(
        &self,
        key: &Key,
        policy: &Arc<Policy>,
        ask: Ask,
    ) -> Option<Lookup> {
        let mut search = Search::new(self, key, policy, ask);
        if self.is_off() {
            return Some(Lookup::Bypass(search.bypass(BypassReason::Off, None)));
        }
        if let Err(reason) = search.can_prove().await {
            return Some(Lookup::Bypass(search.bypass(reason, None)));
        }
        if let Some(hit) = search.look().await {
            return Some(Lookup::Hit(hit));
        }
        let leader = self.shared.flights.try_lead(*key.hash())?;
        // It may have turned up meanwhile.
        if let Some(hit) = search.peek() {
            return Some(Lookup::Hit(hit));
        }
        Some(Lookup::Miss(Box::new(search.duty(Some(leader), None))))
    }

    /// Finds an answer, and leaves it at that: on a miss nobody else waits for what the caller makes.
    pub(crate) async fn look(&self, key: &Key, policy: &Arc<Policy>, ask: Ask) -> Lookup {
        let mut search = Search::new(self, key, policy, ask);
        if self.is_off() {
            return Lookup::Bypass(search.bypass(BypassReason::Off, None));
        }
        if let Err(reason) = search.can_prove().await {
            return Lookup::Bypass(search.bypass_limited(reason).await);
        }
        if let Some(hit) = search.look().await {
            return Lookup::Hit(hit);
        }
        let Permitted { permit, has_waited } = self.permit(policy, []).await;
        if has_waited && let Some(hit) = search.look().await {
            return Lookup::Hit(hit);
        }
        Lookup::Miss(Box::new(search.duty(None, Some(permit))))
    }

    /// What is stored under a key, whatever has become of it.
    pub(crate) async fn stored(&self, key: &Key) -> Option<Found> {
        let store = &self.shared.store;
        match store.peek(key) {
            Some(found) => Some(found),
            None => store.get(key).await.ok().flatten(),
        }
    }

    /// What may be served under a key if no answer can be made.
    pub(crate) async fn fallback(&self, key: &Key, policy: &Arc<Policy>, ask: &Ask) -> Option<Hit> {
        let mut search = Search::new(self, key, policy, ask.clone());
        search.passed_over = self.stored(key).await;
        let Needs::Position(own) = self.own_writes_seen(ask) else { return None };
        search.ask.session = must_see(ask.session, own);
        search.fallback()
    }

    /// Whether this node has heard from the source of changes as lately as the policy asks.
    pub(super) fn is_confirmed(&self, policy: &Policy) -> bool {
        self.log().is_none()
            || self.shared.fences.age().is_some_and(|age| age <= policy.max_staleness)
    }
}

/// One lookup under way: what it was asked, and what it came by.
struct Search<'a> {
    cache: &'a Cache,
    key: &'a Key,
    policy: &'a Arc<Policy>,
    ask: Ask,
    reason: MissReason,
    /// The youngest entry that was found and may not be served as it is.
    passed_over: Option<Found>,
    /// Something was written, and where is not known: nothing that is stored can be proven to have it.
    is_blind: bool,
}

impl<'a> Search<'a> {
    fn new(cache: &'a Cache, key: &'a Key, policy: &'a Arc<Policy>, mut ask: Ask) -> Self {
        // Now, before anything is waited for: what begins meanwhile may be used by what is computed.
        ask.strays.get_or_insert_with(EndedStrays::now);
        Self {
            cache,
            key,
            policy,
            ask,
            reason: MissReason::Absent,
            passed_over: None,
            is_blind: false,
        }
    }

    async fn can_prove(&mut self) -> Result<(), BypassReason> {
        let limit = self.policy.max_staleness;
        let own = self.cache.own_writes(&self.ask, limit).await;
        let Ok(own) = own else {
            self.is_blind = true;
            return Err(BypassReason::Session);
        };
        let session = self.ask.session;
        // First of all: what is served in place of an error has to have it too.
        self.ask.session = must_see(session, own);
        if !self.cache.follow(session, limit).await || !self.cache.follow(own, limit).await {
            return Err(BypassReason::Session);
        }
        if !self.cache.is_confirmed(self.policy) {
            return Err(BypassReason::Unconfirmed);
        }
        Ok(())
    }

    /// Looks in memory, then in the shared store.
    async fn look(&mut self) -> Option<Hit> {
        if let Some(hit) = self.peek() {
            return Some(hit);
        }
        let found = self.cache.shared.store.get(self.key).await;
        self.take(found)
    }

    fn peek(&mut self) -> Option<Hit> {
        let found = self.cache.shared.store.peek(self.key)?;
        let outcome = Outcome::Hit(found.tier);
        self.judge(found, outcome)
    }

    fn take(&mut self, found: Result<Option<Found>, StoreError>) -> Option<Hit> {
        let found = self.read(found)?;
        let outcome = Outcome::Hit(found.tier);
        self.judge(found, outcome)
    }

    fn read(&mut self, found: Result<Option<Found>, StoreError>) -> Option<Found> {
        found.unwrap_or_else(|error| {
            self.reason = match error {
                StoreError::Decode(_) => MissReason::Undecodable,
                _ => MissReason::StoreFailed,
            };
            self.cache.noted(Err(error));
            None
        })
    }

    fn judge(&mut self, found: Found, outcome: Outcome) -> Option<Hit> {
        let decided = self.decide(&found);
        self.follow_up(decided, found, outcome)
    }

    fn decide(&self, found: &Found) -> Use {
        let fences = &self.cache.shared.fences;
        match assess(fences, &found.entry, self.policy, &self.ask.limits) {
            Use::Miss(reason) => Use::Miss(reason),
            _ if !self.holds(&found.entry) => Use::Miss(MissReason::OtherShape),
            // What was written since is not in it.
            Use::Stale(StaleReason::Failover) if self.ask.session.is_some() => {
                Use::Miss(MissReason::OldEpoch)
            }
            used => used,
        }
    }

    fn holds(&self, entry: &Entry) -> bool {
        self.ask.holds.is_none_or(|holds| holds(entry))
    }

    /// Does what was decided on an entry; one that can't be served is kept in mind.
    fn follow_up(&mut self, decided: Use, found: Found, outcome: Outcome) -> Option<Hit> {
        match decided {
            Use::Serve => Some(Hit { found, outcome, renew: None }),
            Use::Renew => Some(Hit { renew: self.renewal(&found), found, outcome }),
            Use::Stale(reason) => {
                let renew = self.renewal(&found);
                Some(Hit { renew, found, outcome: Outcome::Stale(reason) })
            }
            Use::Miss(reason) => {
                self.pass_over(found, reason);
                None
            }
        }
    }

    fn pass_over(&mut self, found: Found, reason: MissReason) {
        if self.cache.shared.fences.is_false_alarm(&found.entry) == Some(true) {
            self.cache.shared.counters.note(Event::FalseAlarm);
        }
        self.reason = reason;
        let known = self.passed_over.as_ref();
        if known.is_none_or(|known| known.entry.as_of() <= found.entry.as_of())
            // Only a policy with `stale_if_error` uses it, and the check may decode.
            && (self.policy.longest_if_error().is_zero() || self.holds(&found.entry))
        {
            self.passed_over = Some(found);
        }
    }

    /// Joins those who are looking for the answer or making it, or begins to. So the shared store is asked
    /// once, however many want the same at a time.
    async fn make(&mut self) -> Lookup {
        if Record::is_computing(&self.cache.shared.fences, self.key.hash()) {
            return self.recursive();
        }
        let alone = self.is_unlikely_shared();
        if !alone && let Some(leader) = self.cache.shared.flights.try_lead(*self.key.hash()) {
            return self.lead(Some(leader)).await;
        }
        let mut attempts = if alone { 0 } else { 2 };
        while attempts > 0 {
            attempts -= 1;
            // Apart, so that who leads needs no room for it.
            match Box::pin(self.join()).await {
                None => return self.recursive(),
                Some(Joined::Leader(leader)) => return self.lead(Some(leader)).await,
                Some(Joined::Follower(Landing::Entry(entry))) => {
                    if let Some(hit) = self.collapsed(entry) {
                        return Lookup::Hit(hit);
                    }
                }
                Some(Joined::Follower(Landing::Instead(entry))) => {
                    if let Some(hit) = self.instead(entry) {
                        return Lookup::Hit(hit);
                    }
                }
                Some(Joined::Follower(Landing::Nothing)) => break,
            }
        }
        self.lead(None).await
    }

    /// Whether waiting for another request would be in vain: responses here could not be stored of late, or none of the
    /// policy's was and nothing is known of this one.
    fn is_unlikely_shared(&self) -> bool {
        self.cache.shared.alone.has(self.key)
            || self.passed_over.is_none() && self.policy.streak.is_long()
    }

    /// To wait would be to wait for oneself.
    fn recursive(&self) -> Lookup {
        tracing::warn!(key = %self.key, "a value is computed by what asks for it, or waits for it: it is computed twice");
        Lookup::Bypass(self.bypass(BypassReason::Recursive, None))
    }

    /// Waits for what others look for or make; or leads them, beside the present leader if that is slower than the
    /// policy allows. `None` if they wait for what the present scope computes.
    async fn join(&self) -> Option<Joined> {
        let began = clock::now();
        let _waiting = Waiting::new(Record::computing(), self.cache.place(self.key))?;
        let lent = Record::permit();
        let (flights, key) = (&self.cache.shared.flights, *self.key.hash());
        let joined = flights.join(key, self.policy.wait, lent.as_ref()).await;
        if !matches!(joined, Joined::Leader(_)) {
            observe::flight_wait(began.elapsed());
        }
        Some(joined)
    }

    /// What another request was making, judged by what is known now and asked here.
    fn collapsed(&mut self, entry: Arc<Entry>) -> Option<Hit> {
        let tier = crate::store::Tier::Memory;
        if !entry.answers(self.key) {
            return None;
        }
        if is_broken("delivery") {
            let found = Found { entry, tier };
            return Some(Hit { found, outcome: Outcome::Collapsed, renew: None });
        }
        self.judge(Found { entry, tier }, Outcome::Collapsed)
    }

    /// What another request served when its fill failed, if this one may be answered so too.
    fn instead(&mut self, entry: Arc<Entry>) -> Option<Hit> {
        if entry.answers(self.key) {
            self.pass_over(Found { entry, tier: crate::store::Tier::Memory }, self.reason);
        }
        self.fallback()
    }

    /// Looks in the shared store for all who wait, and becomes the one who makes the answer if it is not there.
    async fn lead(&mut self, mut leader: Option<Leader>) -> Lookup {
        if leader.is_some()
            && let Some(hit) = self.peek()
        {
            return Lookup::Hit(hit);
        }
        let found = self.cache.shared.store.get(self.key).await;
        if let Some(found) = self.read(found) {
            let (decided, outcome) = (self.decide(&found), Outcome::Hit(found.tier));
            if !matches!(decided, Use::Miss(_))
                && let Some(leader) = leader.take()
            {
                // First of all: if it is due to be made anew, that is another flight.
                leader.land(Landing::Entry(found.entry.clone()));
            }
            if let Some(hit) = self.follow_up(decided, found, outcome) {
                return Lookup::Hit(hit);
            }
        }
        // Other nodes may have left it to the one that is overtaken here.
        let is_first = leader.as_ref().is_some_and(|leader| !leader.overtakes());
        let lease = match self.claim(is_first).await {
            Ok(lease) => lease,
            Err(hit) => {
                if let Some(leader) = leader {
                    leader.land(Landing::Entry(hit.found.entry.clone()));
                }
                return Lookup::Hit(hit);
            }
        };
        let Permitted { permit, has_waited } = self.cache.permit(self.policy, &leader).await;
        let mut lead = self.duty(leader, Some(permit));
        lead.lease = lease;
        if has_waited && let Some(hit) = self.look().await {
            lead.found(&hit);
            return Lookup::Hit(hit);
        }
        Lookup::Miss(Box::new(lead))
    }

    /// The duty to make an answer anew in the background, if nobody has it and there is room.
    fn renewal(&self, due: &Found) -> Option<Box<Lead>> {
        let leader = self.cache.shared.flights.try_lead(*self.key.hash())?;
        let permit = self.cache.try_permit(self.policy)?;
        let mut lead = self.duty(Some(leader), Some(permit));
        lead.stale = self.confirmable(due);
        Some(Box::new(lead))
    }

    fn duty(&self, leader: Option<Leader>, permit: Option<Arc<Permit>>) -> Lead {
        let record = self.record(permit.as_ref());
        let mut lead = Lead::new(self.cache, self.key, self.policy, record);
        lead.reason = self.reason;
        lead.fallback = self.fallback();
        lead.stale = self.passed_over.as_ref().and_then(|found| self.confirmable(found));
        lead.flight = leader;
        lead.permit = permit;
        lead
    }

    /// An entry that only time has made stale: who made it may say that it still holds. One that a
    /// change made invalid is made anew, whatever anybody says of it.
    fn confirmable(&self, found: &Found) -> Option<Arc<Entry>> {
        let verdict = self.cache.shared.fences.judge(&found.entry);
        (verdict == Verdict::Valid).then(|| found.entry.clone())
    }

    /// What may be served if no answer can be made.
    fn fallback(&self) -> Option<Hit> {
        let found = self.passed_over.clone()?;
        let entry = &found.entry;
        let window = entry.life.if_error.min(self.policy.longest_if_error());
        // RFC 9111, section 4.4: a write makes validation mandatory.
        let must_validate =
            self.policy.is_standard && self.cache.shared.fences.judge(entry) == Verdict::Fenced;
        let lasts = !entry.is_signpost()
            && !must_validate
            && !window.is_zero()
            && entry.age() < entry.ttl().saturating_add(window);
        let has_own_writes = self
            .ask
            .session
            .is_none_or(|(epoch, position)| entry.epoch() == epoch && entry.as_of() >= position);
        let outcome = Outcome::Stale(StaleReason::Error);
        (lasts && has_own_writes && !self.is_blind).then_some(Hit { found, outcome, renew: None })
    }

    fn record(&self, permit: Option<&Arc<Permit>>) -> Record {
        self.cache.record_for((&[self.key], permit), Some(self.policy), self.ask.clone())
    }

    fn bypass(&self, reason: BypassReason, permit: Option<Arc<Permit>>) -> Bypass {
        let record = self.record(permit.as_ref());
        Bypass { reason, fallback: self.fallback(), record, _permit: permit }
    }

    /// Goes past a cache that can't prove anything just now, with everybody else: in bounds.
    async fn bypass_limited(&self, reason: BypassReason) -> Bypass {
        let permit = self.cache.permit(self.policy, []).await.permit;
        self.bypass(reason, Some(permit))
    }
}
