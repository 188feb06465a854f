//! Which entries a full store in memory evicts.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tidegate::{Cache, Entry, Found, Key, Memory, Store, StoreError, Tiered, ValuePolicy};

/// A shared store that stores nothing.
#[derive(Debug)]
struct Empty;

impl Store for Empty {
    fn peek(&self, _: &Key) -> Option<Found> {
        None
    }

    fn get<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        async { Ok(None) }.boxed()
    }

    fn put(&self, _: &Key, _: &Arc<Entry>) -> Option<BoxFuture<'static, Result<(), StoreError>>> {
        None
    }

    fn remove<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        async { Ok(()) }.boxed()
    }
}

/// Values of 1 KiB, and how often one was loaded.
struct Values {
    cache: Cache,
    loads: AtomicU32,
}

impl Values {
    async fn get(&self, tag: &str, number: u32) {
        let key = Key::new(tag).part(number.to_be_bytes()).finish();
        let policy = ValuePolicy::ttl(Duration::from_hours(1)).tag(tag).build().unwrap();
        let load = async || {
            self.loads.fetch_add(1, Ordering::Relaxed);
            Ok::<_, Infallible>(vec![1_u8; 1024])
        };
        self.cache.get_or_load(&key, &policy, load).await.unwrap();
    }

    fn bytes(&self) -> u64 {
        self.cache.store_status().memory.unwrap().bytes
    }
}

fn over(cache: Cache) -> Values {
    Values { cache, loads: AtomicU32::new(0) }
}

#[tokio::test]
async fn outdated_values_are_evicted_before_valid_ones() {
    let one = over(Cache::new(Memory::new(1 << 20)));
    one.get("valid", 0).await;
    let room = one.bytes() * 420;
    let caches = [Cache::new(Memory::new(room)), Cache::new(Tiered::new(Memory::new(room), Empty))];
    for values in caches.map(over) {
        for number in 0..200 {
            values.get("valid", number).await;
            values.get("outdated", number).await;
        }
        values.cache.invalidate(["outdated"]).await.unwrap();
        for number in 0..150 {
            values.get("later", number).await;
        }
        assert_eq!(values.loads.swap(0, Ordering::Relaxed), 550);
        for number in 0..200 {
            values.get("valid", number).await;
        }
        let evicted = values.loads.load(Ordering::Relaxed);
        assert!(evicted < 30, "{evicted} of 200 valid ones were evicted");
    }
}
