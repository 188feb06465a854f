//! Locks and atomics. In tests that explore interleavings, loom or shuttle replace them: see
//! `cache/fence/interleaved.rs` and `interleaved.rs`.
//!
//! A lock is taken by [`MutexExt`] or [`RwLockExt`], whether or not a thread has panicked while it held the lock: whatever
//! a lock guards here is consistent after each statement, and one panicking request must not make all others panic.

#[cfg(all(test, tidegate_loom))]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(all(test, tidegate_shuttle))]
pub(crate) use shuttle::sync::{
    Mutex, MutexGuard,
    atomic::{AtomicU64, Ordering},
};
#[cfg(not(all(test, any(tidegate_loom, tidegate_shuttle))))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(all(test, tidegate_shuttle)))]
pub(crate) use std::sync::{Mutex, MutexGuard};

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(feature = "memory")]
use std::sync::{TryLockError, TryLockResult};

/// Takes a mutex.
pub(crate) trait MutexExt<T> {
    type Guard<'a>
    where
        Self: 'a;

    fn lock_unpoisoned(&self) -> Self::Guard<'_>;
}

impl<T> MutexExt<T> for std::sync::Mutex<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        Self: 'a;

    #[inline]
    fn lock_unpoisoned(&self) -> Self::Guard<'_> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, tidegate_shuttle))]
impl<T> MutexExt<T> for shuttle::sync::Mutex<T> {
    type Guard<'a>
        = shuttle::sync::MutexGuard<'a, T>
    where
        Self: 'a;

    fn lock_unpoisoned(&self) -> Self::Guard<'_> {
        self.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a lock that many may read.
pub(crate) trait RwLockExt<T> {
    fn read_unpoisoned(&self) -> RwLockReadGuard<'_, T>;
    fn write_unpoisoned(&self) -> RwLockWriteGuard<'_, T>;
}

impl<T> RwLockExt<T> for RwLock<T> {
    #[inline]
    fn read_unpoisoned(&self) -> RwLockReadGuard<'_, T> {
        self.read().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn write_unpoisoned(&self) -> RwLockWriteGuard<'_, T> {
        self.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a lock if no other thread has it.
#[cfg(feature = "memory")]
pub(crate) trait TryLock {
    type Guard<'a>
    where
        Self: 'a;

    fn try_lock_unpoisoned(&self) -> Option<Self::Guard<'_>>;
}

#[cfg(feature = "memory")]
impl<T> TryLock for std::sync::Mutex<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        Self: 'a;

    #[inline]
    fn try_lock_unpoisoned(&self) -> Option<Self::Guard<'_>> {
        unless_taken(self.try_lock())
    }
}

/// The lock for writing.
#[cfg(feature = "memory")]
impl<T> TryLock for RwLock<T> {
    type Guard<'a>
        = RwLockWriteGuard<'a, T>
    where
        Self: 'a;

    #[inline]
    fn try_lock_unpoisoned(&self) -> Option<Self::Guard<'_>> {
        unless_taken(self.try_write())
    }
}

#[cfg(feature = "memory")]
fn unless_taken<G>(tried: TryLockResult<G>) -> Option<G> {
    match tried {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}
