//! The rules of the protocol, as functions of plain numbers.
//!
//! Both the cache and the model that explores the protocol (`crates/tidegate-model`) use these functions to
//! decide whether an entry is fresh, so the two can't diverge. `docs/design.md`, section 2, has the argument for each.

#![cfg_attr(
    not(feature = "__internals"),
    allow(unreachable_pub, reason = "only the model of the protocol reaches it")
)]

use crate::broken::is_broken;
#[cfg(any(feature = "postgres", feature = "__internals"))]
use crate::entry::Epoch;
use crate::entry::{LogPosition, Position};

/// What the fences say about an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The entry includes every change that this node knows of to anything that the entry depends on.
    Valid,
    /// Something that the entry depends on may have changed since.
    Fenced,
    /// The entry's position belongs to another history: another cluster, or the time before a failover or a crash.
    OldEpoch,
}

/// **An entry is valid iff its epoch is the current one and its `as_of` is at or past the fence of
/// each of its tags.** `entry` has the entry's epoch and its `as_of`; `fence` has the current epoch and the largest of the
/// fences.
pub fn verdict(entry: LogPosition, fence: LogPosition) -> Verdict {
    if !fence.epoch.is_known() || (entry.epoch != fence.epoch && !is_broken("epoch")) {
        Verdict::OldEpoch
    } else if entry.position < fence.position && !is_broken("fence") {
        Verdict::Fenced
    } else {
        Verdict::Valid
    }
}

/// What a read of the primary proves that begins after its log was seen to reach `seen`.
///
/// It proves everything that ended before `seen`. A commit that ends exactly at `seen` may be in the log and not visible
/// yet. A commit that the read missed becomes visible later, and its fence is taken even later.
#[must_use]
pub fn proven_by_primary(seen: Position) -> Position {
    if is_broken("as-of") { seen } else { seen.before() }
}

/// What a read of a replica proves that begins after the same server had replayed up to `replayed`, and that was
/// planned after the primary was seen to reach `seen`.
///
/// On a standby, a transaction is visible as soon as its commit is replayed. But a read past `seen` may run under a schema
/// that this node does not know yet, and so depend on other things than it was planned for.
#[cfg(any(feature = "postgres", feature = "__internals"))]
#[must_use]
pub fn proven_by_replica(replayed: Position, seen: Position) -> Position {
    replayed.min(proven_by_primary(seen))
}

/// Whether a waiting request may be served an entry that was computed for another one, although something that the entry
/// depends on has changed since. `since` is the position that the node had seen on the primary when the request arrived.
/// Every fence that the node knew then is at or before `since`, so an entry whose `as_of` is at or past it includes all
/// changes that were known then, and a response need not include more.
#[must_use]
pub fn has_all_since(entry: LogPosition, since: LogPosition) -> bool {
    entry.epoch.is_known() && entry.has_reached(since)
}

/// What two reads prove together: the smaller position. `None` if they belong to different epochs.
pub fn proven_by_both(one: LogPosition, other: LogPosition) -> Option<LogPosition> {
    (one.epoch == other.epoch)
        .then(|| LogPosition::new(one.epoch, one.position.min(other.position)))
}

/// What a computation proves that uses a stored entry: `outer` is what its reads have proved so far, and `inner` is the
/// entry's basis. `None` if they prove nothing together: they belong to different epochs, or the entry was served stale and
/// so lacks known changes.
pub fn proven_with_inner(
    outer: Option<LogPosition>,
    inner: LogPosition,
    is_stale: bool,
) -> Option<LogPosition> {
    if is_stale {
        return None;
    }
    outer.map_or(Some(inner), |outer| proven_by_both(outer, inner))
}

/// The position that a read must see if the session has written up to `session` and the request itself has written before
/// `written`, a position that was seen on the primary after the write. If the two belong to different epochs, the session's
/// epoch is over.
pub fn must_see(session: Option<LogPosition>, written: Option<LogPosition>) -> Option<LogPosition> {
    match (session, written) {
        (Some(session), Some(written)) if session.epoch == written.epoch => {
            Some(LogPosition::new(written.epoch, written.position.max(session.position)))
        }
        (session, None) => session,
        (_, written) => written,
    }
}

/// Whether what a server proves is enough for a read that needs everything up to `needs`: in the epoch of `needs`, or in
/// any epoch if that one is unknown.
#[cfg(any(feature = "postgres", feature = "__internals"))]
pub fn is_far_enough(proven: LogPosition, needs: LogPosition) -> bool {
    (!needs.epoch.is_known() || proven.epoch == needs.epoch)
        && (proven.position >= needs.position || is_broken("replica"))
}

