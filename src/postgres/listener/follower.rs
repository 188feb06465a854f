//! The state of the task that follows the log.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::watch;

use super::housekeeping::Housekeeping;
use super::pace::HEARTBEAT;
use super::recent_fences::RecentFences;
use super::relay_state::RelayState;
use super::sync_requests::SyncRequests;
use super::wakeups::Wakeups;
use crate::cache::Fences;
use crate::clock::{self, Instant, Moment};
use crate::entry::{Epoch, Position, Tag};
use crate::postgres::database::Database;
use crate::postgres::deadline::within;
use crate::postgres::fingerprint::Fingerprint;
use crate::postgres::identity::Timeline;
use crate::postgres::link::{PollCounter, PollRequests};
use crate::postgres::log::{self, ChangeDetail, LogSnapshot};
use crate::postgres::published::{PublishedStream, StreamStart};
use crate::postgres::relay::{Relay, RelayRole};
use crate::postgres::sample::ServerPosition;

/// The minimum interval between two connections that are opened because a later timeline is known: the primary's name may
/// alternate between two servers.
const RECONNECT_EVERY: Duration = Duration::from_secs(5);

/// How long a node waits for a relay to read the stream of changes: for one that does not respond, and for one to be
/// elected.
const RELAY_WITHIN: Duration = Duration::from_secs(10);
const ELECTED_WITHIN: Duration = Duration::from_secs(1);

/// The state of the task that follows the log.
pub(super) struct Follower {
    pub(super) db: Database,
    pub(super) fences: Arc<Fences>,
    pub(super) poll_requests: Arc<PollRequests>,
    pub(super) counter: watch::Sender<PollCounter>,
    pub(super) role: watch::Sender<RelayRole>,
    pub(super) relay: Option<Relay>,
    pub(super) relaying: RelayState,
    pub(super) sync_requests: SyncRequests,
    /// The fences for the checkpoint of nodes that join this one as the relay.
    pub(super) recent: RecentFences,
    /// When this node last left a checkpoint.
    pub(super) last_checkpoint: Option<Instant>,
    /// Up to where the log was read.
    pub(super) read: Option<LogSnapshot>,
    /// The changes of tables that are read from the write-ahead log.
    pub(super) published: PublishedStream,
    /// When a stream of these is started.
    pub(super) starts_stream: StreamStart,
    /// Since when this node has waited for the relay to read it.
    pub(super) waiting_since: Option<Instant>,
    /// How much detail the next drain begins with.
    pub(super) detail: ChangeDetail,
    pub(super) schema: Option<i64>,
    pub(super) fingerprint: Fingerprint,
    /// The schema has changed since the last poll.
    pub(super) schema_changed: bool,
    /// The schema changed during the last poll, after its snapshot.
    pub(super) unsettled: bool,
    /// The time by which every node has noticed the last schema change that only the fingerprint shows.
    pub(super) settled_at: Option<Instant>,
    pub(super) wakeups: Wakeups,
    pub(super) running: RunningWriters,
    /// From this time on, a notification triggers a poll at once.
    pub(super) rested_at: Instant,
    /// NOTIFY is suppressed until the next poll.
    pub(super) notify_suppressed: bool,
    /// The server process of this connection, whose own notifications are ignored.
    pub(super) process: i32,
    /// The timeline of the server behind the last connection.
    pub(super) timeline: Option<Timeline>,
    /// When another connection was last opened because of a later timeline.
    reconnected_at: Option<Instant>,
    pub(super) housekeeping: Housekeeping,
    pub(super) next_heartbeat: Instant,
}

/// The running writers that the last poll found.
#[derive(Debug)]
pub(super) struct RunningWriters {
    /// The numbers of their transactions.
    pub(super) ids: Vec<u64>,
    /// The pause until the next poll because of them.
    pub(super) pause: Duration,
}

impl Follower {
    pub(super) fn new(db: Database, fences: Arc<Fences>) -> Self {
        Self {
            db,
            fences,
            poll_requests: Arc::default(),
            counter: watch::Sender::new(PollCounter::default()),
            role: watch::Sender::new(RelayRole::Standalone),
            relay: None,
            relaying: RelayState::default(),
            sync_requests: SyncRequests::new(),
            recent: RecentFences::default(),
            last_checkpoint: None,
            read: None,
            published: PublishedStream::default(),
            starts_stream: StreamStart::WithTheLog,
            waiting_since: None,
            detail: ChangeDetail::default(),
            schema: None,
            fingerprint: Fingerprint::default(),
            schema_changed: false,
            unsettled: false,
            settled_at: None,
            wakeups: Wakeups::new(),
            running: RunningWriters { ids: Vec::new(), pause: HEARTBEAT },
            rested_at: clock::now(),
            notify_suppressed: false,
            process: 0,
            timeline: None,
            reconnected_at: None,
            housekeeping: Housekeeping::new(),
            next_heartbeat: clock::now(),
        }
    }

