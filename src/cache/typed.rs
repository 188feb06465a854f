//! Lookups of single typed values, without HTTP.

use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::fill::FillGuard;
use super::hit::Hit;
use super::lookup::{FlightMode, LookupResult};
use super::options::LookupOptions;
use super::policy::{Policy, ValuePolicy};
use super::record::{Record, UnscopedRead};
use super::stored_value::{OptionalValue, PlainValue, StoredValue};
use super::uncacheable::Uncacheable;
use crate::clock;
use crate::entry::Key;
use crate::observe;

/// A hit and its decoded value.
pub(super) struct TypedHit<V> {
    pub(super) hit: Hit,
    pub(super) value: V,
}

impl<V: StoredValue> TypedHit<V> {
    /// Decodes a hit's value; `None` if that fails.
    pub(super) fn read(hit: Hit) -> Option<Self> {
        let value = V::read(&hit.found.entry)?;
        Some(Self { hit, value })
    }
}

impl Cache {
    /// Returns the value for a key: from the cache if it is proven fresh, otherwise from `load`, whose reads through
    /// `Database::reader()` are tracked. Concurrent calls for one key share one load.
    ///
    /// An entry holds the value, encoded by bincode, and a fingerprint. The fingerprint covers the type's path and
    /// everything that serde reports about the value, including the names of fields and variants. An entry that was
    /// stored as another type, or by a node with another version of the type, is a miss
    /// ([`MissReason::OtherShape`](crate::MissReason::OtherShape)). If a value is not the same after encoding and
    /// decoding, it is not stored, and a warning names its type. Causes are `#[serde(flatten)]`, `untagged`,
    /// `skip_serializing_if` and `serde_json::Value`. A value with more than 256 levels of nesting is not stored
    /// either. What the type's `Serialize` leaves out or rounds (`#[serde(skip)]`, a time in whole seconds) is lost,
    /// and the caller that loads the value gets it in its stored form too. If the meaning of a value changes and its
    /// type does not, change the cache's [`version`](Cache::version).
    ///
    /// `load` must not use data that was read before this call, such as rows that the caller read or the result of a
    /// task that it spawned, unless that data is part of the key: the value would be stored without the tags of those
    /// reads. If the caller is itself computing a response or value, the reads of `load` become dependencies of that
    /// too. The caller's own reads do not become dependencies of the loaded value.
    ///
    /// # Errors
    ///
    /// The error of `load`. If `load` has written nothing, a stored value can be returned instead: a fresh one that
    /// was only due to be refreshed early, or a stale one that the policy allows. The cache's own failures are not
    /// errors: a value that can't be decoded is loaded, and one that can't be encoded is returned without being
    /// stored.
    pub async fn get_or_load<T, E, F>(
        &self,
        key: &Key,
        policy: &ValuePolicy,
        load: F,
    ) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Send + 'static,
        F: AsyncFnOnce() -> Result<T, E>,
    {
        let load = async move || load().await.map(PlainValue);
        self.obtain(key, policy, load).await.map(|PlainValue(value)| value)
    }

    /// Like [`get_or_load`](Self::get_or_load), for a value that may not exist. `None` is stored for the policy's
    /// [`negative_ttl`](crate::ValuePolicyBuilder::negative_ttl), if it has one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tidegate::{Cache, Key, Memory, ValuePolicy};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), tidegate::PolicyError> {
    /// let cache = Cache::new(Memory::new(64 << 20));
    /// let policy =
    ///     ValuePolicy::ttl(Duration::from_secs(60)).negative_ttl(Duration::from_secs(5)).build()?;
    /// let key = Key::new("user").part("42").finish();
    ///
    /// let user = cache.find_or_load(&key, &policy, async || Ok::<Option<String>, ()>(None)).await;
    /// assert_eq!(user, Ok(None));
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// The error of `load`, with the same exceptions.
    pub async fn find_or_load<T, E, F>(
        &self,
        key: &Key,
        policy: &ValuePolicy,
        load: F,
    ) -> Result<Option<T>, E>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Send + 'static,
        F: AsyncFnOnce() -> Result<Option<T>, E>,
    {
        let load = async move || load().await.map(OptionalValue);
        self.obtain(key, policy, load).await.map(|OptionalValue(value)| value)
    }

