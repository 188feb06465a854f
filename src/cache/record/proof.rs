//! What finished work proves.

use crate::cache::fence::Fences;
use crate::cache::protocol::{self, proven_by_both};
use crate::cache::uncacheable::Uncacheable;
use crate::entry::{LogPosition, Tag};

/// The basis and the tags that the finished work has proved.
#[derive(Clone, Debug)]
pub(crate) struct RecordProof {
    pub(crate) basis: LogPosition,
    pub(crate) tags: Box<[Tag]>,
}

/// The basis and the tags that a response would have had if it were stored.
#[derive(Debug)]
pub(crate) struct SimulatedProof {
    pub(super) began: LogPosition,
    pub(super) tags: Box<[Tag]>,
}

impl SimulatedProof {
    /// Whether it would be served.
    pub(crate) fn is_valid(&self, fences: &Fences) -> bool {
        let now = LogPosition::new(fences.epoch(), fences.newest_of(&self.tags));
        protocol::verdict(self.began, now) == protocol::Verdict::Valid
    }
}

/// The lower of what the reads prove and what was known when the work began.
pub(super) fn lower(
    read: Option<LogPosition>,
    began: Option<LogPosition>,
) -> Result<Option<LogPosition>, Uncacheable> {
    match (read, began) {
        (Some(read), Some(began)) => proven_by_both(read, began).map(Some).ok_or_else(mixed_epochs),
        (_, began) => Ok(began),
    }
}

/// What a read of the primary proves if it begins now.
pub(super) fn proven_by_primary(fences: &Fences) -> Option<LogPosition> {
    let seen = fences.seen()?;
    Some(LogPosition::new(seen.epoch, protocol::proven_by_primary(seen.position)))
}

pub(super) fn no_position() -> Uncacheable {
    Uncacheable::new(
        "no-position",
        "it is unknown how far this node has followed the database's changes",
    )
}

pub(super) fn mixed_epochs() -> Uncacheable {
    Uncacheable::new("mixed-epochs", "its reads were on different sides of a failover")
}