    /// Publishes whether this node can poll the log, to its cache and for the election of a relay.
    pub(super) fn set_fit(&self, fit: bool) {
        self.counter.send_modify(|counter| counter.is_lost = !fit);
        if let Some(relay) = &self.relay {
            relay.set_fit(fit);
        }
    }

    pub(super) fn elected(&self) -> RelayRole {
        self.relay.as_ref().map_or(RelayRole::Standalone, Relay::elected)
    }

    /// Publishes this node's role while it polls the log itself.
    pub(super) fn take_role(&self) {
        let relays = self.elected() == RelayRole::Relay;
        self.role.send_replace(if relays { RelayRole::Relay } else { RelayRole::Standalone });
    }

    /// Whether a read or a write of this node has found a server that was promoted after the one whose log is read. This
    /// connection, or the relay's, then leads to an old primary.
    pub(super) fn knows_a_later_timeline(&mut self) -> bool {
        let (Some(read), Some(newest)) = (self.timeline, self.db.inner.primary.newest()) else {
            return false;
        };
        let is_due = read.is_before(newest)
            && self.reconnected_at.is_none_or(|at| at.elapsed() >= RECONNECT_EVERY);
        if is_due {
            self.reconnected_at = Some(clock::now());
        }
        is_due
    }

    /// Whether a session waits for the log to be read over another connection.
    pub(super) fn wants_connection(&self) -> bool {
        self.poll_requests.wants_connection(self.counter.borrow().opening)
    }

    /// Whether the changes of published tables are left to the relay for now. A stream of this node's own would take another
    /// slot on the server, and begin with an empty cache.
    pub(super) fn leaves_stream_to_relay(&mut self) -> bool {
        let limit = match self.elected() {
            RelayRole::Follower => RELAY_WITHIN,
            // There was no election yet, or the nodes can't reach each other.
            RelayRole::Standalone if self.relay.is_some() => ELECTED_WITHIN,
            _ => Duration::ZERO,
        };
        if limit.is_zero() || self.published.is_running() || !self.published.is_expected() {
            self.waiting_since = None;
            return false;
        }
        self.waiting_since.get_or_insert_with(clock::now).elapsed() < limit
    }

    /// Raises the fence of a tag.
    pub(super) fn raise(&mut self, tag: Tag, fence: Position) {
        self.fences.raise(tag, fence);
        match self.published.is_expected() && self.relay.is_some() {
            true => self.recent.raise(tag, fence),
            // No node takes them over: nodes that start read the log.
            false => self.recent.raise_floor(fence),
        }
    }

    /// Raises the fence of everything.
    pub(super) fn raise_floor(&mut self, fence: Position) {
        self.fences.raise_floor(fence);
        self.recent.raise_floor(fence);
    }

    /// Resumes NOTIFY, if this node suppresses it. If the server refuses, the next poll tries again.
    pub(super) async fn resume_notify(&mut self, conn: &mut PgListener) -> Result<(), sqlx::Error> {
        if !self.notify_suppressed {
            return Ok(());
        }
        match within(log::resume_notify(conn)).await {
            Err(error @ sqlx::Error::Database(_)) => {
                tracing::debug!(%error, "can't resume notifications yet");
                Ok(())
            }
            resumed => {
                self.notify_suppressed = false;
                resumed
            }
        }
    }

    pub(super) fn begin_poll(&self) -> u64 {
        self.counter.send_modify(|counter| counter.begun += 1);
        self.counter.borrow().begun
    }

    pub(super) fn end_poll(&self, poll: u64) {
        self.counter.send_modify(|counter| counter.done = counter.done.max(poll));
    }

    /// The last position that was seen on the primary.
    pub(super) fn seen(&self) -> Position {
        self.fences.seen().map_or(Position::ZERO, |seen| seen.position)
    }

    /// Confirms that this node knows all changes that were visible when a poll began, and all schema changes up to position
    /// `seen`. `reached` is the primary's position at the end of the poll.
    pub(super) fn confirm(&self, epoch: Epoch, seen: Position, reached: Position, began: Moment) {
        self.fences.confirm(seen, began);
        let at = ServerPosition { epoch, position: reached, standby: false, seen_at: began.at };
        self.db.inner.lag.report(at);
    }
}
