//! When each request may be sent.

use std::cell::Cell;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// Timers fire up to a millisecond late, which is longer than many responses take. So the last part of each wait is
/// spent polling the clock.
const AWAKE: Duration = Duration::from_millis(2);

/// When the load ends, and its rate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) duration: Option<Duration>,
    pub(super) requests: Option<u64>,
    /// Requests a second.
    pub(super) rate: Option<f64>,
    /// Give up if no request ends for this long.
    pub(super) patience: Duration,
}

impl Bounds {
    /// One thread's share of the load.
    pub(super) fn share(&self, thread: u64, threads: u64) -> Self {
        let part = |all: u64| all / threads + u64::from(thread < all % threads);
        #[expect(clippy::cast_precision_loss, reason = "there are few threads")]
        let rate = self.rate.map(|rate| rate / threads as f64);
        Self { requests: self.requests.map(part), rate, ..*self }
    }
}

/// One request that may be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Its index, from 0.
    pub(super) number: u64,
    /// When it was due. Latency is measured from this moment.
    pub(super) due: Instant,
}

/// The turns of one thread's connections.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) began: Instant,
    ends: Option<Instant>,
    most: u64,
    /// Seconds between two turns, if there is a rate.
    between: Option<f64>,
    taken: Cell<u64>,
    /// With a rate: the number of turns that have become due.
    due: Cell<u64>,
    /// Due turns that no connection has taken yet.
    waiting: Semaphore,
}

impl Pace {
    pub(super) fn new(bounds: &Bounds) -> Self {
        let began = Instant::now();
        Self {
            began,
            ends: bounds.duration.and_then(|duration| began.checked_add(duration)),
            most: bounds.requests.unwrap_or(u64::MAX),
            between: bounds.rate.map(f64::recip),
            taken: Cell::new(0),
            due: Cell::new(0),
            waiting: Semaphore::new(0),
        }
    }

    /// The next turn, once it is due; none at the end.
    pub(super) async fn next(&self) -> Option<Turn> {
        let Some(between) = self.between else { return self.at_once() };
        self.waiting.acquire().await.ok()?.forget();
        let number = self.take();
        Some(Turn { number, due: self.began + seconds(number, between) })
    }

    fn at_once(&self) -> Option<Turn> {
        let due = Instant::now();
        let may = self.taken.get() < self.most && !self.is_over(due);
        may.then(|| Turn { number: self.take(), due })
    }

    /// Turns that were due while no connection was free.
    pub(super) fn missed(&self) -> u64 {
        self.due.get().saturating_sub(self.taken.get())
    }

    /// With a rate, makes turns due until the end.
    pub(super) async fn keep(&self) {
        let Some(between) = self.between else { return };
        while self.due.get() < self.most {
            let now = Instant::now();
            let next = self.began + seconds(self.due.get(), between);
            if self.is_over(next.max(now)) {
                return self.end().await;
            }
            if next <= now {
                self.due.set(self.due.get() + 1);
                self.waiting.add_permits(1);
            } else if next - now > AWAKE {
                sleep_until(next - AWAKE).await;
            } else {
                yield_now().await;
            }
        }
    }

    async fn end(&self) {
        if let Some(ends) = self.ends {
            sleep_until(ends).await;
        }
        self.waiting.close();
    }

    fn is_over(&self, now: Instant) -> bool {
        self.ends.is_some_and(|ends| now >= ends)
    }

    fn take(&self) -> u64 {
        let number = self.taken.get();
        self.taken.set(number + 1);
        if number + 1 == self.most {
            self.waiting.close();
        }
        number
    }
}

#[expect(clippy::cast_precision_loss, reason = "exact for 2⁵³ requests")]
fn seconds(number: u64, between: f64) -> Duration {
    Duration::try_from_secs_f64(number as f64 * between).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds =
        Bounds { duration: None, requests: None, rate: None, patience: Duration::from_secs(1) };

    #[test]
    fn the_shares_of_the_threads_add_up_to_the_whole_load() {
        let bounds = Bounds { requests: Some(11), rate: Some(9.0), ..BOUNDS };
        let shares: Vec<_> = (0..3).map(|thread| bounds.share(thread, 3)).collect();
        assert!(shares.iter().map(|share| share.requests).eq([Some(4), Some(4), Some(3)]));
        assert_eq!(shares[2].rate, Some(3.0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_the_load_ends_after_its_request_count() {
        let pace = Pace::new(&Bounds { requests: Some(2), ..BOUNDS });
        pace.keep().await;
        assert_eq!(pace.next().await.map(|turn| turn.number), Some(0));
        assert_eq!(pace.next().await.map(|turn| turn.number), Some(1));
        assert!(pace.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_the_load_ends_after_its_duration() {
        let pace = Pace::new(&Bounds { duration: Some(Duration::from_secs(3)), ..BOUNDS });
        assert!(pace.next().await.is_some());
        tokio::time::advance(Duration::from_secs(3)).await;
        assert!(pace.next().await.is_none());
    }

    /// The paused clock does not advance while a task polls it, so each turn is due at once or after a timer.
    #[tokio::test(start_paused = true)]
    async fn the_latency_of_a_late_request_counts_from_its_due_time() {
        let bounds = Bounds { rate: Some(4.0), requests: Some(5), ..BOUNDS };
        let pace = Pace::new(&bounds);
        tokio::time::advance(Duration::from_secs(2)).await;
        pace.keep().await;
        assert_eq!(pace.missed(), 5);
        for number in 0..5 {
            let turn = pace.next().await.unwrap();
            assert_eq!(turn.number, number);
            assert_eq!(turn.due - pace.began, Duration::from_millis(250 * number));
        }
        assert!(pace.next().await.is_none(), "the last closes it");
        assert_eq!(pace.missed(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn turns_that_no_connection_took_are_counted_as_missed() {
        let half = Duration::from_millis(500);
        let pace = Pace::new(&Bounds { rate: Some(1000.0), duration: Some(half), ..BOUNDS });
        tokio::time::advance(Duration::from_millis(499)).await;
        let rest = async {
            yield_now().await;
            tokio::time::advance(Duration::from_millis(1)).await;
        };
        tokio::join!(pace.keep(), rest);
        assert_eq!(pace.missed(), 500);
        assert!(pace.next().await.is_none());
    }
}
