//! Batch lookups of typed values.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::fill::FillGuard;
use super::lookup::{FlightMode, LookupResult};
use super::options::LookupOptions;
use super::permit::Permit;
use super::policy::{Policy, ValuePolicy};
use super::record::{Record, UnscopedRead};
use super::stored_value::{OptionalValue, StoredValue, ValueType};
use super::template::PolicyTag;
use super::typed::{TypedHit, store_value};
use crate::clock;
use crate::entry::Key;
use crate::observe;
use crate::outcome::Outcome;

/// One requested value.
struct RequestedValue<I> {
    id: I,
    key: Key,
}

/// One value that has to be loaded.
struct MissingValue<I, T> {
    wanted: RequestedValue<I>,
    tags: Vec<PolicyTag>,
    guard: Option<Box<FillGuard>>,
    /// The stale value to serve if loading fails.
    fallback: Option<TypedHit<OptionalValue<T>>>,
}

impl Cache {
    /// Returns the values for many ids: from the cache if they are proven fresh, and the rest from one call of `load` with
    /// the missing ids. `load` returns the values that exist. For the other ids, "there is none" is stored for the policy's
    /// [`negative_ttl`](crate::ValuePolicyBuilder::negative_ttl), if it has one.
    ///
    /// `load` is cloned for each call. Usually it is called once. It is called again for values that a concurrent
    /// request was loading, if that request fails. An `async` closure can be cloned if its captures can.
    ///
    /// In the policy's tags, `{id}` stands for the id, as in `users:id={id}`. Each value then depends only on its own row,
    /// although one statement reads all of them; `load` must read nothing else from that table. As with the loader of
    /// [`get_or_load`](Self::get_or_load), `load` must not use data that was read before this call, except the ids.
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use std::time::Duration;
    /// use tidegate::{Cache, Key, Memory, ValuePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tidegate::PolicyError> {
    /// let cache = Cache::new(Memory::new(64 << 20));
    /// let policy = ValuePolicy::ttl(Duration::from_secs(60)).tag("users:id={id}").build()?;
    /// let key = |id: &i32| Key::new("user").part(id.to_string()).finish();
    ///
    /// let names = cache.get_many([1, 2, 3], key, &policy, async |missing: Vec<i32>| {
    ///     // select id, name from users where id = any($1)
    ///     Ok::<_, ()>(missing.into_iter().map(|id| (id, format!("user {id}"))).collect::<HashMap<_, _>>())
    /// });
    /// assert_eq!(names.await.unwrap()[&2], "user 2");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `load`, unless the policy allows a stale value to be served for each missing id.
    pub async fn get_many<I, T, E, F>(
        &self,
        ids: impl IntoIterator<Item = I>,
        key: impl Fn(&I) -> Key,
        policy: &ValuePolicy,
        load: F,
    ) -> Result<HashMap<I, T>, E>
    where
        I: Clone + Display + Eq + Hash,
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: AsyncFnOnce(Vec<I>) -> Result<HashMap<I, T>, E> + Clone,
    {
        let unscoped = UnscopedRead::lookup();
        let wanted = wanted(ids, |id| self.own_key(key(id)));
        let mut options = LookupOptions::for_value(unscoped.as_ref());
        options.arrival = self.arrival(&options);
        options.holds = Some(OptionalValue::<T>::is_in);
        let found = HashMap::with_capacity(wanted.len());
        let mut search = BatchLookup { cache: self, policy, options, found };
        let (missing, late) = search.look_up(wanted).await;
        search.load(missing, &load).await?;
        // Only now, when this call holds no fill that others wait for: otherwise two calls could wait for each other.
        let mut late = VecDeque::from(late);
        while let Some(wanted) = late.pop_front() {
            let mut missing = search.wait(wanted).await;
            if !missing.is_empty() {
                // The call that was loading it has ended without a value, and it may have been loading others too: load all
                // of them together. This call now holds a fill, so it waits for no other one: `look_up` does not.
                let (more, still_late) = search.look_up(late.into()).await;
                missing.extend(more);
                late = still_late.into();
            }
            search.load(missing, &load).await?;
        }
        Ok(search.found)
    }
}

/// Each id once, with its key.
fn wanted<I>(ids: impl IntoIterator<Item = I>, key: impl Fn(&I) -> Key) -> Vec<RequestedValue<I>>
where
    I: Clone + Eq + Hash,
{
    let ids = ids.into_iter();
    let count = ids.size_hint().0;
    let (mut seen, mut wanted) = (HashSet::with_capacity(count), Vec::with_capacity(count));
    let once = ids.filter(|id| seen.insert(id.clone()));
    wanted.extend(once.map(|id| RequestedValue { key: key(&id), id }));
    wanted
}

/// A batch lookup in progress.
struct BatchLookup<'a, I, T> {
    cache: &'a Cache,
    policy: &'a ValuePolicy,
    /// The options that all lookups share.
    options: LookupOptions,
    found: HashMap<I, T>,
}

