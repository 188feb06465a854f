//! Follows the log up to the last write of the session or of the current scope.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use crate::cache::Cache;
use crate::cache::background::spawn;
use crate::cache::options::LookupOptions;
use crate::cache::policy::Policy;
use crate::cache::protocol::has_followed;
use crate::cache::record::{Arrival, Needs, Record, Requirement};
use crate::entry::LogPosition;

/// The timeout of the background drain for positions that look old. No request waits for this drain.
const DRAIN_LIMIT: Duration = Duration::from_secs(10);

/// The longest that a lookup waits to learn of its session's writes, whatever its policy's `max_staleness`. Normally this
/// takes milliseconds; if the log can't be read, the request reads the primary instead.
pub(super) const FOLLOW_WITHIN: Duration = Duration::from_secs(5);

/// The position that an entry must include, if there is one.
type Needed = Option<LogPosition>;

impl Cache {
    /// The own writes that a lookup must see in addition to its session's, as far as their position is known.
    pub(super) fn own_writes_seen(&self, options: &LookupOptions) -> Needs {
        match Record::required(self.database()) {
            Some(needs) => needs,
            None if options.is_request => Needs::Position(None),
            None => {
                let own = self.log().and_then(|log| log.own_writes());
                own.map_or(Needs::Position(None), |own| {
                    own.begin_epoch(self.database(), self.shared.fences.epoch());
                    own.for_lookups(self.database())
                })
            }
        }
    }

    /// The position of the own writes that a lookup must see in addition to its session's: those of the current scope, or
    /// outside any scope those of the process. `None` if no position could be observed within `limit`.
    pub(super) async fn own_writes(
        &self,
        options: &LookupOptions,
        limit: Duration,
    ) -> Option<Needed> {
        if let Needs::Position(known) = self.own_writes_seen(options) {
            return Some(known);
        }
        let (Some(log), Some(own)) = (self.log(), self.requirement()) else { return Some(None) };
        let observed = own.observe(log.database(), options.arrival, log.position());
        // Boxed, so that the future of a lookup that need not observe does not include its size.
        Box::pin(timeout(limit, observed)).await.ok()?.ok()
    }

    /// Marks the beginning of a call that makes several lookups, so that they can share one observed position; `None` if
    /// they need none.
    pub(crate) fn arrival(&self, options: &LookupOptions) -> Option<Arrival> {
        match self.own_writes_seen(options) {
            Needs::Position(_) => None,
            Needs::Primary => Some(self.requirement()?.arrive(self.database())),
        }
    }

    /// The requirement of the current scope, or outside any scope that of the process.
    fn requirement(&self) -> Option<Arc<Requirement>> {
        let of_scope = Record::current().and_then(|record| record.requirement().cloned());
        of_scope.or_else(|| self.log()?.own_writes().cloned())
    }

    /// Whether this node's last drain of the log is within the policy's `max_staleness`.
    pub(in crate::cache) fn is_confirmed(&self, policy: &Policy) -> bool {
        self.log().is_none()
            || self.shared.fences.age().is_some_and(|age| age <= policy.max_staleness)
    }

    /// Whether the fences include all of the session's writes.
    pub(super) fn has_followed(&self, session: Option<LogPosition>) -> bool {
        session.is_none_or(|session| {
            let fences = &self.shared.fences;
            has_followed(fences.followed(), session)
                || self.shared.past.contains(session.epoch, fences.epoch())
        })
    }

    /// Whether a session position that looks old by this node's clock need not be followed. The clocks of two nodes may
    /// differ by any amount, so its age alone proves nothing: a drain must have shown that its epoch is over. Until then
    /// the position counts, and one drain at a time is started for all such positions.
    pub(crate) fn is_obsolete(&self, old: LogPosition) -> bool {
        let current = self.shared.fences.epoch();
        if old.epoch == current || self.log().is_none() {
            return false;
        }
        let is_over = self.shared.past.contains_old(old.epoch, current);
        if !is_over && let Ok(lock) = self.shared.proving.try_lock(DRAIN_LIMIT) {
            let cache = self.clone();
            spawn(async move {
                cache.follow(Some(old), DRAIN_LIMIT).await;
                drop(lock);
            });
        }
        is_over
    }

