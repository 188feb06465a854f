//! The only place that reads a clock.
//!
//! Validity never depends on time: positions in the database's log decide it. Time decides only when an entry is old
//! enough to be recomputed, and how long ago the node's last drain of the log was. The monotonic clock suits both, except
//! that it may stop while a virtual machine is suspended; so the time since the last drain is measured by whichever clock
//! has advanced more. Apart from that, the wall clock is used to tell other nodes when a shared entry was written.

#[cfg(feature = "__internals")]
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

pub(crate) use tokio::time::Instant;

/// Now, on the monotonic clock. Tests pause it with `tokio::time::pause`.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// A moment on both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: Instant,
    /// Milliseconds since 1970 on this node's wall clock.
    pub(crate) wall: u64,
}

#[cfg(feature = "postgres")]
impl Moment {
    /// The time since then, by whichever clock has advanced more.
    pub(crate) fn elapsed(&self) -> Duration {
        let wall = Duration::from_millis(unix_millis().saturating_sub(self.wall));
        self.at.elapsed().max(wall)
    }
}

/// Now, on both clocks.
pub(crate) fn moment() -> Moment {
    Moment { at: now(), wall: unix_millis() }
}

/// Now, on this node's wall clock, for dates that are sent to other machines.
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

/// How far the wall clock was shifted, in milliseconds.
#[cfg(feature = "__internals")]
static FORWARD: AtomicI64 = AtomicI64::new(0);

/// Shifts the wall clock of this process from the real time: forward, or back if `millis` is negative.
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
