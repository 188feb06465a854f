//! The lag up to which a replica may serve reads without other requirements.
//!
//! Lag is measured by positions, not by the time of the last replayed commit, by which every replica of an idle primary
//! would seem late. A replica is late if it has not replayed what the primary's WAL contained `max_lag` ago.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use super::identity::{ServerIdentity, Timeline};
use super::sample::ServerPosition;
use crate::clock::{self, Instant};
use crate::entry::{LogPosition, Position};
use crate::sync::MutexExt;

/// Recent WAL positions of the primary.
#[derive(Debug)]
pub(crate) struct Lag {
    most: Duration,
    samples: Mutex<VecDeque<ServerPosition>>,
    /// When the listener last reported the primary's position.
    reported: Mutex<Option<Instant>>,
    /// The timeline of the server that reported the last position, and when this was queried.
    timeline: Mutex<Option<(Timeline, Instant)>>,
    /// The primary did not respond to the last query.
    down: AtomicBool,
    /// A connection to the primary failed since the last query: another node, or a connection of before, may still report
    /// its position.
    suspect: AtomicBool,
}

/// How far a replica is behind the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaLag {
    /// The bytes of WAL that it has not replayed yet.
    pub bytes: u64,
    /// The time since the primary passed the replica's position. This is a lower bound, since positions of the primary
    /// are remembered only for `DatabaseOptions::max_lag`.
    pub time: Duration,
}

impl Lag {
    pub(crate) fn new(most: Duration) -> Self {
        Self {
            most,
            samples: Mutex::default(),
            reported: Mutex::default(),
            timeline: Mutex::default(),
            down: AtomicBool::new(false),
            suspect: AtomicBool::new(false),
        }
    }

    /// How often the primary's position is queried if no listener reports it.
    pub(crate) fn sample_every(&self) -> Duration {
        (self.most / 10).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }

    /// Records the primary's position, reported by the listener, which knows it anyway, perhaps from another node.
    pub(crate) fn report(&self, at: ServerPosition) {
        *lock(&self.reported) = Some(clock::now());
        self.record(at);
    }

    /// Records which server reports, or responds, from now on.
    pub(crate) fn note_timeline(&self, identity: &ServerIdentity) {
        *lock(&self.timeline) = identity.timeline().map(|timeline| (timeline, identity.queried));
    }

    /// Whether a server was promoted after the one that reported the last position, and was seen later, too. A name may lead
    /// back from a server that was promoted by mistake.
    pub(crate) fn is_older_than(&self, server: Timeline, seen: Instant) -> bool {
        let reporting = *lock(&self.timeline);
        reporting.is_some_and(|(reporting, queried)| reporting.is_before(server) && queried < seen)
    }

    /// Whether the primary need not be queried: its position is reported often enough, and nothing suggests that this node
    /// can't reach it.
    pub(crate) fn is_reported(&self) -> bool {
        let enough = self.sample_every() * 2;
        let may_be_down = self.is_down() || self.suspect.load(Ordering::Relaxed);
        !may_be_down && lock(&self.reported).is_some_and(|at| at.elapsed() < enough)
    }

