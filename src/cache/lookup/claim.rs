//! Being the one node that makes an answer.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{sleep, timeout};

use super::{Hit, Search};
use crate::cache::Cache;
use crate::cache::cache::spawn;
use crate::entry::Key;
use crate::outcome::Event;
use crate::store::{Lease, LeaseToken, StoreError};

/// A lease that is asked for. If whoever asks leaves before the answer comes, it is given back then.
struct Asked {
    cache: Cache,
    answer: Option<BoxFuture<'static, (Result<Lease, StoreError>, Key)>>,
}

impl Asked {
    fn new(cache: &Cache, key: &Key, ttl: Duration) -> Self {
        let answer = {
            let (cache, key) = (cache.clone(), key.clone());
            async move { (cache.shared.store.lease(&key, ttl).await, key) }
        };
        Self { cache: cache.clone(), answer: Some(Box::pin(answer)) }
    }

    async fn answer(mut self) -> Result<Lease, StoreError> {
        let answer = match &mut self.answer {
            Some(answer) => answer.await.0,
            None => Ok(Lease::Held),
        };
        self.answer = None;
        answer
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let cache = self.cache.clone();
            spawn(async move {
                if let (Ok(Lease::Granted(Some(token))), key) = answer.await {
                    cache.give_back(&key, token);
                }
            });
        }
    }
}

/// A lease that is given back, unless it is taken on.
struct Granted<'a> {
    cache: &'a Cache,
    key: &'a Key,
    token: Option<LeaseToken>,
}

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        if let Some(token) = self.token.take() {
            self.cache.give_back(self.key, token);
        }
    }
}

impl Search<'_> {
    /// Asks the other nodes to leave it to us. While one is at it, waits for what it makes, and asks
    /// again: it may give up, or make what is of no use here.
    pub(super) async fn claim(&mut self, wanted: bool) -> Result<Option<LeaseToken>, Hit> {
        if !wanted || !self.cache.leases(self.policy) {
            return Ok(None);
        }
        let limit = self.policy.lease.min(self.policy.wait);
        // Apart, so that what is found needs no room for it.
        let leased = Box::pin(timeout(limit, self.await_lease()));
        leased.await.unwrap_or(Ok(None))
    }

    async fn await_lease(&mut self) -> Result<Option<LeaseToken>, Hit> {
        const PAUSES: [Duration; 2] = [Duration::from_millis(1), Duration::from_millis(8)];
        let mut pause = PAUSES[0];
        loop {
            match Asked::new(self.cache, self.key, self.policy.lease).answer().await {
                Ok(Lease::Granted(token)) => return self.look_again(token).await,
                Ok(Lease::Held) if pause == PAUSES[0] => {
                    self.cache.shared.counters.note(Event::LeaseHeld);
                }
                Ok(Lease::Held) => {}
                Err(error) => {
                    self.cache.noted(Err(error));
                    return Ok(None);
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSES[1]);
            let found = self.cache.shared.store.get(self.key).await;
            let failed = found.is_err();
            if let Some(hit) = self.take(found) {
                return Err(hit);
            }
            if failed {
                return Ok(None);
            }
        }
    }

    /// With a lease in hand: what its last holder made may have come after we looked.
    async fn look_again(&mut self, token: Option<LeaseToken>) -> Result<Option<LeaseToken>, Hit> {
        let Some(lease) = token else { return Ok(None) };
        let mut lease = Granted { cache: self.cache, key: self.key, token: Some(lease) };
        let found = self.cache.shared.store.get(self.key).await;
        match self.take(found) {
            Some(hit) => Err(hit),
            None => Ok(lease.token.take()),
        }
    }
}
