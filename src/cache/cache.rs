//! [`Cache`], the handle that users hold.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::audit::{AuditCounters, AuditReport};
use super::fence::Fences;
use super::flight::Flights;
use super::hit_for_pass::HitForPass;
use super::log::{AttachedLog, Log, LogError};
use super::past::PastEpochs;
use super::permit::Permits;
use super::protocol::Verdict;
use super::record::DatabaseId;
use crate::clock;
use crate::entry::{Epoch, Position, Tag};
use crate::expiring::ExpiringLock;
use crate::outcome::{Counters, Event};
use crate::store::{Store, StoreError, StoreStatus};

/// The default size of the fence table, in bytes: about a million slots.
const FENCE_BYTES: usize = 8 << 20;

/// Stores responses and values, and serves them while they are proven fresh, or stale if the policy allows it.
/// [`CacheLayer`](crate::CacheLayer) uses it for HTTP; `get_or_load` and the like use it for typed values.
///
/// Clones share all but the [`version`](Self::version). Without a `Listener`, the cache does not notice changes in the
/// database: only [`invalidate`](Self::invalidate) makes entries invalid before their TTL, and only on this node.
/// Entries that other processes stored are then never valid here.
///
/// ```
/// use std::time::Duration;
/// use tidegate::{Cache, Key, Memory, ValuePolicy};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// let cache = Cache::new(Memory::new(64 << 20));
/// let policy = ValuePolicy::ttl(Duration::from_secs(60)).tag("prices").build().unwrap();
/// let key = Key::new("price").part("tea").finish();
///
/// let price = cache.get_or_load(&key, &policy, async || Ok::<_, ()>(350)).await;
/// assert_eq!(price, Ok(350));
/// let again = cache.get_or_load(&key, &policy, async || Ok::<_, ()>(999)).await;
/// assert_eq!(again, Ok(350), "from the cache");
///
/// cache.invalidate(["prices"]).await.unwrap();
/// let fresh = cache.get_or_load(&key, &policy, async || Ok::<_, ()>(375)).await;
/// assert_eq!(fresh, Ok(375));
/// # }
/// ```
#[derive(Clone)]
pub struct Cache {
    pub(crate) shared: Arc<CacheInner>,
    /// Part of every key, if there is one.
    pub(super) version: Option<Arc<str>>,
}

pub(crate) struct CacheInner {
    pub(crate) store: Box<dyn Store>,
    pub(crate) fences: Arc<Fences>,
    pub(crate) flights: Flights,
    pub(crate) permits: Permits,
    pub(crate) counters: Counters,
    pub(crate) audits: AuditCounters,
    pub(crate) hit_for_pass: HitForPass,
    pub(super) past: PastEpochs,
    /// The lock of the task that drains the log to prove that an old session position's epoch is over.
    pub(super) proving: ExpiringLock,
    log: AttachedLog,
    off: AtomicBool,
}

impl Cache {
    /// Creates a cache that stores its entries in `store`. Its fence table, which holds the last changes that the
    /// cache knows of, takes 8 MiB. To *fill* an entry is to compute a response or value and store it. At most 512
    /// fills run at a time. With a `Listener`, the limit is four times the number of connections that its `Database`
    /// may open to the primary, if that is less than 512. Connections to replicas do not count: after a write, all
    /// fills read from the primary until a replica has replayed it. If your replicas rarely lag, you can allow more
    /// fills with [`with_limits`](Self::with_limits).
    pub fn new(store: impl Store) -> Self {
        Self::with_bounds(store, FENCE_BYTES, None)
    }

    /// Creates a cache whose fence table takes `fence_bytes` bytes, and in which at most `loads` fills run at a time.
    /// This limit bounds the load that a cold start puts on the database. Each fill needs a permit. By default, the
    /// fills of one route, or of one [`ValuePolicy`](crate::ValuePolicy), use at most three quarters of the permits;
    /// see [`Policy::fills`](crate::Policy::fills).
    ///
    /// A fill waits for a permit as long as other fills complete. If none completes within the policy's
    /// [`wait`](crate::Policy::wait), waiting fills proceed without a permit, but no more of them in each period of
    /// `wait` than there are permits. After ten times `wait`, a fill proceeds in any case. A fill that has held a permit
    /// for `wait`, and for at least 1 s, loses it if another fill is waiting for one. Fills that proceed without a permit
    /// and fills that lose theirs are counted ([`Event::NoPermit`]).
    pub fn with_limits(store: impl Store, fence_bytes: usize, loads: usize) -> Self {
        Self::with_bounds(store, fence_bytes, Some(loads))
    }