    /// Records that a connection to the primary failed. Only a query shows whether the primary responds.
    pub(crate) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
    }

    /// Records that the primary did not respond.
    pub(crate) fn mark_down(&self) {
        self.down.store(true, Ordering::Relaxed);
    }

    /// Whether the primary did not respond to the last query, about a second ago.
    pub(crate) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// Records that the primary has responded to this node.
    pub(crate) fn responds(&self) {
        // Loaded first: every read on the primary comes here.
        for flag in [&self.down, &self.suspect] {
            if flag.load(Ordering::Relaxed) {
                flag.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Records the primary's response to a query.
    pub(crate) fn observe(&self, at: ServerPosition) {
        self.responds();
        self.record(at);
    }

    fn record(&self, at: ServerPosition) {
        let mut samples = lock(&self.samples);
        if samples.back().is_some_and(|known| known.epoch != at.epoch) {
            samples.clear();
        }
        // However often the position is reported, about a hundred samples are enough.
        let least = self.most / 100;
        if samples.back().is_none_or(|known| at.seen_at >= known.seen_at + least) {
            samples.push_back(at);
        }
        // The newest of those that are old enough is the one that counts.
        while samples.get(1).is_some_and(|next| next.seen_at.elapsed() >= self.most) {
            samples.pop_front();
        }
    }

    /// The position that a replica must have reached, in the primary's epoch: zero until the positions go back far enough.
    /// `None` if no position of the primary is known.
    pub(crate) fn needs(&self) -> Option<LogPosition> {
        let now = clock::now();
        let samples = lock(&self.samples);
        let old = |at: &&ServerPosition| now.saturating_duration_since(at.seen_at) >= self.most;
        let needed = samples.iter().take_while(old).last().map(ServerPosition::reached);
        needed.or_else(|| samples.back().map(|at| LogPosition::new(at.epoch, Position::ZERO)))
    }

    /// The last known position of the primary.
    pub(crate) fn newest(&self) -> Option<ServerPosition> {
        lock(&self.samples).back().copied()
    }

    /// How far a replica is behind the primary, if both are of one history.
    pub(crate) fn behind(&self, replica: &ServerPosition) -> Option<ReplicaLag> {
        let samples = lock(&self.samples);
        let newest = samples.back().filter(|at| at.epoch == replica.epoch)?;
        let bytes = newest.position.get().saturating_sub(replica.position.get());
        let ahead = samples.iter().find(|at| at.position > replica.position);
        let time = ahead.map_or(Duration::ZERO, |at| at.seen_at.elapsed());
        Some(ReplicaLag { bytes, time })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock_unpoisoned()
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::entry::Epoch;

    fn at(epoch: u64, position: u64) -> ServerPosition {
        let (epoch, position) = (Epoch::new(epoch), Position::new(position));
        ServerPosition { epoch, position, standby: false, seen_at: clock::now() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_must_contain_the_primarys_position_of_max_lag_ago() {
        let lag = Lag::new(Duration::from_secs(10));
        assert_eq!(lag.needs(), None);
        for position in 0..30 {
            lag.observe(at(1, position));
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(lag.needs(), Some(at(1, 20).reached()));
        assert!(lock(&lag.samples).len() <= 12, "what is too old to count is dropped");
        advance(Duration::from_secs(60)).await;
        let last = Some(at(1, 29).reached());
        assert_eq!(lag.needs(), last, "the last position of a primary that is down remains");
    }

    #[tokio::test(start_paused = true)]
    async fn the_number_of_samples_stays_small_however_often_positions_are_reported() {
        let lag = Lag::new(Duration::from_secs(10));
        assert!(!lag.is_reported());
        for position in 0..30_000 {
            lag.report(at(1, position));
            advance(Duration::from_millis(1)).await;
        }
        assert!(lock(&lag.samples).len() <= 102);
        let needs = lag.needs().unwrap().position;
        assert!((19_900..=20_000).contains(&needs.get()), "{needs}");
        assert!(lag.is_reported());
        lag.observe(at(1, 40_000));
        advance(Duration::from_secs(2)).await;
        assert!(!lag.is_reported(), "what the monitor finds itself does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn a_position_from_another_node_does_not_show_that_this_node_reaches_the_primary() {
        let lag = Lag::new(Duration::from_secs(10));
        lag.report(at(1, 1));
        lag.suspect();
        lag.report(at(1, 2));
        assert!(!lag.is_reported() && !lag.is_down(), "the monitor finds out");
        lag.mark_down();
        lag.report(at(1, 3));
        assert!(!lag.is_reported() && lag.is_down());
        lag.observe(at(1, 4));
        assert!(lag.is_reported() && !lag.is_down());
    }

    #[tokio::test(start_paused = true)]
    async fn the_lag_of_a_replica_is_measured_in_bytes_and_in_time() {
        let lag = Lag::new(Duration::from_secs(10));
        assert_eq!(lag.behind(&at(1, 5)), None, "the primary is not known");
        for position in [100, 200, 300] {
            lag.observe(at(1, position));
            advance(Duration::from_secs(1)).await;
        }
        let of = |position| lag.behind(&at(1, position)).map(|lag| (lag.bytes, lag.time.as_secs()));
        assert_eq!(of(300), Some((0, 0)));
        assert_eq!(
            of(301),
            Some((0, 0)),
            "it has replayed a position that the node has not received yet"
        );
        assert_eq!(of(250), Some((50, 1)));
        assert_eq!(of(99), Some((201, 3)));
        assert_eq!(lag.behind(&at(2, 300)), None, "of another history");
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_failover_only_the_new_epoch_is_required() {
        let lag = Lag::new(Duration::from_secs(10));
        lag.observe(at(1, 1000));
        advance(Duration::from_secs(20)).await;
        lag.observe(at(2, 5));
        assert_eq!(lag.needs(), Some(at(2, 0).reached()), "but its history does");
    }
}
