//! Atomics, which loom takes the place of where it explores how threads interleave: see
//! `cache/fence/interleaved.rs`.

#[cfg(tidegate_loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(tidegate_loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
