//! A node's sync requests to the relay. A response confirms the node as of the time when the request was sent.

use std::collections::VecDeque;
use std::time::Duration;

use crate::clock::{self, Instant, Moment};

/// The interval between sync requests. Together with the relay's response time, it is the δ of a node that follows a relay.
const EVERY: Duration = Duration::from_millis(300);

/// A relay that takes longer to respond, or to report that it is still polling the log, is considered lost.
const RESPOND_WITHIN: Duration = Duration::from_secs(1);

/// The longest that a relay may take to respond, even if it reports that it is still polling.
const LONGEST: Duration = Duration::from_secs(3);

/// The maximum number of pending sync requests. Sessions that arrive meanwhile share the next one.
const AT_ONCE: usize = 2;

#[derive(Debug)]
pub(super) struct SyncRequests {
    open: VecDeque<PendingSync>,
    next: Instant,
    /// When the relay last reported that it is still polling the log.
    polling: Option<Instant>,
}

/// A pending sync request.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingSync {
    pub(super) nonce: u64,
    pub(super) sent: Moment,
    pub(super) poll: u64,
}

impl SyncRequests {
    pub(super) fn new() -> Self {
        Self { open: VecDeque::new(), next: clock::now(), polling: None }
    }

    /// Removes the pending requests; the next one is due at once.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }

    /// Whether there is room for one more.
    pub(super) fn has_room(&self) -> bool {
        self.open.len() < AT_ONCE
    }

    /// When to act next: when the oldest pending request times out, or else when the next one is due.
    pub(super) fn wake(&self) -> Instant {
        self.open.front().map_or(self.next, |oldest| self.times_out(oldest))
    }

    fn times_out(&self, pending: &PendingSync) -> Instant {
        let sent = pending.sent.at;
        let last = self.polling.map_or(sent, |polling| polling.max(sent));
        (last + RESPOND_WITHIN).min(sent + LONGEST)
    }

    /// Records that the relay is still polling the log: many nodes that poll it too would only make that slower.
    pub(super) fn wait_longer(&mut self) {
        self.polling = Some(clock::now());
    }

    /// Whether a response is overdue.
    pub(super) fn are_overdue(&self) -> bool {
        self.open.front().is_some_and(|oldest| self.times_out(oldest) <= clock::now())
    }

    /// Adds a request that is about to be sent, and returns the nonce that its response will carry.
    pub(super) fn add(&mut self, poll: u64) -> u64 {
        let (nonce, sent) = (fastrand::u64(..), clock::moment());
        self.open.push_back(PendingSync { nonce, sent, poll });
        self.next = sent.at + EVERY;
        nonce
    }

    /// Takes the latest pending request among `nonces`, if there is one. The older ones are complete too.
    pub(super) fn complete(&mut self, nonces: &[u64]) -> Option<PendingSync> {
        let latest = self.open.iter().rposition(|open| nonces.contains(&open.nonce))?;
        self.open.drain(..=latest).next_back()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reply_counts_from_when_its_sync_request_was_sent() {
        let mut requests = SyncRequests::new();
        assert!(requests.wake() <= clock::now(), "the first is due at once");
        let began = clock::now();
        let first = requests.add(1);
        advance(Duration::from_millis(100)).await;
        let second = requests.add(2);
        assert!(!requests.has_room());
        assert!(requests.complete(&[first ^ second]).is_none());
        let completed = requests.complete(&[first]).unwrap();
        assert_eq!((completed.sent.at, completed.poll), (began, 1));
        assert!(requests.complete(&[first]).is_none(), "once");
        assert_eq!(requests.complete(&[7, second]).unwrap().poll, 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_to_a_later_sync_request_settles_all_earlier_ones() {
        let mut requests = SyncRequests::new();
        let _lost = requests.add(1);
        let second = requests.add(2);
        assert_eq!(requests.complete(&[second]).unwrap().poll, 2);
        assert!(requests.has_room() && !requests.are_overdue());
        advance(2 * RESPOND_WITHIN).await;
        assert!(!requests.are_overdue());
    }

    #[tokio::test(start_paused = true)]
    async fn a_sync_request_without_a_reply_is_detected() {
        let mut requests = SyncRequests::new();
        requests.add(1);
        advance(RESPOND_WITHIN / 2).await;
        assert!(!requests.are_overdue());
        advance(RESPOND_WITHIN / 2).await;
        assert!(requests.are_overdue() && requests.wake() <= clock::now());
    }

    #[tokio::test(start_paused = true)]
    async fn a_relay_that_is_still_polling_gets_more_but_not_unlimited_time() {
        let mut requests = SyncRequests::new();
        requests.add(1);
        for _ in 0..5 {
            advance(RESPOND_WITHIN / 2).await;
            requests.wait_longer();
            assert!(!requests.are_overdue());
        }
        advance(RESPOND_WITHIN / 2).await;
        requests.wait_longer();
        assert!(requests.are_overdue());
    }
}