/// Whether a node knows all of a session's writes: `followed` is a position that was seen on the primary before the node's
/// last drain began, and `session` is one that was seen after the write.
///
/// `followed` must be greater than `session`: then the drain began after the session saw its position, and so after its
/// write was visible. If the two are equal, the drain may have begun before that, when the log was idle, with the commit
/// record at its end and the commit not visible yet. The position at the end of a drain proves nothing: it may be past what
/// the drain saw, by any distance.
///
/// A position of another epoch was made meaningless by a failover or a crash, or belongs to an epoch that the node does not
/// know yet.
pub fn has_followed(followed: Option<LogPosition>, session: LogPosition) -> bool {
    followed.is_some_and(|followed| {
        followed.epoch == session.epoch && followed.position > session.position
    }) || is_broken("session")
}

/// What a batch of changes from another node adds to this node's knowledge.
#[cfg(any(feature = "postgres", feature = "__internals"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relayed {
    /// A change before the batch was missed, or the batch belongs to another epoch.
    Gap,
    /// The batch continues what this node knows, without a gap.
    New,
    /// The batch contains only known changes.
    Known,
}

/// Classifies a batch of all changes that became visible between two snapshots in the epoch `epochs.1`, for a node in
/// the epoch `epochs.0`. `before` and `after` say whether the node knows everything that the first and the second
/// snapshot show.
#[cfg(any(feature = "postgres", feature = "__internals"))]
pub fn relayed(epochs: (Epoch, Epoch), (before, after): (bool, bool)) -> Relayed {
    if epochs.0 != epochs.1 || !(before || after) {
        Relayed::Gap
    } else if after {
        Relayed::Known
    } else {
        Relayed::New
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Epoch;

    fn at(epoch: u64, position: u64) -> LogPosition {
        LogPosition::new(Epoch::new(epoch), Position::new(position))
    }

    fn judge(as_of: u64, fence: u64) -> Verdict {
        verdict(at(1, as_of), at(1, fence))
    }

    #[test]
    fn as_of_must_reach_the_fence() {
        assert_eq!(judge(9, 10), Verdict::Fenced);
        assert_eq!(judge(10, 10), Verdict::Valid);
        assert_eq!(judge(11, 10), Verdict::Valid);
    }

    #[test]
    fn positions_of_another_epoch_prove_nothing() {
        assert_eq!(verdict(at(2, u64::MAX), at(1, 0)), Verdict::OldEpoch);
    }

    #[test]
    fn nothing_is_valid_while_the_epoch_is_unknown() {
        let unknown = |position| LogPosition::new(Epoch::UNKNOWN, position);
        let (entry, fence) = (unknown(Position::MAX), unknown(Position::ZERO));
        assert_eq!(verdict(entry, fence), Verdict::OldEpoch);
    }

    #[test]
    fn two_reads_prove_the_lower_position_and_nothing_across_epochs() {
        assert_eq!(proven_by_both(at(1, 7), at(1, 5)), Some(at(1, 5)));
        assert_eq!(proven_by_both(at(1, 7), at(2, 5)), None);
    }

    #[test]
    fn an_outer_response_proves_no_more_than_the_inner_ones_that_it_uses() {
        assert_eq!(proven_with_inner(None, at(1, 5), false), Some(at(1, 5)));
        assert_eq!(proven_with_inner(Some(at(1, 7)), at(1, 5), false), Some(at(1, 5)));
        assert_eq!(proven_with_inner(Some(at(1, 7)), at(2, 9), false), None);
        assert_eq!(proven_with_inner(Some(at(1, 7)), at(1, 9), true), None);
    }

    #[test]
    fn a_request_must_see_the_writes_of_its_session_and_its_own() {
        let at = |epoch, position| Some(at(epoch, position));
        assert_eq!(must_see(at(1, 7), None), at(1, 7));
        assert_eq!(must_see(None, at(1, 5)), at(1, 5));
        assert_eq!(must_see(at(1, 7), at(1, 5)), at(1, 7));
        assert_eq!(must_see(at(1, 7), at(2, 5)), at(2, 5));
    }

    #[test]
    fn a_node_has_followed_a_session_only_past_the_sessions_position() {
        assert!(!has_followed(Some(at(1, 7)), at(1, 7)));
        assert!(has_followed(Some(at(1, 8)), at(1, 7)));
        assert!(!has_followed(Some(at(2, 8)), at(1, 7)));
        assert!(!has_followed(None, at(1, 0)));
    }

    #[cfg(any(feature = "postgres", feature = "__internals"))]
    #[test]
    fn a_server_must_be_of_the_required_epoch_if_that_is_known() {
        let far = at(2, 9);
        assert!(is_far_enough(far, at(2, 9)));
        assert!(!is_far_enough(far, at(2, 10)));
        assert!(!is_far_enough(far, at(1, 1)));
        assert!(is_far_enough(far, LogPosition::new(Epoch::UNKNOWN, Position::new(1))));
    }
}