impl<I: Clone + Display + Eq + Hash, T: ValueType> BatchLookup<'_, I, T> {
    fn settings(&self) -> &Arc<Policy> {
        self.policy.settings()
    }

    /// Looks up all values. Returns those that this call has to load, and those that other requests are loading.
    async fn look_up(
        &mut self,
        wanted: Vec<RequestedValue<I>>,
    ) -> (Vec<MissingValue<I, T>>, Vec<RequestedValue<I>>) {
        let keys: Vec<&Key> = wanted.iter().map(|one| &one.key).collect();
        let lookups = self.cache.try_lookup_many(&keys, self.settings(), &self.options).await;
        let (mut missing, mut late) = (Vec::new(), Vec::new());
        for (wanted, lookup) in wanted.into_iter().zip(lookups) {
            match lookup {
                Some(lookup) => missing.extend(self.take(wanted, lookup)),
                None => late.push(wanted),
            }
        }
        (missing, late)
    }

    /// Waits for a value that another request is loading.
    async fn wait(&mut self, wanted: RequestedValue<I>) -> Vec<MissingValue<I, T>> {
        let (policy, mode) = (self.settings(), FlightMode::Join);
        let lookup = self.cache.lookup(&wanted.key, policy, &self.options, mode).await;
        self.take(wanted, lookup).into_iter().collect()
    }

    fn take(
        &mut self,
        wanted: RequestedValue<I>,
        lookup: LookupResult,
    ) -> Option<MissingValue<I, T>> {
        let counters = &self.cache.shared.counters;
        let (mut guard, fallback) = match lookup {
            LookupResult::Hit(mut hit) => {
                match (OptionalValue::read(&hit.found.entry), hit.take_renewal()) {
                    (Some(value), None) => {
                        self.cache.serves(&hit, self.settings());
                        self.store(wanted.id, value);
                        return None;
                    }
                    // The entry is due to be recomputed, and this call does that.
                    (value, renew) => (renew, value.map(|value| TypedHit { hit, value })),
                }
            }
            LookupResult::Miss(mut guard) => {
                let fallback = guard.fallback().and_then(TypedHit::read);
                (Some(guard), fallback)
            }
            LookupResult::Bypass(bypass) => {
                counters.count(Outcome::Bypass(bypass.reason));
                (None, bypass.fallback.and_then(TypedHit::read))
            }
        };
        // `None` only without an id.
        let tags = self.policy.tags(Some(&wanted.id.to_string())).unwrap_or_default();
        if let Some(guard) = &mut guard {
            counters.count(guard.outcome());
            guard.tag(&tags);
        }
        Some(MissingValue { wanted, tags, guard, fallback })
    }

    fn store(&mut self, id: I, value: OptionalValue<T>) {
        self.found.extend(value.0.map(|value| (id, value)));
    }

    /// Loads all missing values in one call.
    async fn load<E, F>(&mut self, mut missing: Vec<MissingValue<I, T>>, load: &F) -> Result<(), E>
    where
        F: AsyncFnOnce(Vec<I>) -> Result<HashMap<I, T>, E> + Clone,
    {
        if missing.is_empty() {
            return Ok(());
        }
        let permit = self.permit(&mut missing).await;
        let tags = missing.iter().flat_map(|one| one.tags.clone()).collect();
        let options = LookupOptions { tags, ..self.options.clone() };
        let keys: Vec<&Key> = missing.iter().map(|one| &one.wanted.key).collect();
        let record = self.cache.record_for(&keys, permit.as_ref(), Some(self.settings()), options);
        let ids: Vec<I> = missing.iter().map(|one| one.wanted.id.clone()).collect();
        let began = clock::now();
        let loaded = record.enter(|| load.clone()(ids)).await;
        observe::load(began.elapsed());
        record.close(loaded.as_ref().ok().and_then(|loaded| self.lasts(&missing, loaded)));
        match loaded {
            Ok(mut loaded) => missing.into_iter().for_each(|one| {
                let value = OptionalValue(loaded.remove(&one.wanted.id));
                self.fill(one, value, &record);
            }),
            Err(error) => self.fall_back(missing, error, &record)?,
        }
        Ok(())
    }

    /// One permit for all values of a call.
    async fn permit(&self, missing: &mut [MissingValue<I, T>]) -> Option<Arc<Permit>> {
        let guards = missing.iter_mut().filter_map(|one| one.guard.as_deref_mut());
        // Each early refresh already holds one.
        let held = guards.filter_map(|guard| guard.permit.take()).next_back();
        if held.is_some() {
            return held;
        }
        let guards = missing.iter().filter_map(|one| one.guard.as_deref());
        let leaders = guards.filter_map(|guard| guard.flight.as_ref());
        Some(self.cache.permit(self.settings(), leaders).await.permit)
    }

    /// How long the loaded values last; `None` if the policy does not say so for one of them.
    fn lasts(&self, missing: &[MissingValue<I, T>], loaded: &HashMap<I, T>) -> Option<Duration> {
        let all = missing.iter().map(|one| !loaded.contains_key(&one.wanted.id));
        let lasts = all.map(|is_negative| self.settings().lasts(is_negative));
        lasts.reduce(|one, other| Some(one?.min(other?))).flatten()
    }

    fn fill(&mut self, missing: MissingValue<I, T>, mut value: OptionalValue<T>, record: &Record) {
        if let Some(guard) = missing.guard {
            // This value has its own tags, without those of the other values in the same call.
            let part = record.part(missing.tags);
            value = store_value(guard.with_record(part), value);
        }
        self.store(missing.wanted.id, value);
    }

    /// Serves the stale values in place of an error, unless they lack what the load itself has written.
    fn fall_back<E>(
        &mut self,
        missing: Vec<MissingValue<I, T>>,
        error: E,
        record: &Record,
    ) -> Result<(), E> {
        let is_whole = !record.has_written() && missing.iter().all(|one| one.fallback.is_some());
        for MissingValue { wanted, guard, fallback, .. } in missing {
            if let Some(guard) = guard {
                guard.fail(fallback.as_ref().map(|typed| &typed.hit));
            }
            if let Some(TypedHit { hit, value }) = fallback.filter(|_| is_whole) {
                self.cache.shows(&hit, self.settings());
                self.store(wanted.id, value);
            }
        }
        if is_whole { Ok(()) } else { Err(error) }
    }
}
