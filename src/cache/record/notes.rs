//! What a record has noted.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::proof::mixed_epochs;
use crate::cache::protocol::proven_with_inner;
use crate::cache::uncacheable::Uncacheable;
use crate::clock::Instant;
use crate::entry::{LogPosition, Tag};

/// The reason for a response that contains a part that was served stale.
pub(super) const STALE_PART: &str = "stale-part";

const WROTE: &str = "the handler wrote to the database";

/// The most tags of a stored response, since each hit checks all of them.
const TAGS_MAX: usize = 10_000;

/// What the work in one scope has read and written so far.
#[derive(Clone, Debug, Default)]
pub(super) struct RecordNotes {
    pub(super) reads: u32,
    /// Declared reads that have not ended.
    pub(super) open_reads: u32,
    pub(super) wrote: bool,
    pub(super) as_of: Option<LogPosition>,
    pub(super) tags: BTreeSet<Tag>,
    /// Why it is not known what the response depends on.
    pub(super) uncacheable: Option<Uncacheable>,
    /// Why it may be stored under no policy: the application has said so, or tags are missing.
    pub(super) excluded: Option<Uncacheable>,
    pub(super) server: Option<Arc<str>>,
    pub(super) passed_over: Option<&'static str>,
    pub(super) caveats: Caveats,
    /// The response has a part with unknown dependencies, not even its policy's tags.
    pub(super) has_unknown_part: bool,
    /// A read depends on the time of day.
    pub(super) reads_clock: bool,
    /// The earliest expiry of the parts that only a TTL bounds.
    pub(super) until: Option<Instant>,
}

/// What `Cache-Status` reports about a response even if another reason keeps it from being stored.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Caveats {
    /// A part was served stale.
    pub(super) stale: bool,
    /// A part was read from a replica that may be too far behind.
    pub(super) behind: bool,
}

impl RecordNotes {
    /// Adds what a read or a part depends on, and the position up to which it includes changes of that.
    pub(super) fn depend(&mut self, basis: LogPosition, tags: &[Tag]) {
        self.add(tags);
        match proven_with_inner(self.as_of, basis, false) {
            Some(together) => self.as_of = Some(together),
            None => drop(self.uncacheable.get_or_insert_with(mixed_epochs)),
        }
    }

    /// Adds tags, up to a bound, since an endless stream may read without end.
    pub(super) fn add(&mut self, tags: &[Tag]) {
        if self.tags.len() < TAGS_MAX {
            self.tags.extend(tags);
        } else if tags.iter().any(|tag| !self.tags.contains(tag)) {
            let why = || format!("it depends on more than {TAGS_MAX} rows and tables");
            // Also under an untracked policy: without a tag, the response would not be invalidated by it.
            self.excluded.get_or_insert_with(|| Uncacheable::new("too-many-tags", why()));
        }
    }

    /// Checks what forbids storing the response under any policy.
    pub(super) fn is_fit(&self) -> Result<(), Uncacheable> {
        if let Some(excluded) = &self.excluded {
            return Err(excluded.clone());
        }
        if self.wrote {
            // The reason that was recorded with the write is more specific.
            return Err(self
                .uncacheable
                .clone()
                .unwrap_or_else(|| Uncacheable::new("wrote", WROTE)));
        }
        if self.caveats.stale {
            let why = "it contains a value or a response that was served stale";
            return Err(Uncacheable::new(STALE_PART, why));
        }
        if self.has_unknown_part {
            let why = "it contains a response whose dependencies are unknown: either that response's service ran in \
                       another task, such as that of \
                       tower::buffer (call it in the handler's task, or with Record::carry), or its tags could not be \
                       read";
            return Err(Uncacheable::new("unknown-part", why));
        }
        Ok(())
    }
}