    async fn obtain<V, E, F>(&self, key: &Key, policy: &ValuePolicy, load: F) -> Result<V, E>
    where
        V: StoredValue,
        F: AsyncFnOnce() -> Result<V, E>,
    {
        let unscoped = UnscopedRead::lookup();
        if policy.lacks_id() {
            policy.warn_of_missing_id();
            return self.compute_unstored(policy.settings(), load).await;
        }
        let key = &*self.own(key);
        let mut options =
            LookupOptions { holds: Some(V::is_in), ..LookupOptions::for_value(unscoped.as_ref()) };
        match self.lookup_in_memory(key, policy.settings(), &options) {
            Ok(hit) => {
                if let Some(value) = V::read(&hit.found.entry) {
                    self.serves(&hit, policy.settings());
                    return Ok(value);
                }
            }
            Err(peeked) => options.peeked = peeked,
        }
        // `None` only without an id.
        options.tags = policy.tags(None).unwrap_or_default();
        let policy = policy.settings();
        match self.lookup(key, policy, &options, FlightMode::Join).await {
            LookupResult::Hit(hit) => match V::read(&hit.found.entry) {
                Some(value) => self.renew_or_serve(TypedHit { hit, value }, policy, load).await,
                None => compute(&self.record(Some(policy), options), policy, load).await,
            },
            LookupResult::Miss(guard) => self.load(*guard, policy, load).await,
            LookupResult::Bypass(bypass) => {
                self.shared.counters.count(crate::outcome::Outcome::Bypass(bypass.reason));
                let loaded = compute(&bypass.record, policy, load).await;
                self.or_fallback(loaded, bypass.fallback.as_ref(), policy, &bypass.record)
            }
        }
    }

    /// Loads a value whose dependencies are unknown, without storing it.
    async fn compute_unstored<V, E, F>(&self, policy: &Arc<Policy>, load: F) -> Result<V, E>
    where
        V: StoredValue,
        F: AsyncFnOnce() -> Result<V, E>,
    {
        let record = self.record(Some(policy), LookupOptions::default());
        // Its tags are unknown, and without them, nothing that contains the value can be invalidated.
        record.mark_uncacheable(Uncacheable::new(
            "missing-id",
            "a tag of the ValuePolicy uses {id}, and the value has no id",
        ));
        compute(&record, policy, load).await
    }

    /// The call that finds an entry due for early refresh reloads it; other calls get the stored value.
    async fn renew_or_serve<V, E, F>(
        &self,
        TypedHit { mut hit, value }: TypedHit<V>,
        policy: &Policy,
        load: F,
    ) -> Result<V, E>
    where
        V: StoredValue,
        F: AsyncFnOnce() -> Result<V, E>,
    {
        let Some(mut guard) = hit.take_renewal() else {
            self.serves(&hit, policy);
            return Ok(value);
        };
        if !guard.claim().await {
            self.serves(&hit, policy);
            return Ok(value);
        }
        let record = guard.record().clone();
        match self.load(*guard, policy, load).await {
            Err(_failed) if !record.has_written() => {
                self.shows(&hit, policy);
                Ok(value)
            }
            loaded => loaded,
        }
    }

    async fn load<V, E, F>(&self, mut guard: FillGuard, policy: &Policy, load: F) -> Result<V, E>
    where
        V: StoredValue,
        F: AsyncFnOnce() -> Result<V, E>,
    {
        self.shared.counters.count(guard.outcome());
        let record = guard.record().clone();
        let fallback = guard.fallback();
        let began = clock::now();
        let loaded = compute(&record, policy, load).await;
        observe::load(began.elapsed());
        match loaded {
            Ok(value) => Ok(store_value(guard, value)),
            Err(error) => {
                guard.fail(fallback.as_ref());
                self.or_fallback(Err(error), fallback.as_ref(), policy, &record)
            }
        }
    }

    /// Serves the stale value in place of an error, unless it lacks what the load itself has written.
    fn or_fallback<V: StoredValue, E>(
        &self,
        loaded: Result<V, E>,
        fallback: Option<&Hit>,
        policy: &Policy,
        record: &Record,
    ) -> Result<V, E> {
        loaded.or_else(|error| {
            let fallback = fallback.filter(|_| !record.has_written());
            let found = fallback.and_then(|hit| Some((hit, V::read(&hit.found.entry)?)));
            let (hit, value) = found.ok_or(error)?;
            self.shows(hit, policy);
            Ok(value)
        })
    }
}

/// Runs `load` in the record's scope, and closes the record.
async fn compute<V, E, F>(record: &Record, policy: &Policy, load: F) -> Result<V, E>
where
    V: StoredValue,
    F: AsyncFnOnce() -> Result<V, E>,
{
    let loaded = record.enter(|| load()).await;
    record.close(loaded.as_ref().ok().and_then(|value| policy.lasts(value.is_negative())));
    loaded
}

/// Fills an entry with a value. Returns the value in its stored form, so that this caller gets the same value as later
/// ones.
pub(super) fn store_value<V: StoredValue>(mut guard: FillGuard, value: V) -> V {
    match value.write() {
        Ok(written) => {
            let (is_negative, stored) = (value.is_negative(), V::written(&written));
            guard.decoded = written.decoded;
            guard.fill(is_negative, written.head, written.body);
            stored.unwrap_or(value)
        }
        Err(uncacheable) => {
            guard.remove_stored();
            drop(guard.reject(uncacheable));
            value
        }
    }
}

#[cfg(test)]
#[cfg(all(feature = "memory", not(tidegate_shuttle)))]
mod tests;
