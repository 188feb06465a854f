//! The counts of one thread, and their sum over all threads.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::cache_status::{Cached, Reason};
use super::response::Head;
use crate::Failure;

/// The largest latency that is recorded, in nanoseconds; longer ones count as this.
const LONGEST: u64 = 600_000_000_000;

/// Significant digits of a recorded latency.
const DIGITS: u8 = 3;

/// Why a request got no response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    Connecting,
    ClosedBefore,
    ClosedMidway,
    NotHttp,
    NoResponse,
}

impl Failed {
    pub(super) const ALL: [Self; 5] =
        [Self::Connecting, Self::ClosedBefore, Self::ClosedMidway, Self::NotHttp, Self::NoResponse];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Connecting => "can't connect",
            Self::ClosedBefore => "closed before the response",
            Self::ClosedMidway => "closed in the middle of the response",
            Self::NotHttp => "not an HTTP/1 response",
            Self::NoResponse => "no response",
        }
    }
}

#[derive(Debug)]
pub(super) struct Tally {
    /// In nanoseconds.
    pub(super) latency: Histogram<u64>,
    /// Indexed by status code.
    pub(super) statuses: Box<[u64; 1000]>,
    pub(super) hits: u64,
    pub(super) unsaid: u64,
    pub(super) forwarded: [u64; Reason::COUNT],
    pub(super) failures: [u64; Failed::ALL.len()],
    pub(super) bytes: u64,
    pub(super) sent: u64,
    /// Requests that were due but not sent, because all connections were busy.
    pub(super) missed: u64,
    /// Connections that the server closed between responses and that were reopened.
    pub(super) reopened: u64,
    /// The time from the start to the last response.
    pub(super) took: Duration,
}

impl Tally {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LONGEST, DIGITS)?,
            statuses: Box::new([0; 1000]),
            hits: 0,
            unsaid: 0,
            forwarded: [0; Reason::COUNT],
            failures: [0; Failed::ALL.len()],
            bytes: 0,
            sent: 0,
            missed: 0,
            reopened: 0,
            took: Duration::ZERO,
        })
    }

    pub(super) fn completed(&mut self, head: Head, bytes: u64, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
        self.statuses[usize::from(head.status).min(999)] += 1;
        self.bytes += bytes;
        match head.cached {
            Cached::Hit => self.hits += 1,
            Cached::Unsaid => self.unsaid += 1,
            Cached::Forwarded(reason) => self.forwarded[reason.index()] += 1,
        }
    }

    pub(super) fn failed(&mut self, failed: Failed) {
        self.failures[failed as usize] += 1;
    }

    pub(super) fn responses(&self) -> u64 {
        self.latency.len()
    }

    /// The number of requests that got a response or failed.
    pub(super) fn ended(&self) -> u64 {
        self.responses() + self.failures.iter().sum::<u64>()
    }

    /// Counts every request that is still waiting as a failure.
    pub(super) fn give_up(&mut self) {
        self.failures[Failed::NoResponse as usize] += self.sent - self.ended();
    }

    pub(super) fn add(&mut self, other: &Self) -> Result<(), Failure> {
        self.latency.add(&other.latency)?;
        add(&mut *self.statuses, &*other.statuses);
        add(&mut self.forwarded, &other.forwarded);
        add(&mut self.failures, &other.failures);
        self.hits += other.hits;
        self.unsaid += other.unsaid;
        self.bytes += other.bytes;
        self.sent += other.sent;
        self.missed += other.missed;
        self.reopened += other.reopened;
        self.took = self.took.max(other.took);
        Ok(())
    }
}

fn add(all: &mut [u64], more: &[u64]) {
    all.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}