    pub(super) async fn follow(&self, session: Option<LogPosition>, limit: Duration) -> bool {
        let (Some(needed), Some(log)) = (session, self.log()) else { return true };
        if self.has_followed(session) {
            return true;
        }
        // A position in another epoch is of a past primary, or of one that this node, or the relay that it follows, does not
        // know yet. An old primary may still respond on the connections that it has, so only a new one can tell.
        let caught_up = match needed.epoch == self.shared.fences.epoch() {
            true => log.catch_up(needed.position),
            false => log.catch_up_anew(),
        };
        // Boxed, so that the future of a lookup that need not wait does not include its size.
        let followed = matches!(Box::pin(timeout(limit, caught_up)).await, Ok(Ok(())));
        if followed {
            // After this, any epoch other than the current one is over.
            self.shared.past.note(needed.epoch, self.shared.fences.epoch());
        }
        followed
    }
}

#[cfg(all(test, feature = "memory", feature = "postgres"))]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::future::BoxFuture;
    use tokio::task::yield_now;
    use tokio::time::advance;

    use super::super::task::LookupTask;
    use super::*;
    use crate::cache::log::{Log, LogError};
    use crate::entry::{Epoch, Key, Position, Tag};
    use crate::outcome::BypassReason;
    use crate::store::Memory;

    /// A log that can't be read; it counts how often a caller waits for a drain, over whichever connection.
    #[derive(Debug, Default)]
    struct Lost(AtomicUsize);

    impl Log for Lost {
        fn position(&self) -> BoxFuture<'_, Result<LogPosition, LogError>> {
            Box::pin(pending())
        }

        fn catch_up(&self, _position: Position) -> BoxFuture<'_, Result<(), LogError>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(pending())
        }

        fn catch_up_anew(&self) -> BoxFuture<'_, Result<(), LogError>> {
            self.catch_up(Position::ZERO)
        }

        fn invalidate(&self, _tags: Vec<String>) -> BoxFuture<'_, Result<(), LogError>> {
            Box::pin(pending())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn old_session_tokens_cause_one_poll_of_the_log_per_interval() {
        let (cache, log) = (Cache::new(Memory::new(1 << 20)), Arc::new(Lost::default()));
        cache.attach(log.clone()).unwrap();
        for looks in 1..3 {
            for position in 0..100 {
                let old = LogPosition::new(Epoch::new(1), Position::new(position));
                assert!(!cache.is_obsolete(old));
                yield_now().await;
            }
            assert_eq!(log.0.load(Ordering::SeqCst), looks);
            advance(DRAIN_LIMIT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_waits_for_the_log_no_longer_under_a_large_max_staleness() {
        let cache = Cache::new(Memory::new(1 << 20));
        cache.attach(Arc::new(Lost::default())).unwrap();
        let (epoch, at) = (Epoch::new(1), Position::new);
        cache.shared.fences.begin(epoch, at(5), []);
        let policy = Policy::ttl(DRAIN_LIMIT).max_staleness(Duration::from_hours(1)).into();
        let key = Key::new("k").finish();
        let session = LookupOptions::for_request(Some(LogPosition::new(epoch, at(9))));
        let began = tokio::time::Instant::now();
        let proven = LookupTask::new(&cache, &key, &policy, &session).can_prove().await;
        assert_eq!((proven, began.elapsed()), (Err(BypassReason::Session), FOLLOW_WITHIN));
    }

    /// A drain that finds the schema changed behind it raises fences, and does not count what it has seen.
    #[tokio::test]
    async fn the_position_known_when_a_request_arrives_is_at_least_every_fence() {
        let cache = Cache::new(Memory::new(1 << 20));
        let fences = &cache.shared.fences;
        let (epoch, at) = (Epoch::new(1), Position::new);
        fences.begin(epoch, at(5), []);
        fences.see(at(10));
        let policy = Policy::ttl(DRAIN_LIMIT).into();
        let key = Key::new("k").finish();
        let since = async || {
            let options = LookupOptions::default();
            let mut task = LookupTask::new(&cache, &key, &policy, &options);
            task.can_prove().await.unwrap();
            task.since
        };
        assert_eq!(since().await, Some(LogPosition::new(epoch, at(10))));
        fences.raise(Tag::named("t"), at(20));
        assert_eq!(since().await, Some(LogPosition::new(epoch, at(20))));
    }
}
