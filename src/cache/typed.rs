//! Values of a Rust type, without HTTP.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::cache::Cache;
use super::lead::Lead;
use super::lookup::{Ask, Hit, Lookup};
use super::policy::Policy;
use crate::clock;
use crate::entry::{Entry, Key};
use crate::observe;

impl Cache {
    /// The value for a key: from the cache if it is proven fresh, else from `load`, whose reads
    /// through `Database::reader()` are noted. Many callers at once cause one load.
    ///
    /// Values are kept in bincode's form, so `T` must come out of it as it went in: types that
    /// need a self-describing format, such as `serde_json::Value`, do not.
    ///
    /// # Errors
    ///
    /// What `load` returns. The cache's own faults never are: a value that can't be encoded or
    /// decoded is loaded.
    pub async fn get_or_load<T, E, F>(&self, key: &Key, policy: &Policy, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        E: Send + 'static,
        F: AsyncFnOnce() -> Result<T, E>,
    {
        let tags = policy.tags_with(|_| None).unwrap_or_default();
        let policy = Arc::new(policy.clone());
        match self.lookup(key, &policy, Ask { tags, ..Ask::default() }).await {
            Lookup::Hit(hit) => match value(&hit) {
                Some(value) => self.renew_or_serve(hit, value, load).await,
                None => load().await,
            },
            Lookup::Miss(lead) => self.load(*lead, load).await,
            Lookup::Bypass(bypass) => {
                self.shared.counters.count(crate::Outcome::Bypass(bypass.reason));
                let loaded = bypass.record.scope(load()).await;
                or_fallback(loaded, bypass.fallback.as_ref())
            }
        }
    }

    /// A value that is due is made anew by the one who found it so; others get the present one.
    async fn renew_or_serve<T, E, F>(&self, mut hit: Hit, value: T, load: F) -> Result<T, E>
    where
        T: Serialize + Clone + Send + Sync + DeserializeOwned + 'static,
        F: AsyncFnOnce() -> Result<T, E>,
    {
        let Some(mut lead) = hit.renew.take() else {
            self.shared.counters.count(hit.outcome);
            return Ok(value);
        };
        if !lead.claim().await {
            self.shared.counters.count(hit.outcome);
            return Ok(value);
        }
        Ok(self.load(*lead, load).await.unwrap_or(value))
    }

    async fn load<T, E, F>(&self, mut lead: Lead, load: F) -> Result<T, E>
    where
        T: Serialize + DeserializeOwned + Clone + Send + Sync + 'static,
        F: AsyncFnOnce() -> Result<T, E>,
    {
        self.shared.counters.count(lead.outcome());
        let record = lead.record().clone();
        let fallback = lead.fallback();
        let began = clock::now();
        let loaded = record.scope(load()).await;
        observe::load(began.elapsed());
        if let Ok(value) = &loaded
            && let Ok(body) = bincode::serde::encode_to_vec(value, bincode::config::standard())
        {
            lead.fill(false, Bytes::new(), body.into());
        }
        or_fallback(loaded, fallback.as_ref())
    }
}

fn or_fallback<T, E>(loaded: Result<T, E>, fallback: Option<&Hit>) -> Result<T, E>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    loaded.or_else(|error| fallback.and_then(value).ok_or(error))
}

fn value<T>(hit: &Hit) -> Option<T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    hit.found.entry.decoded(decode::<T>).ok().map(|value| T::clone(&value))
}

fn decode<T: DeserializeOwned>(entry: &Entry) -> Result<T, bincode::error::DecodeError> {
    // No more than is there can be asked for; the limit is on what a length in it may claim.
    const LIMIT: usize = 256 << 20;
    let config = bincode::config::standard().with_limit::<LIMIT>();
    bincode::serde::decode_from_slice(entry.body(), config).map(|(value, _)| value)
}