    fn with_bounds(store: impl Store, fence_bytes: usize, loads: Option<usize>) -> Self {
        let fences = Arc::new(Fences::new(fence_bytes));
        // The epoch of this process, until a log is attached. Each process draws its own, so none trusts another's entries.
        fences.begin(Epoch::new(fastrand::u64(1..)), Position::new(1), []);
        let of_store = fences.clone();
        store.evict_first(Arc::new(move |entry| of_store.judge(entry) == Verdict::Fenced));
        let shared = CacheInner {
            store: Box::new(store),
            fences,
            flights: Flights::new(),
            permits: Permits::new(loads),
            counters: Counters::default(),
            audits: AuditCounters::default(),
            hit_for_pass: HitForPass::new(),
            past: PastEpochs::default(),
            proving: ExpiringLock::default(),
            log: AttachedLog::default(),
            off: AtomicBool::new(false),
        };
        shared.fences.confirm(Position::new(2), clock::moment());
        Self { shared: Arc::new(shared), version: None }
    }

    /// Invalidates every entry that has one of these tags. A table's name covers all of its rows.
    ///
    /// Without a `Listener`, this invalidates the entries on this node, and on no other. With one, it writes the
    /// invalidation to the change log, and each node invalidates its entries when it reads the log. Before returning,
    /// it waits up to 3 s for this node to read the log that far. If the node can't, the call succeeds nevertheless,
    /// and the entries become invalid here as soon as the node can read the log again.
    ///
    /// # Errors
    ///
    /// If the invalidation can't be written to the database, for example because the primary can't be reached.
    pub async fn invalidate<I>(&self, tags: I) -> Result<(), LogError>
    where
        I: IntoIterator<Item: Into<String>>,
    {
        let tags: Vec<String> = tags.into_iter().map(Into::into).collect();
        if let Some(log) = self.log() {
            return log.invalidate(tags).await;
        }
        let fences = &self.shared.fences;
        let fence = fences.advance();
        for tag in &tags {
            fences.raise(Tag::named(tag), fence);
            fences.raise(Tag::bulk(tag), fence);
        }
        Ok(())
    }

    /// Switches the cache of this node off (`true`) or on again (`false`). While it is off, every request goes to its
    /// handler. Stored entries remain, and invalidation continues, so you can switch the cache on again at any time.
    pub fn set_off(&self, off: bool) {
        self.shared.off.store(off, Ordering::Release);
    }

    /// Whether the cache is switched off.
    pub fn is_off(&self) -> bool {
        self.shared.off.load(Ordering::Acquire)
    }

    /// Counts of outcomes and events since the cache was created, for this node.
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// The state of the store: memory use, connection, circuit breaker, dropped writes.
    pub fn store_status(&self) -> StoreStatus {
        self.shared.store.status()
    }

    /// The number of fills that are running: at most the limit set by [`with_limits`](Self::with_limits), plus those
    /// that proceeded without a permit or lost theirs.
    pub fn loads(&self) -> usize {
        self.shared.permits.running()
    }

    /// The results of audits so far, by route: how many cached responses were compared with fresh ones, and how many
    /// differed. See [`Policy::audit`](crate::Policy::audit) and [`Policy::shadow`](crate::Policy::shadow).
    pub fn audits(&self) -> BTreeMap<String, AuditReport> {
        self.shared.audits.all()
    }

    /// The fence table: which changes this node knows of, and how recent its knowledge is.
    pub fn fences(&self) -> &Arc<Fences> {
        &self.shared.fences
    }

    pub(crate) fn log(&self) -> Option<&Arc<dyn Log>> {
        self.shared.log.log()
    }

    /// The database whose log is attached.
    pub(super) fn database(&self) -> DatabaseId {
        self.log().map(|log| log.database()).unwrap_or_default()
    }

    /// Counts and logs a failure of the store; no request fails because of it.
    pub(crate) fn noted(&self, done: Result<(), StoreError>) {
        if let Err(error) = done {
            self.shared.counters.note(Event::StoreError);
            tracing::debug!(%error, "the shared store failed");
        }
    }
}

#[cfg(feature = "postgres")]
impl Cache {
    /// Attaches the source of changes. No entry is valid until that source begins an epoch. As long as it follows its
    /// log, a second source is rejected.
    pub(crate) fn attach(&self, log: Arc<dyn Log>) -> Result<(), Arc<dyn Log>> {
        let connections = log.connections();
        self.shared.log.attach(log)?;
        if let Some(connections) = connections {
            self.shared.permits.suit(connections);
        }
        self.shared.fences.end_epoch();
        Ok(())
    }

    /// The message bus between the nodes that share the store.
    pub(crate) fn bus(&self) -> Option<Arc<dyn crate::store::Bus>> {
        self.shared.store.bus()
    }

    /// How many logs have been attached.
    #[cfg(test)]
    pub(crate) fn attached_logs(&self) -> usize {
        self.shared.log.count()
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("store", &self.shared.store)
            .field("epoch", &self.shared.fences.epoch())
            .field("log", &self.log().is_some())
            .finish_non_exhaustive()
    }
}
