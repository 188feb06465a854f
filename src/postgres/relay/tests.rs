//! Leadership of a node that stops.

use std::sync::atomic::AtomicUsize;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use futures_util::stream::{iter, pending};
use tokio::task::yield_now;

use super::*;

/// A bus on which this node becomes the leader, if `elects`, and otherwise learns nothing of it.
#[derive(Debug, Default)]
pub(crate) struct Mock {
    pub(crate) elects: bool,
    /// Subscribing fails.
    pub(crate) deaf: bool,
    /// Messages that other nodes have published before.
    pub(crate) backlog: Vec<Bytes>,
    pub(crate) held: AtomicUsize,
    pub(crate) released: AtomicUsize,
    pub(crate) published: AtomicUsize,
}

impl Bus for Mock {
    fn publish<'a>(&'a self, _: &'a str, _: &'a [u8]) -> BoxFuture<'a, Result<(), StoreError>> {
        self.published.fetch_add(1, Ordering::SeqCst);
        ready(Ok(())).boxed()
    }

    fn subscribe<'a>(
        &'a self,
        _: &'a str,
    ) -> BoxFuture<'a, Result<BoxStream<'static, Bytes>, StoreError>> {
        match self.deaf {
            true => ready(Err(StoreError::Open)).boxed(),
            false => ready(Ok(iter(self.backlog.clone()).chain(pending()).boxed())).boxed(),
        }
    }

    fn acquire_leadership<'a>(
        &'a self,
        _: &'a str,
        _: u64,
        _: Duration,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.held.fetch_add(1, Ordering::SeqCst);
        if self.elects { ready(Ok(true)).boxed() } else { std::future::pending().boxed() }
    }

    fn release_leadership<'a>(
        &'a self,
        _: &'a str,
        _: u64,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.released.fetch_add(1, Ordering::SeqCst);
        ready(Ok(())).boxed()
    }
}

async fn releases(elects: bool) -> usize {
    let bus = Arc::new(Mock { elects, ..Mock::default() });
    let relay = Relay::start(bus.clone(), "test");
    while bus.held.load(Ordering::SeqCst) == 0 {
        yield_now().await;
    }
    drop(relay);
    for _ in 0..100 {
        yield_now().await;
    }
    bus.released.load(Ordering::SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_releases_its_lease() {
    assert_eq!(releases(true).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_can_not_subscribe_leaves_the_lease_to_others() {
    let bus = Arc::new(Mock { elects: true, deaf: true, ..Mock::default() });
    let _relay = Relay::start(bus.clone(), "test");
    sleep(10 * LEADERSHIP).await;
    let held = bus.held.load(Ordering::SeqCst);
    assert!((1..=6).contains(&held), "{held} times in twenty seconds");
    assert_eq!(bus.released.load(Ordering::SeqCst), held);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_while_it_acquires_the_lease_releases_it() {
    assert_eq!(releases(false).await, 1);
}
