//! Locks and atomics. In tests that explore interleavings, loom or shuttle replace them: see
//! `cache/fence/interleaved.rs` and `interleaved.rs`.

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
