//! Leases of requests that are cancelled.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use crate::cache::lookup::LookupResult;
use crate::cache::options::LookupOptions;
use crate::entry::{Entry, Key};
use crate::store::{Found, Lease, LeaseToken, Store, StoreError};
use crate::{Cache, ValuePolicy};

const HOUR: Duration = Duration::from_hours(1);

/// A store that other nodes use too. It takes a lease at once and replies when there is a permit to.
#[derive(Debug)]
struct Mock {
    holder: Mutex<Option<LeaseToken>>,
    replies: Semaphore,
}

impl Mock {
    fn new(replies: usize) -> Arc<Self> {
        Arc::new(Self { holder: Mutex::default(), replies: Semaphore::new(replies) })
    }

    fn is_held(&self) -> bool {
        self.holder.lock().unwrap().is_some()
    }

    /// Lets everything run that is ready to.
    async fn becomes_held(&self, held: bool) -> bool {
        for _ in 0..100 {
            yield_now().await;
        }
        self.is_held() == held
    }
}

impl Store for Arc<Mock> {
    fn peek(&self, _: &Key) -> Option<Found> {
        None
    }

    fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        ready(Ok(None)).boxed()
    }

    fn put(&self, _: &Key, _: &Arc<Entry>) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        None
    }

    fn remove<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        ready(Ok(())).boxed()
    }

    fn lease<'a>(&'a self, _: &'a Key, _: Duration) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin(async {
            let token = LeaseToken(1);
            let before = self.holder.lock().unwrap().replace(token);
            self.replies.acquire().await.unwrap().forget();
            Ok(before.map_or(Lease::Granted(Some(token)), |_holder| Lease::Held))
        })
    }

    fn release(&self, _: &Key, token: LeaseToken) -> BoxFuture<'static, Result<(), StoreError>> {
        let mock = self.clone();
        Box::pin(async move {
            mock.holder.lock().unwrap().take_if(|holder| *holder == token);
            Ok(())
        })
    }
}

fn policy() -> ValuePolicy {
    ValuePolicy::ttl(HOUR).lease(HOUR).wait(HOUR).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_request_cancelled_while_it_waits_for_a_permit_releases_its_lease() {
    let mock = Mock::new(1);
    let (cache, policy) = (Cache::with_limits(mock.clone(), 0, 1), policy());
    let _only = cache.try_permit(policy.settings()).unwrap();
    let request = tokio::spawn({
        let (cache, policy) = (cache.clone(), policy.clone());
        let key = Key::new("t").finish();
        async move { cache.get_or_load(&key, &policy, async || Ok::<_, ()>(1)).await }
    });
    assert!(mock.becomes_held(true).await);
    request.abort();
    assert!(mock.becomes_held(false).await);
}

#[tokio::test(start_paused = true)]
async fn a_request_cancelled_while_it_acquires_a_lease_releases_it() {
    let mock = Mock::new(0);
    let (cache, policy) = (Cache::with_limits(mock.clone(), 0, 1), policy());
    let key = Key::new("t").finish();
    let load = async || Ok::<_, ()>(1);
    assert!(cache.get_or_load(&key, &policy, load).now_or_never().is_none());
    assert!(mock.is_held());
    mock.replies.add_permits(1);
    assert!(mock.becomes_held(false).await);
}

#[tokio::test(start_paused = true)]
async fn a_renewal_cancelled_while_it_acquires_a_lease_releases_it() {
    let mock = Mock::new(0);
    let (cache, policy) = (Cache::with_limits(mock.clone(), 0, 1), policy());
    let key = Key::new("t").finish();
    let options = LookupOptions::default();
    let lookup = cache.try_lookup_many(&[&key], policy.settings(), &options).await.pop().flatten();
    let Some(LookupResult::Miss(mut guard)) = lookup else { panic!("{lookup:?}") };
    assert!(guard.claim().now_or_never().is_none());
    assert!(mock.is_held());
    mock.replies.add_permits(1);
    assert!(mock.becomes_held(false).await);
}
