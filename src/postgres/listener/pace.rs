//! How often the log is polled.

use std::time::Duration;

/// The maximum time between two polls of the log: the δ of the guarantee on a healthy node.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// The first pause between polls while a transaction is running whose notification may be suppressed because another one's
/// is being sent. It doubles up to the heartbeat.
pub(super) const BUSY: Duration = Duration::from_millis(10);

/// After a poll, a notification can trigger the next one only after this many times the poll's duration, but at most after
/// [`BUSY`] or the poll's duration, whichever is longer. So polling uses at most a fifth of a core of the primary, or half
/// of one if polls are slow.
pub(super) const REST: u32 = 4;

/// The pause between polls if commits can't wake the listener.
pub(super) const UNRELIABLE: Duration = Duration::from_millis(100);
