//! Times that a node reports and the checker compares with its own.

use nix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Attempts to read both clocks of [`Monotonic`] with nothing in between.
const ATTEMPTS: usize = 32;

/// Nanoseconds of `CLOCK_MONOTONIC`, which all processes of a machine share; 0 if it can't be read.
pub(crate) fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).ok();
    let nanos = now.and_then(|now| {
        let seconds = u64::try_from(now.tv_sec()).ok()?.checked_mul(1_000_000_000)?;
        seconds.checked_add(u64::try_from(now.tv_nsec()).ok()?)
    });
    nanos.unwrap_or(0)
}

/// Converts nanoseconds of `CLOCK_MONOTONIC` to an [`Instant`], whose number is private to the standard library.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Monotonic {
    at: Instant,
    nanos: u64,
}

impl Monotonic {
    /// Each attempt reads the `Instant` first, so converted times are early by the time between the two readings. The
    /// attempt with the smallest difference is used. An early time makes the check weaker, never wrong.
    pub(crate) fn new() -> Self {
        let attempt = || Self { at: Instant::now(), nanos: monotonic_nanos() };
        let first = attempt();
        (0..ATTEMPTS).map(|_| attempt()).fold(first, |best, next| {
            if next.instant(first.nanos) > best.instant(first.nanos) { next } else { best }
        })
    }

    pub(crate) fn instant(&self, nanos: u64) -> Instant {
        let later = nanos.checked_sub(self.nanos).map(std::time::Duration::from_nanos);
        let earlier = std::time::Duration::from_nanos(self.nanos.saturating_sub(nanos));
        let moved = match later {
            Some(later) => self.at.checked_add(later),
            None => self.at.checked_sub(earlier),
        };
        moved.unwrap_or(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_converted_moment_lies_between_readings_of_the_other_clock() {
        let clock = Monotonic::new();
        let tolerance = std::time::Duration::from_millis(1);
        for _ in 0..100 {
            let before = Instant::now();
            let converted = clock.instant(monotonic_nanos());
            assert!(converted <= Instant::now(), "a late moment would demand too much");
            assert!(converted + tolerance >= before, "an early one would demand too little");
        }
        assert_eq!(clock.instant(clock.nanos), clock.at);
        assert!(clock.instant(clock.nanos - 1) < clock.at);
    }
}
