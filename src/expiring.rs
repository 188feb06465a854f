//! A lock with an expiry, for work that one task does on behalf of all.
//!
//! The task runs on some caller's runtime, which may stop polling it for any length of time: a `current_thread` runtime
//! between two calls of `block_on`, or one whose thread is blocked. So the lock expires, and another task takes over.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Instant, now};
use crate::sync::{Mutex, MutexExt, MutexGuard};

/// A lock that expires.
#[derive(Clone, Debug, Default)]
pub(crate) struct ExpiringLock(Arc<Mutex<ExpiringState>>);

#[derive(Debug, Default)]
struct ExpiringState {
    /// How often it was taken.
    taken: u64,
    /// When it expires, while it is held.
    until: Option<Instant>,
}

/// The lock, held. Dropping this releases it, unless it has expired and another task has taken it.
#[derive(Debug)]
pub(crate) struct ExpiringGuard {
    lock: ExpiringLock,
    number: u64,
}

impl ExpiringLock {
    /// Takes the lock for at most `limit`.
    ///
    /// # Errors
    ///
    /// If it is held: the time until it expires.
    pub(crate) fn try_lock(&self, limit: Duration) -> Result<ExpiringGuard, Duration> {
        let mut state = self.state();
        let now = now();
        if let Some(until) = state.until
            && now < until
        {
            return Err(until - now);
        }
        state.until = Some(now + limit);
        state.taken += 1;
        Ok(ExpiringGuard { lock: self.clone(), number: state.taken })
    }

    fn state(&self) -> MutexGuard<'_, ExpiringState> {
        self.0.lock_unpoisoned()
    }
}

#[cfg(any(feature = "postgres", feature = "redis"))]
impl ExpiringGuard {
    /// Holds the lock for at most `limit` from now on. `false` if another task has taken it.
    pub(crate) fn extend(&self, limit: Duration) -> bool {
        let mut state = self.lock.state();
        if state.taken == self.number {
            state.until = Some(now() + limit);
        }
        state.taken == self.number
    }
}

impl Drop for ExpiringGuard {
    fn drop(&mut self) {
        let mut state = self.lock.state();
        if state.taken == self.number {
            state.until = None;
        }
    }
}

#[cfg(all(test, any(feature = "postgres", feature = "redis")))]
mod tests {
    use tokio::time::advance;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn one_task_holds_the_lock_until_it_is_released_or_expires() {
        let lock = ExpiringLock::default();
        let held = lock.try_lock(LIMIT).unwrap();
        assert_eq!(lock.try_lock(LIMIT).unwrap_err(), LIMIT);
        drop(held);
        let held = lock.try_lock(LIMIT).unwrap();
        advance(LIMIT / 2).await;
        assert!(held.extend(LIMIT));
        advance(LIMIT / 2).await;
        assert_eq!(lock.try_lock(LIMIT).unwrap_err(), LIMIT / 2);
        advance(LIMIT / 2).await;
        assert!(lock.try_lock(LIMIT).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_holder_does_not_release_the_next_holders_lock() {
        let lock = ExpiringLock::default();
        let late = lock.try_lock(LIMIT).unwrap();
        advance(LIMIT).await;
        let held = lock.try_lock(LIMIT).unwrap();
        assert!(!late.extend(LIMIT) && held.extend(LIMIT));
        drop(late);
        assert!(lock.try_lock(LIMIT).is_err());
    }
}
