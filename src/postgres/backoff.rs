//! Pauses between attempts that fail.

use std::time::Duration;

/// An attempt that lasted for this many times the longest pause counts as a success.
const LASTING: u32 = 10;

/// A pause that doubles from one failed attempt to the next, up to a longest one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(crate) const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The pause before the next attempt.
    pub(crate) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// The same, or up to half as long: nodes that have lost the same server do not all come back at once.
    pub(crate) fn jittered(&mut self) -> Duration {
        self.pause().mul_f64(1.0 - fastrand::f64() / 2.0)
    }

    /// Begins anew: the last attempt succeeded.
    pub(crate) const fn reset(&mut self) {
        self.next = self.first;
    }

    /// Begins anew if the last attempt lasted. A connection that opens and fails at once is no success.
    pub(crate) fn ended_after(&mut self, lasted: Duration) {
        if lasted >= self.longest * LASTING {
            self.reset();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_restart_after_a_lasting_attempt() {
        let ms = Duration::from_millis;
        let mut backoff = Backoff::new(ms(10), ms(50));
        let mut pauses = |lasted| {
            backoff.ended_after(lasted);
            backoff.pause()
        };
        assert_eq!([1, 2, 3, 4].map(|n| pauses(ms(n))), [10, 20, 40, 50].map(ms));
        assert_eq!([pauses(ms(499)), pauses(ms(500)), pauses(ms(0))], [50, 10, 20].map(ms));
        backoff.reset();
        assert_eq!(backoff.pause(), ms(10));
    }
}
