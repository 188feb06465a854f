//! A store whose calls a test can delay or let fail.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use tidegate::{Entry, Found, Key, Lease, Memory, Store, StoreError};

/// A call of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreCall {
    Get,
    Put,
    Remove,
    Lease,
}

type HookResult = BoxFuture<'static, Result<(), StoreError>>;

/// A store in memory that runs a hook before each call. The call fails if the hook does.
pub(crate) struct HookedStore {
    memory: Memory,
    is_shared: bool,
    hook: Box<dyn Fn(StoreCall) -> HookResult + Send + Sync>,
}

impl HookedStore {
    pub(crate) fn new(hook: impl Fn(StoreCall) -> HookResult + Send + Sync + 'static) -> Self {
        Self { memory: Memory::new(16 << 20), is_shared: false, hook: Box::new(hook) }
    }

    /// A store that other nodes share, and so one that finds nothing without waiting.
    pub(crate) fn shared(self) -> Self {
        Self { is_shared: true, ..self }
    }
}

impl fmt::Debug for HookedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("HookedStore")
    }
}

impl Store for HookedStore {
    fn peek(&self, key: &Key) -> Option<Found> {
        if self.is_shared { None } else { self.memory.peek(key) }
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Found>, StoreError>> {
        Box::pin(async {
            (self.hook)(StoreCall::Get).await?;
            self.memory.get(key).await
        })
    }

    fn put(&self, key: &Key, entry: &Arc<Entry>) -> Option<HookResult> {
        match (self.hook)(StoreCall::Put).now_or_never() {
            Some(Err(error)) => Some(Box::pin(ready(Err(error)))),
            _ => self.memory.put(key, entry),
        }
    }

    fn remove<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async {
            (self.hook)(StoreCall::Remove).await?;
            self.memory.remove(key).await
        })
    }

    fn lease<'a>(&'a self, _: &'a Key, _: Duration) -> BoxFuture<'a, Result<Lease, StoreError>> {
        Box::pin((self.hook)(StoreCall::Lease).map(|done| done.map(|()| Lease::Granted(None))))
    }

    fn is_shared(&self) -> bool {
        self.is_shared
    }
}
