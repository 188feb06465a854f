//! Reads and lookups in no scope: any response that is computed at the same time may contain what they return.
//!
//! Both ends of each are counted. A record is fit only if no more have begun by its end than had ended when it opened:
//! then none was under way when it opened, and none has begun since. A read that began before and ended within would
//! otherwise bring in rows that the record has no tags of.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{CURRENT, Record};

/// Work of one kind that is in no scope, in this process.
#[derive(Debug)]
struct Strays {
    begun: AtomicU64,
    ended: AtomicU64,
}

static READS: Strays = Strays::new();
static LOOKUPS: Strays = Strays::new();

/// A read or a lookup in no scope; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Stray(&'static Strays);

/// How many reads and lookups in no scope had ended at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndedStrays {
    reads: u64,
    lookups: u64,
    /// The lookup in no scope that the work is part of is counted as well, though it goes on.
    counts_own: bool,
}

impl Strays {
    const fn new() -> Self {
        Self { begun: AtomicU64::new(0), ended: AtomicU64::new(0) }
    }

    fn begin(&'static self) -> Stray {
        self.begun.fetch_add(1, Ordering::SeqCst);
        Stray(self)
    }
}

impl Stray {
    /// Begins a read, if it is in no scope.
    pub(crate) fn read() -> Option<Self> {
        is_in_no_scope().then(|| READS.begin())
    }

    /// Begins a lookup, if it is in no scope.
    pub(crate) fn lookup() -> Option<Self> {
        is_in_no_scope().then(|| LOOKUPS.begin())
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::SeqCst);
    }
}

fn is_in_no_scope() -> bool {
    CURRENT.try_with(|_| ()).is_err()
}

impl EndedStrays {
    /// As of now, for work in the present scope.
    pub(crate) fn now() -> Self {
        Self::within(None)
    }

    /// As of now, for what is computed by a lookup; with its mark if it is in no scope.
    pub(crate) fn within(lookup: Option<&Stray>) -> Self {
        let is_within = |record: &Record| record.0.strays.counts_own;
        let counts_own = lookup.is_some() || CURRENT.try_with(is_within).unwrap_or(false);
        let ended = |strays: &Strays| strays.ended.load(Ordering::SeqCst);
        let lookups = ended(&LOOKUPS) + u64::from(counts_own);
        Self { reads: ended(&READS), lookups, counts_own }
    }

    /// Whether no read was under way then, and none has begun since.
    fn has_no_read_since(self) -> bool {
        READS.begun.load(Ordering::SeqCst) == self.reads
    }

    /// The same for lookups.
    fn has_no_lookup_since(self) -> bool {
        LOOKUPS.begun.load(Ordering::SeqCst) == self.lookups
    }
}

impl Record {
    /// Whether a read or a lookup in no scope may have been part of the work. A lookup counts only where a request or a
    /// job may have spawned its task.
    pub(super) fn may_hold_strays(&self) -> bool {
        let ended = self.0.strays;
        !ended.has_no_read_since() || self.0.is_rooted && !ended.has_no_lookup_since()
    }
}
