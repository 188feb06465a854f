//! The only place that reads a clock.
//!
//! Validity never depends on time: it is decided by positions in the database's log. Time decides
//! only when an entry is old enough to be refreshed and how long the node has not heard from the
//! primary. For both a monotonic clock is right, but that it may stand still while a virtual machine
//! sleeps; how long the node has not heard from the primary is told by the clock that went further. Else
//! the wall clock tells another node how old a shared entry was when it was written.

#[cfg(feature = "__internals")]
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

pub(crate) use tokio::time::Instant;

/// Now, on the monotonic clock. Tests pause it with `tokio::time::pause`.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A moment, by both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// Milliseconds since 1970 on this node's wall clock.
    pub(crate) wall: u64,
}

impl Moment {
    /// How long ago that was, by the clock that went further.
    pub(crate) fn elapsed(&self) -> Duration {
        let wall = Duration::from_millis(unix_millis().saturating_sub(self.wall));
        self.at.elapsed().max(wall)
    }
}

/// Now, by both clocks.
pub(crate) fn moment() -> Moment {
    Moment { at: now(), wall: unix_millis() }
}

/// Now, on this node's wall clock, for what is said to other machines in dates.
pub(crate) fn wall() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(unix_millis())
}

/// Milliseconds since 1970 on this node's wall clock; 0 for a clock set before that.
#[allow(clippy::disallowed_methods, reason = "this is the one reader of the wall clock")]
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| stepped(millis(since)))
}

/// How far the wall clock was put forward, in milliseconds.
#[cfg(feature = "__internals")]
static FORWARD: AtomicI64 = AtomicI64::new(0);

/// Puts the wall clock of this process forward by so many milliseconds from what it is in truth, or back.
#[cfg(feature = "__internals")]
pub(crate) fn put_forward(millis: i64) {
    FORWARD.store(millis, Ordering::Relaxed);
}

#[cfg(feature = "__internals")]
fn stepped(millis: u64) -> u64 {
    millis.saturating_add_signed(FORWARD.load(Ordering::Relaxed))
}

#[cfg(not(feature = "__internals"))]
const fn stepped(millis: u64) -> u64 {
    millis
}

/// Whole milliseconds of a duration, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
